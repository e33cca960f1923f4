# SPDX-License-Identifier: GPL-2.0-or-later
"""Each call of the file system, through the mount and looked at from below."""

import ctypes
import errno
import fcntl
import mmap
import os
import random
import stat
import threading

import pytest

libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE = 1, 2
AT_FDCWD = -100
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


def renameat2(a, b, flags):
    if libc.renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), flags) < 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def fails(number, call, *args, **kwargs):
    with pytest.raises(OSError) as e:
        call(*args, **kwargs)
    assert e.value.errno == number, e.value


def same_stat(a, b):
    x, y = os.lstat(a), os.lstat(b)
    for field in ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime_ns",
                  "st_ctime_ns", "st_blocks", "st_rdev"):
        assert getattr(x, field) == getattr(y, field), field


def test_create_write_read(here, below):
    f = here / "f"
    f.write_bytes(b"hello")
    assert f.read_bytes() == b"hello"
    assert (below / "f").read_bytes() == b"hello"
    same_stat(f, below / "f")
    f.write_bytes(b"bye")
    assert (below / "f").read_bytes() == b"bye"
    same_stat(f, below / "f")


def test_stat_after_write_is_fresh(here, below):
    fd = os.open(here / "f", os.O_RDWR | os.O_CREAT)
    for n in range(1, 20):
        os.write(fd, b"x" * n)
        a, b = os.fstat(fd), os.stat(below / "f")
        assert (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)
    os.close(fd)


def test_exclusive_create(here):
    (here / "f").write_text("x")
    fails(errno.EEXIST, os.open, here / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_negative_lookup_is_dropped(here):
    assert not (here / "f").exists()
    (here / "f").write_text("x")
    assert (here / "f").exists()
    (here / "f").unlink()
    assert not (here / "f").exists()
    (here / "f").mkdir()
    assert (here / "f").is_dir()


def test_directory_and_parent_times(here, below):
    before = os.stat(here).st_mtime_ns
    (here / "d").mkdir(mode=0o750)
    same_stat(here / "d", below / "d")
    assert os.stat(here).st_mtime_ns >= before
    same_stat(here, below)
    (here / "d" / "x").write_text("x")
    fails(errno.ENOTEMPTY, os.rmdir, here / "d")
    (here / "d" / "x").unlink()
    same_stat(here / "d", below / "d")
    os.rmdir(here / "d")
    same_stat(here, below)
    fails(errno.ENOENT, os.rmdir, here / "d")


def test_symlink(here, below):
    os.symlink("no/where", here / "l")
    assert os.readlink(here / "l") == os.readlink(below / "l") == "no/where"
    same_stat(here / "l", below / "l")
    long = "x" * 4000
    os.symlink(long, here / "long")
    assert os.readlink(here / "long") == long
    os.utime(here / "l", ns=(1, 2), follow_symlinks=False)
    assert os.lstat(below / "l").st_mtime_ns == 2
    os.chown(here / "l", 12, 13, follow_symlinks=False)
    assert os.lstat(below / "l").st_uid == 12


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG])
def test_mknod(here, below, kind):
    os.mknod(here / "n", kind | 0o640, os.makedev(7, 200))
    same_stat(here / "n", below / "n")
    assert stat.S_IFMT(os.lstat(below / "n").st_mode) == kind


def test_hard_links(here, below):
    (here / "a").write_text("one")
    os.link(here / "a", here / "b")
    assert os.stat(here / "a").st_nlink == os.stat(here / "b").st_nlink == 2
    (here / "b").write_text("two!")
    assert (here / "a").read_text() == "two!"
    (here / "a").unlink()
    assert (here / "b").read_text() == "two!"
    assert os.stat(here / "b").st_nlink == 1
    os.symlink("b", here / "s")
    os.link(here / "s", here / "t", follow_symlinks=False)
    assert os.readlink(here / "t") == "b"
    same_stat(here / "t", below / "s")


