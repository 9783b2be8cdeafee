"""A disk of its own for a server, so that it can run full: a tmpfs, which is resized while it is in use.

It takes root (or the right to mount). Without it the servers write into the folder, and the fault is reported as not
possible here.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

ROOMY: Final = "80%"
"""The disk's size as a share of the memory; a tmpfs takes only what is written."""
NAME: Final = "tandem-chaos-{pid}"
"""What a disk is called in the list of mounts, by the process that uses it."""


def orphans(mounts: str, is_alive: Callable[[int], bool]) -> list[str]:
    """The disks, of those in a list like /proc/self/mounts, whose process was killed before it could unmount them."""
    prefix, _, _ = NAME.partition("{")
    disks = [line.removeprefix(prefix).split(" ") for line in mounts.splitlines() if line.startswith(prefix)]
    return [path for pid, path, *_ in disks if not is_alive(int(pid))]


class Disk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.mounted = False

    def mount(self) -> None:
        for orphan in orphans(Path("/proc/self/mounts").read_text(), psutil.pid_exists):
            subprocess.run(["umount", "--lazy", orphan], capture_output=True)
        self.path.mkdir(parents=True)
        options = ["-t", "tmpfs", "-o", f"size={ROOMY},mode=0711", NAME.format(pid=os.getpid())]
        self.mounted = subprocess.run(["mount", *options, str(self.path)], capture_output=True).returncode == 0

    def fill(self) -> None:
        """Leave no free space. If something is written meanwhile, try again."""
        full = False
        while not full:
            room = os.statvfs(self.path)
            full = self._resize(str((room.f_blocks - room.f_bfree) * room.f_frsize))

    def leave(self, share: float) -> None:
        """Leave this share of the disk free."""
        room = os.statvfs(self.path)
        assert self._resize(str(int((room.f_blocks - room.f_bfree) * room.f_frsize / (1 - share))))

    def free(self) -> None:
        assert self._resize(ROOMY), f"{self.path} was not resized"

    def unmount(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.path)], check=True)
            self.mounted = False

    def _resize(self, size: str) -> bool:
        done = subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], capture_output=True)
        return done.returncode == 0
