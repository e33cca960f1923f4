# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether two trees are the same in all that is replicated."""

import hashlib
import os
import stat


def xattrs(path):
    names = [n for n in os.listxattr(path, follow_symlinks=False)
             if n.startswith(("user.", "trusted.", "system.posix_acl", "security.capability"))]
    return tuple((n, os.getxattr(path, n, follow_symlinks=False)) for n in sorted(names))


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            h.update(block)
    return h.hexdigest()


def describe(root, name, links):
    path = os.path.join(root, name) if name else str(root)
    st = os.lstat(path)
    d = {"type": stat.S_IFMT(st.st_mode), "mode": oct(stat.S_IMODE(st.st_mode)),
         "owner": (st.st_uid, st.st_gid), "mtime": st.st_mtime_ns, "xattrs": xattrs(path)}
    if stat.S_ISREG(st.st_mode):
        d["size"] = st.st_size
        d["digest"] = digest(path)
    if stat.S_ISLNK(st.st_mode):
        d["target"] = os.readlink(path)
    if stat.S_ISBLK(st.st_mode) or stat.S_ISCHR(st.st_mode):
        d["device"] = st.st_rdev
    if not stat.S_ISDIR(st.st_mode):
        d["same inode as"] = links.setdefault((st.st_dev, st.st_ino), name)
        d["links"] = st.st_nlink
    return d


def tree(root):
    """Path to description, without .tandemfs at the root."""
    root = str(root)
    names = [""]
    for base, dirs, files in os.walk(root):
        rel = os.path.relpath(base, root)
        if rel == ".":
            rel = ""
            if ".tandemfs" in dirs:
                dirs.remove(".tandemfs")
        names += [os.path.join(rel, n) for n in dirs + files]
    links = {}
    return {n: describe(root, n, links) for n in sorted(names)}


def differences(a, b):
    """Lines that say where the trees below @a and @b differ."""
    ta, tb = tree(a), tree(b)
    lines = [f"only in {a}: {n}" for n in ta if n not in tb]
    lines += [f"only in {b}: {n}" for n in tb if n not in ta]
    for n in ta:
        if n in tb and ta[n] != tb[n]:
            keys = [k for k in ta[n] if ta[n][k] != tb[n].get(k)]
            lines.append(f"{n or '(root)'}: " + ", ".join(
                f"{k} {ta[n][k]} / {tb[n].get(k)}" for k in keys))
    return lines


def assert_same(a, b):
    lines = differences(a, b)
    assert not lines, f"{len(lines)} differences:\n" + "\n".join(lines[:20])