def test_write_to_link_whose_first_name_went(here, below):
    (here / "a").write_text("one")
    os.link(below / "a", below / "hidden")
    with open(here / "a", "r+") as f:
        f.write("two")
        f.flush()
        os.unlink(here / "a")
        f.write("three")
    assert (below / "hidden").read_text() == "twothree"


def link_open(fd, path):
    """linkat(2) of the descriptor: Python follows the link only where a directory is given."""
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)


def test_open_link_whose_known_name_went(here, below):
    """What is done through the descriptor belongs to the name that nobody has looked up."""
    (here / "a").write_text("one")
    (below / "deep" / "er").mkdir(parents=True)
    os.link(below / "a", below / "deep" / "er" / "hidden")
    fd = os.open(here / "a", os.O_RDWR)
    os.unlink(here / "a")
    os.fchmod(fd, 0o600)
    os.setxattr(fd, "user.k", b"v")
    os.write(fd, b"two")
    os.fsync(fd)
    os.ftruncate(fd, 2)
    link_open(fd, here / "again")
    os.close(fd)
    same_stat(here / "again", below / "deep" / "er" / "hidden")
    assert (here / "deep" / "er" / "hidden").read_text() == "tw"


def test_open_link_outside(mount, here, below):
    """A hard link that is not below the root is none of ours."""
    (here / "a").write_text("one")
    os.link(below / "a", mount.dir / "outside")
    fd = os.open(here / "a", os.O_RDWR)
    os.unlink(here / "a")
    for i in range(100):
        os.write(fd, b"two")
    os.close(fd)
    assert (mount.dir / "outside").read_text() == "two" * 100
    assert mount.text().count("none of its 1 names was found") == 1


def test_open_unlinked(here):
    fd = os.open(here / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"abc")
    os.unlink(here / "f")
    os.write(fd, b"def")
    assert os.pread(fd, 10, 0) == b"abcdef"
    assert os.fstat(fd).st_nlink == 0
    os.fchmod(fd, 0o600)
    os.ftruncate(fd, 2)
    assert os.fstat(fd).st_size == 2
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    os.setxattr(fd, "user.a", b"b")
    assert os.getxattr(fd, "user.a") == b"b"
    os.fsync(fd)
    (here / "f").write_text("new")
    assert os.fstat(fd).st_ino != os.stat(here / "f").st_ino
    assert os.pread(fd, 10, 0) == b"ab"
    os.close(fd)
    assert (here / "f").read_text() == "new"


def test_rename(here, below):
    (here / "a").write_text("a")
    (here / "b").write_text("b")
    old = open(here / "b", "rb")
    os.rename(here / "a", here / "b")
    assert (here / "b").read_text() == "a"
    assert old.read() == b"b"
    old.close()
    assert not (below / "a").exists()
    same_stat(here / "b", below / "b")
    same_stat(here, below)
    fails(errno.ENOENT, os.rename, here / "a", here / "c")
    (here / "d" / "e").mkdir(parents=True)
    (here / "d" / "e" / "f").write_text("f")
    os.rename(here / "d", here / "D")
    assert (here / "D" / "e" / "f").read_text() == "f"
    (here / "D" / "e" / "g").write_text("g")
    assert (below / "D" / "e" / "g").read_text() == "g"
    fails(errno.EINVAL, os.rename, here / "D", here / "D" / "e" / "D")
    fails(errno.EISDIR, os.rename, here / "b", here / "D")


def test_rename_flags(here, below):
    (here / "a").write_text("a")
    (here / "b").write_text("b")
    fails(errno.EEXIST, renameat2, here / "a", here / "b", NOREPLACE)
    renameat2(here / "a", here / "c", NOREPLACE)
    assert (below / "c").read_text() == "a"
    renameat2(here / "b", here / "c", EXCHANGE)
    assert (here / "b").read_text() == "a"
    assert (here / "c").read_text() == "b"
    (here / "d").mkdir()
    (here / "d" / "x").write_text("x")
    renameat2(here / "b", here / "d", EXCHANGE)
    assert (here / "b" / "x").read_text() == "x"
    assert (here / "d").read_text() == "a"
    fails(errno.ENOENT, renameat2, here / "b", here / "none", EXCHANGE)


