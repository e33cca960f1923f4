# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers for tests: each has a network namespace (where those are allowed), an sshd and a tandemfs."""

import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("TANDEMFS", str(ROOT / "build" / "tandemfs"))
FAULTS = os.environ.get("TANDEMFS_FAULTS_BINARY", str(ROOT / "build-faults" / "tandemfs"))
SECONDS = 30
BAD = re.compile(r" error: |Sanitizer|runtime error")


def run(*args, check=True, timeout=120, **kwargs):
    return subprocess.run([str(a) for a in args], check=check, timeout=timeout,
                          capture_output=True, text=True, **kwargs)


def wait_for(what, condition, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.02)


def free_port(net):
    """A port that is free now; in a namespace of its own any will do."""
    if net:
        free_port.next += 1
        return free_port.next
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


free_port.next = 2200


MNT_FORCE, MNT_DETACH = 1, 2


def umount(path, flags):
    """umount2(2) by itself: a child process would first close what this one has open on the mount, and
    wait for a daemon that is dead. Nothing mounted is fine."""
    ctypes.CDLL(None).umount2(str(path).encode(), flags)


class Network:
    """Two namespaces and a wire; loopback where they cannot be made."""

    made = 0

    def __init__(self):
        Network.made += 1
        tag = f"tdm{os.getpid() % 100000}x{Network.made}"
        subnet = f"10.{200 + os.getpid() // 250 % 50}.{os.getpid() % 250}"
        self.names = [f"{tag}a", f"{tag}b"]
        self.addresses = [f"{subnet}.1", f"{subnet}.2"]
        self.real = False
        try:
            for n in self.names:
                run("ip", "netns", "add", n)
            run("ip", "link", "add", "v0", "netns", self.names[0], "type", "veth",
                "peer", "name", "v0", "netns", self.names[1])
            for n, address in zip(self.names, self.addresses):
                run("ip", "-n", n, "addr", "add", f"{address}/24", "dev", "v0")
                run("ip", "-n", n, "link", "set", "v0", "up")
                run("ip", "-n", n, "link", "set", "lo", "up")
            self.real = True
        except (subprocess.CalledProcessError, FileNotFoundError):
            self.remove()
            self.names = [None, None]
            self.addresses = ["127.0.0.1", "127.0.0.1"]

    def remove(self):
        for n in self.names:
            if n:
                run("ip", "netns", "delete", n, check=False)


def in_net(net, *args):
    return ["nsenter", f"--net=/run/netns/{net}", *args] if net else list(args)


def signal_all(pids, number):
    """To those that are still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


class Proxy:
    """Between a server and its peer; runs in the server's namespace."""

    def __init__(self, top, net, host, port):
        self.port = free_port(net)
        self.path = str(top / f"proxy{self.port}")
        script = pathlib.Path(__file__).with_name("proxy.py")
        self.process = subprocess.Popen(in_net(net, sys.executable, str(script), str(self.port),
                                               host, str(port), self.path))
        wait_for("proxy", lambda: os.path.exists(self.path))

    def tell(self, *words):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(" ".join(str(w) for w in words).encode(), self.path)

    def stop(self):
        self.process.kill()
        self.process.wait()


