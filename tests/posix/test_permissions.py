# SPDX-License-Identifier: GPL-2.0-or-later
"""Owners, groups, umask, setuid and setgid, sticky directories, ACLs: as on the bare directory.

Each case is done twice, through the mount and in a plain directory, and the outcomes compared.
"""

import os
import shutil
import stat
import subprocess

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")


def as_user(uid, gid, groups, call, umask=0o022):
    """Runs @call in a child as that user. Returns errno, 0 for success."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            os.umask(umask)
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            call()
        except OSError as e:
            code = e.errno
        except BaseException:
            code = 255
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def picture(root):
    """All that stat and ACLs say of a tree, without what must differ."""
    out = []
    for d, dirs, files in sorted(os.walk(root)):
        for name in sorted(dirs + files):
            p = os.path.join(d, name)
            s = os.lstat(p)
            acls = {x: os.getxattr(p, x, follow_symlinks=False)
                    for x in os.listxattr(p, follow_symlinks=False)}
            out.append((os.path.relpath(p, root), oct(s.st_mode), s.st_uid, s.st_gid, s.st_size,
                        s.st_nlink, acls))
    return out


@pytest.fixture
def twins(mount, here):
    """The directory in the mount and a plain one on the same file system."""
    plain = mount.dir / ("plain-" + here.name)
    plain.mkdir()
    plain.chmod(0o777)
    yield here, plain
    shutil.rmtree(plain)


def both(twins, prepare, act):
    """Does the same in both and compares the outcomes and the trees."""
    results = []
    for root in twins:
        prepare(root)
        results.append(act(root))
    assert results[0] == results[1]
    assert picture(twins[0]) == picture(twins[1])
    return results[0]


def nothing(_root):
    pass


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o137])
def test_umask_and_owner(twins, umask):
    def act(root):
        def make():
            os.close(os.open(root / "f", os.O_CREAT | os.O_WRONLY, 0o666))
            os.close(os.open(root / "x", os.O_CREAT | os.O_WRONLY, 0o6777))
            os.mkdir(root / "d", 0o1777)
            os.mkfifo(root / "p", 0o666)
            os.symlink("f", root / "l")
        return as_user(1234, 2345, [77], make, umask)

    assert both(twins, nothing, act) == 0
    assert os.lstat(twins[0] / "f").st_uid == 1234


@pytest.mark.parametrize("groups", [[], [500]])
@pytest.mark.parametrize("mode", [0o2777, 0o777])
def test_setgid_directory(twins, groups, mode):
    def prepare(root):
        (root / "d").mkdir()
        os.chown(root / "d", 0, 500)
        os.chmod(root / "d", mode)

    def act(root):
        def make():
            os.close(os.open(root / "d" / "f", os.O_CREAT | os.O_WRONLY, 0o2775))
            os.close(os.open(root / "d" / "g", os.O_CREAT | os.O_WRONLY, 0o2664))
            os.mkdir(root / "d" / "e", 0o755)
            os.mknod(root / "d" / "n", stat.S_IFIFO | 0o2770)
            os.symlink("f", root / "d" / "l")
        return as_user(1000, 1000, groups, make, 0)

    assert both(twins, prepare, act) == 0


def test_supplementary_group_may_write(twins):
    def prepare(root):
        (root / "d").mkdir()
        os.chown(root / "d", 0, 500)
        os.chmod(root / "d", 0o770)

    def act(root):
        def make():
            (root / "d" / "f").write_text("x")
            os.mkdir(root / "d" / "e")
        return as_user(1000, 1000, [500], make), as_user(1001, 1001, [501], make)

    assert both(twins, prepare, act) == (0, 13)


def test_sticky_directory(twins):
    def prepare(root):
        (root / "d").mkdir()
        os.chmod(root / "d", 0o1777)
        (root / "d" / "f").write_text("x")
        os.chown(root / "d" / "f", 1000, 1000)
        (root / "d" / "g").write_text("x")
        os.chown(root / "d" / "g", 1001, 1001)

    def act(root):
        return [as_user(1001, 1001, [], lambda: os.unlink(root / "d" / "f")),
                as_user(1001, 1001, [], lambda: os.rename(root / "d" / "g", root / "d" / "f")),
                as_user(1000, 1000, [], lambda: os.unlink(root / "d" / "f"))]

    assert both(twins, prepare, act) == [1, 1, 0]


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6777, 0o2666, 0o4666])
@pytest.mark.parametrize("uid", [0, 1000, 1001])
@pytest.mark.parametrize("how", ["write", "truncate", "open", "append", "chown", "fallocate"])
def test_setuid_goes_on_change(twins, mode, uid, how):
    def prepare(root):
        (root / "f").write_text("x" * 100)
        os.chown(root / "f", 1000, 1000)
        os.chmod(root / "f", mode | 0o022)
        os.stat(root / "f")

    def act(root):
        def change():
            f = root / "f"
            if how == "write":
                fd = os.open(f, os.O_WRONLY)
                os.write(fd, b"y")
            elif how == "append":
                fd = os.open(f, os.O_WRONLY | os.O_APPEND)
                os.write(fd, b"y")
            elif how == "open":
                os.open(f, os.O_WRONLY | os.O_TRUNC)
            elif how == "fallocate":
                os.posix_fallocate(os.open(f, os.O_WRONLY), 0, 200)
            elif how == "chown":
                os.chown(f, -1, 1000)
            else:
                os.truncate(f, 10)
        return as_user(uid, uid, [1000], change)

    both(twins, prepare, act)


@pytest.mark.parametrize("groups", [[], [500]])
def test_chmod_setgid_needs_the_group(twins, groups):
    def prepare(root):
        (root / "f").write_text("x")
        os.chown(root / "f", 1000, 500)

    def act(root):
        return as_user(1000, 1000, groups, lambda: os.chmod(root / "f", 0o2755))

    both(twins, prepare, act)


def setfacl(*args):
    subprocess.run(["setfacl", *[str(a) for a in args]], check=True)


@pytest.mark.parametrize("umask", [0, 0o077])
def test_default_acl(twins, umask):
    def prepare(root):
        (root / "d").mkdir()
        os.chmod(root / "d", 0o777)
        setfacl("-m", "d:u:1500:rwx,d:g:500:r-x,d:m::rwx,d:o::-", root / "d")

    def act(root):
        def make():
            os.close(os.open(root / "d" / "f", os.O_CREAT | os.O_WRONLY, 0o666))
            os.mkdir(root / "d" / "e", 0o777)
            os.mkfifo(root / "d" / "p", 0o666)
            os.close(os.open(root / "d" / "e" / "f", os.O_CREAT | os.O_WRONLY, 0o640))
        return as_user(1000, 1000, [], make, umask)

    assert both(twins, prepare, act) == 0


def test_acl_grants_and_denies(twins):
    def prepare(root):
        (root / "f").write_text("x")
        os.chmod(root / "f", 0o600)
        (root / "g").write_text("x")
        os.chmod(root / "g", 0o644)

    def act(root):
        def read(name):
            return lambda: (root / name).read_text()
        before = as_user(1500, 1500, [], read("f")), as_user(1500, 1500, [], read("g"))
        setfacl("-m", "u:1500:r", root / "f")
        setfacl("-m", "u:1500:-", root / "g")
        after = as_user(1500, 1500, [], read("f")), as_user(1500, 1500, [], read("g"))
        setfacl("-b", root / "f", root / "g")
        return before, after, as_user(1500, 1500, [], read("f"))

    assert both(twins, prepare, act) == ((13, 0), (0, 13), 13)


@pytest.mark.parametrize("groups", [[], [500]])
def test_acl_takes_setgid(twins, groups):
    def prepare(root):
        (root / "f").write_text("x")
        os.chown(root / "f", 1000, 500)
        os.chmod(root / "f", 0o2755)

    def act(root):
        return as_user(1000, 1000, groups, lambda: setfacl("-m", "u:7:r", root / "f"))

    both(twins, prepare, act)


def test_file_capabilities_go_on_write(twins):
    def prepare(root):
        shutil.copy("/bin/true", root / "f")
        subprocess.run(["/sbin/setcap", "cap_net_raw+ep", root / "f"], check=True)

    def act(root):
        with open(root / "f", "r+b") as f:
            f.write(b"x")
        return "security.capability" in os.listxattr(root / "f")

    if not os.path.exists("/sbin/setcap"):
        pytest.skip("no setcap")
    assert both(twins, prepare, act) is False


def test_other_user_may_not(twins):
    def prepare(root):
        (root / "d").mkdir(mode=0o755)
        (root / "d" / "f").write_text("x")
        os.chmod(root / "d" / "f", 0o600)

    def act(root):
        return [as_user(1000, 1000, [], c) for c in (
            lambda: (root / "d" / "f").read_text(),
            lambda: (root / "d" / "g").write_text("x"),
            lambda: os.unlink(root / "d" / "f"),
            lambda: os.chmod(root / "d" / "f", 0o777),
            lambda: os.chown(root / "d" / "f", 1000, 1000),
            lambda: os.utime(root / "d" / "f", ns=(1, 2)),
            lambda: os.mkdir(root / "d" / "e"),
            lambda: os.mknod(root / "dev", stat.S_IFCHR | 0o666, os.makedev(1, 3)))]

    assert all(both(twins, prepare, act))