def test_rename_of_link_to_itself(here):
    (here / "a").write_text("a")
    os.link(here / "a", here / "b")
    os.rename(here / "a", here / "b")
    assert (here / "a").exists() and (here / "b").exists()


def test_rename_while_open_and_written(here, below):
    fd = os.open(here / "a", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"1")
    os.rename(here / "a", here / "b")
    os.write(fd, b"2")
    (here / "d").mkdir()
    os.rename(here / "b", here / "d" / "b")
    os.write(fd, b"3")
    os.rename(here / "d", here / "e")
    os.write(fd, b"4")
    os.close(fd)
    assert (below / "e" / "b").read_bytes() == b"1234"


def test_setattr(here, below):
    f = here / "f"
    f.write_text("x")
    os.chmod(f, 0o4751)
    os.chown(f, 100, 101)
    s = os.stat(below / "f")
    assert (s.st_uid, s.st_gid) == (100, 101)
    assert stat.S_IMODE(s.st_mode) == 0o751  # chown takes setuid
    os.utime(f, ns=(1_000_000_001, 1_500_000_000_123_456_789))
    assert os.stat(f).st_mtime_ns == 1_500_000_000_123_456_789
    assert os.stat(f).st_atime_ns == 1_000_000_001
    os.utime(f, ns=(5, -1_500_000_001))
    assert os.stat(f).st_mtime_ns == -1_500_000_001
    os.utime(f)
    assert os.stat(f).st_mtime_ns == os.stat(below / "f").st_mtime_ns
    same_stat(f, below / "f")
    os.truncate(f, 100)
    assert os.stat(f).st_size == 100
    os.truncate(f, 0)
    same_stat(f, below / "f")


UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


class Timespec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]


def utimens(path, a, m):
    ts = (Timespec * 2)(Timespec(*a), Timespec(*m))
    if libc.utimensat(AT_FDCWD, os.fsencode(path), ts, 0) < 0:
        raise OSError(ctypes.get_errno(), "utimensat")


def test_utimens_now_and_omit(here):
    f = here / "f"
    f.write_text("x")
    os.utime(f, ns=(10, 20))
    utimens(f, (0, UTIME_OMIT), (3, 4))
    s = os.stat(f)
    assert (s.st_atime_ns, s.st_mtime_ns) == (10, 3_000_000_004)
    utimens(f, (0, UTIME_NOW), (0, UTIME_OMIT))
    s = os.stat(f)
    assert s.st_atime_ns > 10**18 and s.st_mtime_ns == 3_000_000_004