class Server:
    """One server. .path is the mount point, .backing what lies below it."""

    def __init__(self, name, top, net, address):
        self.name, self.net, self.address = name, net, address
        self.top = top / name
        self.backing, self.path, self.state = (self.top / d for d in ("www", "mnt", "state"))
        for d in (self.top, self.backing, self.path):
            d.mkdir()
            d.chmod(0o755)
        self.log_path = self.top / "log"
        self.log_path.touch()
        self.port = free_port(net)
        self.process = self.sshd = None
        self.expected = []
        self.options = ""
        self.account = None
        self.environment = {}
        self.make_keys()

    # ---- sshd ----

    def make_keys(self):
        for key in ("host", "user"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.top / key)
        self.config = f"""
            Port {self.port}
            ListenAddress {self.address}
            HostKey {self.top}/host
            PidFile {self.top}/sshd.pid
            AuthorizedKeysFile {self.top}/authorized
            StrictModes no
            UsePAM no
            PermitRootLogin yes
            MaxSessions 50
            MaxStartups 200
            LogLevel ERROR
            Subsystem sftp internal-sftp
            """

    def start_sshd(self):
        os.makedirs("/run/sshd", exist_ok=True)
        (self.top / "sshd_config").write_text(self.config)
        self.sshd = subprocess.Popen(
            in_net(self.net, "/usr/sbin/sshd", "-D", "-f", str(self.top / "sshd_config"),
                   "-E", str(self.top / "sshd.log")))
        wait_for("sshd", lambda: (self.top / "sshd.pid").exists())

    def sshd_children(self):
        """Processes that serve connections, deepest last."""
        found, queue = [], [self.sshd.pid]
        while queue:
            out = run("ps", "-o", "pid=", "--ppid", queue.pop(), check=False).stdout.split()
            found += [int(p) for p in out]
            queue += [int(p) for p in out]
        return found

    def signal_connections(self, number):
        signal_all(self.sshd_children(), number)

    def stop_sshd(self):
        if not self.sshd:
            return
        children = self.sshd_children()
        self.sshd.kill()
        self.sshd.wait()
        signal_all(children, signal.SIGCONT)
        signal_all(children, signal.SIGKILL)
        (self.top / "sshd.pid").unlink(missing_ok=True)
        self.sshd = None

    # ---- tandemfs ----

    def command(self, program=None):
        options = f"node={self.name},state={self.state},loglevel=info"
        if self.account:
            options += f",account={self.account}"
        return in_net(self.net, program or PROGRAM, str(self.backing), str(self.path), "-f", "-o",
                      options + ("," + self.options if self.options else ""))

    def start(self, fault=None, wait=True):
        environment = dict(os.environ, **self.environment)
        if fault:
            environment["TANDEMFS_FAULT"] = fault
        with open(self.log_path, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(self.command(FAULTS if fault else None), stdout=log,
                                            stderr=log, env=environment)
        if wait:
            wait_for(f"{self.name} is mounted\n" + self.log()[-2000:],
                     lambda: self.mounted() or self.process.poll() is not None)
            assert self.process.poll() is None or fault, self.log()

    def mounted(self):
        return os.path.ismount(self.path)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """As a crash: SIGKILL, and the dead mount is taken away."""
        if not self.process:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        umount(self.path, MNT_FORCE)
        self.process.wait(SECONDS)
        umount(self.path, MNT_DETACH)
        self.process = None

    def stop(self):
        """Unmounts; the exit code."""
        if not self.process:
            return 0
        if self.mounted():
            run("umount", self.path, check=False)
        if self.process.poll() is None and self.mounted():
            self.process.terminate()
        try:
            code = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.say_where_it_hangs()
            self.kill()
            raise
        self.process = None
        return code

    def say_where_it_hangs(self):
        for task in sorted(pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()):
            try:
                print(task.name, *((task / f).read_text().strip()
                                   for f in ("comm", "wchan", "syscall")))
            except OSError as e:
                print(task.name, e)
        if shutil.which("gdb"):
            print(run("gdb", "-p", str(self.process.pid), "-batch", "-ex",
                      "thread apply all bt 14", check=False).stdout)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def cli(self, *args, check=True, timeout=120):
        return run(PROGRAM, *args, check=check, timeout=timeout)

    def status(self):
        out = self.cli("status", "--json", self.path).stdout
        found = json.loads(out)
        return found[0] if isinstance(found, list) else found

    def peer(self):
        return self.status()["peers"][0]

    def wait(self, seconds=60):
        r = self.cli("wait", "--timeout", str(seconds), self.path, check=False,
                     timeout=seconds + 20)
        assert r.returncode == 0, r.stderr + self.log()[-3000:]

    def expect_error(self, pattern):
        self.expected.append(re.compile(pattern))

    def bad_lines(self):
        return [line for line in self.log().splitlines()
                if BAD.search(line) and not any(e.search(line) for e in self.expected)]


class Pair:
    """Two servers, each the other's peer."""

    def __init__(self, options="mode=async", proxy=False, start=True):
        self.top = pathlib.Path(tempfile.mkdtemp(prefix="tandemfs-pair."))
        self.top.chmod(0o755)
        self.network = Network()
        self.proxies = {}
        self.at_end = []    # called by remove() once the daemons and sshds have ended
        self.a, self.b = (Server(n, self.top, net, address) for n, net, address in
                          zip("ab", self.network.names, self.network.addresses))
        self.servers = [self.a, self.b]
        for s, o in ((self.a, self.b), (self.b, self.a)):
            self.introduce(s, o, options, proxy)
        if start:
            self.start()

    def introduce(self, s, o, options, proxy):
        """@s logs in at @o as root by key."""
        host, port = o.address, o.port
        if proxy:
            self.proxies[s.name] = p = Proxy(self.top, s.net, host, port)
            host, port = "127.0.0.1", p.port
        shutil.copy(s.top / "user.pub", o.top / "authorized")
        key = " ".join((o.top / "host.pub").read_text().split()[:2])
        (s.top / "known_hosts").write_text(f"[{host}]:{port} {key}\n")
        s.url = f"sftp://root@{host}:{port}{o.backing}"
        s.options = (f"peer={s.url},identity={s.top}/user,known_hosts={s.top}/known_hosts,"
                     + options)

    def proxy(self, server):
        return self.proxies[server.name]

    def start(self):
        for s in self.servers:
            s.start_sshd()
        for s in self.servers:
            s.start()
        self.connected()

    def connected(self, seconds=SECONDS):
        for s in self.servers:
            wait_for(f"{s.name} is in sync", lambda s=s: s.peer()["state"] == "in-sync", seconds)

    def other(self, server):
        return self.b if server is self.a else self.a

    def in_sync(self, seconds=60):
        for s in self.servers:
            s.wait(seconds)

    def check_logs(self):
        bad = [f"{s.name}: {line}" for s in self.servers for line in s.bad_lines()]
        assert not bad, "\n".join(bad[:40])

    def stop(self):
        """The orderly end: both unmount with exit code 0 and clean logs."""
        for s in self.servers:
            if s.process:
                assert s.process.poll() is None, f"{s.name} died:\n" + s.log()[-4000:]
                assert s.stop() == 0, s.log()[-4000:]
        self.check_logs()

    def remove(self):
        """Whatever happened: nothing is left behind."""
        for s in self.servers:
            s.signal_connections(signal.SIGCONT) if s.sshd else None
            try:
                s.kill()
            finally:
                s.stop_sshd()
                run("umount", "-l", s.path, check=False)
        for p in self.proxies.values():
            p.stop()
        while self.at_end:
            self.at_end.pop()()
        self.network.remove()
        shutil.rmtree(self.top, ignore_errors=True)
