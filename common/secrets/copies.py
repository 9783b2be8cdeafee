"""`python -m common.secrets.copies FROM TO`: keeps copies of a folder's files that only this user may read.

Kubernetes mounts a Secret so that a group may read it, unless the process is root; libpq takes no password file that
others may read. So a container beside each process copies them, and copies them again when they change. Here a file
changes before the server does, so the old version stays beside the new one.

Reference: PostgreSQL 18, "The Password File".
"""

import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from common.files import write
from common.secrets.change import pending_file

EVERY_S: Final = 2.0
COMPLETE: Final = "complete"
"""The file that is there once all have been copied."""


def copy_changed(source: Path, target: Path) -> list[str]:
    """Copy the files that are missing or differ, each atomically. Returns their names. Raises `OSError`."""
    changed = []
    for path in sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith(".")):
        text, copy = path.read_text(encoding="utf-8"), target / path.name
        before = copy.read_text(encoding="utf-8") if copy.exists() else text
        if not copy.exists() or before != text:
            if before != text:  # the server may know it for a while: a client tries both (`common.secrets.change`)
                write(pending_file(copy), before, 0o600)
            write(copy, text, 0o600)
            changed.append(path.name)
    return changed


def main(arguments: Sequence[str]) -> int:
    source, target = map(Path, arguments)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    while True:
        for name in copy_changed(source, target):
            print(f"copies: {name} is new", flush=True)
        (target / COMPLETE).touch()
        if stopping.wait(EVERY_S):
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