def test_append_by_several_writers(here, below):
    line = [bytes([65 + n]) * 99 + b"\n" for n in range(8)]

    def run(n):
        fd = os.open(here / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for _ in range(200):
            assert os.write(fd, line[n]) == 100
        os.close(fd)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    lines = (here / "log").read_bytes().splitlines(keepends=True)
    assert len(lines) == 1600
    assert all(x in line for x in lines)
    assert (below / "log").read_bytes() == b"".join(lines)


def test_append_set_by_fcntl(here):
    fd = os.open(here / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"12345")
    os.lseek(fd, 0, 0)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    os.write(fd, b"67")
    assert os.pread(fd, 99, 0) == b"1234567"
    os.close(fd)


def test_written_past_the_cache(here):
    """What another descriptor, a mapping and one more writer have in the cache gives way."""
    path = here / "f"
    path.write_bytes(b"a" * 10000)
    out = os.open(path, os.O_WRONLY)
    more = os.open(path, os.O_WRONLY | os.O_APPEND)
    with open(path, "r+b", buffering=0) as file, mmap.mmap(file.fileno(), 10000) as m:
        assert file.read() == m[:] == b"a" * 10000
        m[0:4] = b"map!"
        os.pwrite(out, b"bbbb", 4094)
        os.write(more, b"end")
        want = b"map!" + b"a" * 4090 + b"bbbb" + b"a" * 5902
        assert m[:] == want
        assert os.pread(file.fileno(), 20000, 0) == path.read_bytes() == want + b"end"
        m[4096:4098] = b"cc"   # of the page that was just written
        os.pwrite(out, b"dd", 4098)
        want = want[:4096] + b"ccdd" + want[4100:]
        assert m[:] == want and path.read_bytes() == want + b"end"
    os.close(out)
    os.close(more)


def test_mmap_shared(here, below):
    f = here / "f"
    f.write_bytes(bytes(8192))
    with open(f, "r+b") as file:
        m = mmap.mmap(file.fileno(), 8192)
        m[0:5] = b"first"
        m[4096:4102] = b"second"
        m.flush()
        assert (below / "f").read_bytes()[4096:4102] == b"second"
        m[100:105] = b"third"
    m.close()
    assert f.read_bytes()[100:105] == b"third"
    os.sync()


def test_holes(here, below):
    fd = os.open(here / "f", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * 65536, 1 << 20)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 20
    assert os.lseek(fd, 1 << 20, os.SEEK_HOLE) == (1 << 20) + 65536
    fails(errno.ENXIO, os.lseek, fd, 1 << 30, os.SEEK_DATA)
    fallocate(fd, KEEP_SIZE | PUNCH_HOLE, (1 << 20) + 4096, 8192)
    data = os.pread(fd, 65536, 1 << 20)
    assert data == b"x" * 4096 + bytes(8192) + b"x" * (65536 - 12288)
    fallocate(fd, ZERO_RANGE, 1 << 20, 4096)
    assert os.pread(fd, 4096, 1 << 20) == bytes(4096)
    size = os.fstat(fd).st_size
    fallocate(fd, KEEP_SIZE, size, 1 << 20)
    assert os.fstat(fd).st_size == size
    fallocate(fd, 0, size, 4096)
    assert os.fstat(fd).st_size == size + 4096
    os.close(fd)
    same_stat(here / "f", below / "f")


def test_copy_file_range(here, below):
    data = random.Random(1).randbytes(300_000)
    (here / "a").write_bytes(data)
    a = os.open(here / "a", os.O_RDONLY)
    b = os.open(here / "b", os.O_RDWR | os.O_CREAT)
    done = 0
    while done < 200_000:
        done += os.copy_file_range(a, b, 200_000 - done, 1000 + done, done)
    assert os.pread(b, 300_000, 0) == data[1000:201_000]
    os.close(a)
    os.close(b)
    assert (below / "b").read_bytes() == data[1000:201_000]


def test_locks(here):
    (here / "f").write_text("x")
    a = os.open(here / "f", os.O_RDWR)
    b = os.open(here / "f", os.O_RDWR)
    fcntl.flock(a, fcntl.LOCK_EX)
    fails(errno.EWOULDBLOCK, fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(a, fcntl.LOCK_UN)
    fcntl.lockf(a, fcntl.LOCK_EX, 1)
    pid = os.fork()
    if pid == 0:
        try:
            fcntl.lockf(b, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(a)
    os.close(b)


def test_xattrs(here, below):
    f = here / "f"
    f.write_text("x")
    os.setxattr(f, "user.one", b"1")
    os.setxattr(f, "user.two", b"2" * 2000)
    assert os.getxattr(below / "f", "user.two") == b"2" * 2000
    assert sorted(os.listxattr(f)) == ["user.one", "user.two"]
    fails(errno.EEXIST, os.setxattr, f, "user.one", b"x", os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, f, "user.none", b"x", os.XATTR_REPLACE)
    os.removexattr(f, "user.one")
    fails(errno.ENODATA, os.getxattr, f, "user.one")
    assert os.listxattr(below / "f") == ["user.two"]
    os.setxattr(here, "user.dir", b"d")
    assert os.getxattr(below, "user.dir") == b"d"
    os.symlink("f", here / "l")
    fails(errno.EPERM, os.setxattr, here / "l", "user.x", b"1", follow_symlinks=False)
    os.setxattr(here / "l", "trusted.x", b"1", follow_symlinks=False)
    assert os.getxattr(below / "l", "trusted.x", follow_symlinks=False) == b"1"


def test_tmpfile(here, below):
    if [int(n) for n in os.uname().release.split(".")[:2]] < [6, 2]:
        fails(errno.EOPNOTSUPP, os.open, here, os.O_TMPFILE | os.O_RDWR, 0o640)
        pytest.skip("this kernel does not hand O_TMPFILE on to FUSE")
    fd = os.open(here, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"content")
    assert os.fstat(fd).st_nlink == 0
    os.setxattr(fd, "user.k", b"v")
    os.fsync(fd)
    assert os.listdir(below) == []
    link_open(fd, here / "f")
    os.write(fd, b" and more")
    fails(errno.EEXIST, link_open, fd, here / "f")
    os.close(fd)
    assert (below / "f").read_text() == "content and more"
    assert stat.S_IMODE(os.stat(here / "f").st_mode) == 0o640
    assert os.getxattr(below / "f", "user.k") == b"v"
    same_stat(here / "f", below / "f")
    # For good without a name: O_EXCL, and one that is just closed.
    fd = os.open(here, os.O_TMPFILE | os.O_RDWR | os.O_EXCL)
    fails(errno.ENOENT, link_open, fd, here / "g")
    os.close(fd)
    os.close(os.open(here, os.O_TMPFILE | os.O_WRONLY))
    assert os.listdir(here) == ["f"]


def test_fsync(here):
    fd = os.open(here / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x")
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    fd = os.open(here, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    fd = os.open(here / "g", os.O_RDWR | os.O_CREAT | os.O_SYNC)
    os.write(fd, b"x")
    os.close(fd)


def test_direct_io(here, below):
    fd = os.open(here / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    m = mmap.mmap(-1, 8192)
    m.write(b"d" * 8192)
    assert os.pwritev(fd, [m], 4096) == 8192
    assert os.preadv(fd, [m], 4096) == 8192
    os.close(fd)
    assert (below / "f").read_bytes() == bytes(4096) + b"d" * 8192


def test_statvfs(mount):
    a, b = os.statvfs(mount.path), os.statvfs(mount.backing)
    assert (a.f_blocks, a.f_bsize, a.f_namemax) == (b.f_blocks, b.f_bsize, b.f_namemax)


def test_truncate_by_open(here, below):
    (here / "f").write_bytes(b"x" * 100_000)
    fd = os.open(here / "f", os.O_WRONLY | os.O_TRUNC)
    assert os.fstat(fd).st_size == 0
    os.write(fd, b"y")
    os.close(fd)
    assert (here / "f").read_bytes() == (below / "f").read_bytes() == b"y"


def test_names(here, below):
    for name in (b"a b", b"x\ny", b"\xff\xfe", b"x" * 255, "ä€".encode(), b"-", b"..."):
        path = os.path.join(os.fsencode(here), name)
        with open(path, "wb") as f:
            f.write(name)
        with open(os.path.join(os.fsencode(below), name), "rb") as f:
            assert f.read() == name
    fails(errno.ENAMETOOLONG, open, os.fsencode(here) + b"/" + b"x" * 256, "wb")
    assert len(os.listdir(os.fsencode(here))) == 7


def test_deep_path(here):
    d = here
    cwd = os.getcwd()
    try:
        os.chdir(d)
        for _ in range(30):
            os.mkdir("d" * 100)
            os.chdir("d" * 100)
        with open("f", "w") as f:
            f.write("deep")
        with open("f") as f:
            assert f.read() == "deep"
    finally:
        os.chdir(cwd)


def test_removed_working_directory(here):
    (here / "d").mkdir()
    fd = os.open(here / "d", os.O_RDONLY)
    os.rmdir(here / "d")
    fails(errno.ENOENT, os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    assert os.listdir(fd) == []
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


def test_ioctl(here):
    (here / "f").write_text("x")
    with open(here / "f") as f:
        fails(errno.ENOTTY, fcntl.ioctl, f, 0x5401, bytes(64))
