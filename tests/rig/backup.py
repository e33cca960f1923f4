# SPDX-License-Identifier: GPL-2.0-or-later
"""A server with a directory behind sshd and nothing else: a plain peer, or several."""

import os
import pathlib
import shutil
import stat
import tempfile

from .account import User
from .compare import digest
from .servers import Pair, run


class Backup:
    """An account of @server (of which only the sshd is used) that is chrooted and sees one directory:
    .path from outside, /data from inside."""

    def __init__(self, server, sftp="internal-sftp", owner_is_root=False):
        self.server = server
        self.user = None if owner_is_root else User()
        # Not below /tmp: every directory above a chroot belongs to root alone.
        self.chroot = pathlib.Path(tempfile.mkdtemp(prefix="tandemfs-test-plain.", dir="/var/lib"))
        self.chroot.chmod(0o755)
        self.path = self.chroot / "data"
        self.path.mkdir()
        name = "root"
        if self.user:
            name = self.user.name
            shutil.chown(self.path, name, name)
        self.name = name
        server.config += f"""
Match User {name}
    ChrootDirectory {self.chroot}
    ForceCommand {sftp}
"""

    def url(self, host, port):
        return f"sftp://{self.name}@{host}:{port}/data"

    def remove(self):
        while os.path.ismount(self.path):
            run("umount", "-l", self.path, check=False)
        shutil.rmtree(self.chroot, ignore_errors=True)
        if self.user:
            self.user.remove()


class WithBackup(Pair):
    """One tandemfs, .a, whose peers are the backups at .b (which runs none)."""

    def __init__(self, options="mode=async", proxy=False, start=True, **backup):
        self.backups = []
        super().__init__(options, proxy=proxy, start=False)
        self.servers = [self.a]
        self.backup = self.add(**backup)
        self.point(options)
        if start:
            self.start()

    def add(self, **kwargs):
        b = Backup(self.b, **kwargs)
        self.backups.append(b)
        return b

    def point(self, options):
        host, port = self.b.address, self.b.port
        if "a" in self.proxies:
            host, port = "127.0.0.1", self.proxies["a"].port
        peers = ",".join(f"peer={b.url(host, port)}" for b in self.backups)
        self.a.options = (f"{peers},identity={self.a.top}/user,"
                          f"known_hosts={self.a.top}/known_hosts,{options}")

    def start(self):
        self.b.start_sshd()
        self.a.start()
        self.connected()

    def restart(self, **kwargs):
        self.a.kill()
        self.a.start(**kwargs)

    def remove(self):
        self.b.stop_sshd()
        super().remove()
        for b in self.backups:
            b.remove()


def describe(root, name, owners):
    path = os.path.join(root, name)
    st = os.lstat(path)
    d = {"type": stat.S_IFMT(st.st_mode)}
    if not stat.S_ISLNK(st.st_mode):
        d["mode"] = oct(stat.S_IMODE(st.st_mode))
    if name:
        d["mtime"] = int(st.st_mtime)
    if owners:
        d["owner"] = (st.st_uid, st.st_gid)
    if stat.S_ISREG(st.st_mode):
        d["size"] = st.st_size
        d["digest"] = digest(path)
    if stat.S_ISLNK(st.st_mode):
        d["target"] = os.readlink(path)
    return d


def plain_tree(root, owners=False):
    """What a plain peer can have: no .tandemfs, no devices, whole seconds."""
    tree = {}
    for base, dirs, files in os.walk(root):
        rel = os.path.relpath(base, root)
        rel = "" if rel == "." else rel
        if not rel and ".tandemfs" in dirs:
            dirs.remove(".tandemfs")
        for n in dirs + files:
            name = os.path.join(rel, n)
            d = describe(root, name, owners)
            if stat.S_ISREG(d["type"]) or stat.S_ISDIR(d["type"]) or stat.S_ISLNK(d["type"]):
                tree[name] = d
    return tree


def plain_differences(here, there, owners=False):
    a, b = plain_tree(here, owners), plain_tree(there, owners)
    lines = [f"only here: {n}" for n in a if n not in b]
    lines += [f"only there: {n}" for n in b if n not in a]
    lines += [f"{n}: {a[n]} / {b[n]}" for n in a if n in b and a[n] != b[n]]
    return lines


def assert_copied(here, there, owners=False):
    lines = plain_differences(here, there, owners)
    assert not lines, f"{len(lines)} differences:\n" + "\n".join(lines[:20])
    left = os.listdir(os.path.join(there, ".tandemfs", "tmp"))
    assert not left, f"temporaries are left: {left}"
