"""A disk of its own for a server, so that it can run full: a tmpfs, which is resized while it is in use.

It takes root (or the right to mount). Without it the servers write into the folder, and the fault is reported as not
possible here.
"""

import os
import subprocess
from pathlib import Path
from typing import Final

ROOMY: Final = "80%"
"""The disk's size as a share of the memory; a tmpfs takes only what is written."""


class Disk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.mounted = False

    def mount(self) -> None:
        self.path.mkdir(parents=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={ROOMY},mode=0711", "tandem-chaos", str(self.path)],
            capture_output=True,
        )
        self.mounted = done.returncode == 0

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
