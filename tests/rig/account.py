# SPDX-License-Identifier: GPL-2.0-or-later
"""Users made for a test, and the confinement of one to the spool of a backing directory."""

import itertools
import os
import pathlib
import shutil

from .servers import ROOT, run, wait_for

ACCOUNT = ROOT / "mount-helpers/tandemfs-account"
_serial = itertools.count()


class User:
    """A system user. Without a password it can log in by key only."""

    def __init__(self, password=None):
        self.name = f"tdm{os.getpid()}u{next(_serial)}"
        # Without PAM sshd refuses an account that is locked, as useradd leaves it.
        run("useradd", "--system", "--no-create-home", "--home-dir", "/", "--shell",
            "/usr/sbin/nologin", "--password", "*", self.name)
        if password:
            run("chpasswd", input=f"{self.name}:{password}\n")

    def remove(self):
        wait_for(f"{self.name} is deleted",     # sshd's last child may be on its way out
                 lambda: run("userdel", self.name, check=False).returncode in (0, 6), 10)


class Confinement:
    """@user sees of this machine only the spool of @backing."""

    def __init__(self, user, backing):
        self.user, self.backing = user, backing
        # Not below /tmp: every directory above a chroot belongs to root alone.
        self.base = pathlib.Path(f"/var/lib/tandemfs-test-{user.name}")
        self.base.mkdir(mode=0o755)
        self.chroot = self.base / "chroot"
        try:
            run(ACCOUNT, "--chroot", self.chroot, backing, user.name)
        except BaseException:
            self.remove()
            raise

    def sshd_config(self):
        return f"""
Match User {self.user.name}
    ChrootDirectory {self.chroot}
    ForceCommand internal-sftp
    PermitTTY no
    AllowTcpForwarding no
"""

    def remove(self):
        run(ACCOUNT, "--chroot", self.chroot, "--remove", self.backing, self.user.name, check=False)
        target = f"{self.chroot}{self.backing}/.tandemfs"
        if os.path.ismount(target):
            run("umount", "-l", target, check=False)
        if not os.path.ismount(target):
            shutil.rmtree(self.base, ignore_errors=True)
