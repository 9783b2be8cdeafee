"""The code of an earlier revision, as far as its services and migrations need it, to run beside today's.

It is kept as an archive, since a checkout in CI has no history. `python -m tests.golden.older REVISION` writes it anew:
give it the revision that is in use when a new one is about to replace it.
"""

import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

from dev.archive import extract_all
from dev.settings import ROOT

ARCHIVE: Final = Path(__file__).with_name("older.tar.xz")
REVISION: Final = "revision"
"""The file in the archive that names it."""
FOLDERS: Final = ("common", "order", "payment", "inventory", "ops/*.py", "ops/*.sql")
EMPTIED: Final = ("vendor/",)
"""Files of pages, which no test of it opens: 2 MB."""


def unpack(folder: Path) -> str:
    """Put the code there. Returns its revision."""
    with tarfile.open(ARCHIVE) as archive:
        extract_all(archive, folder)
    return (folder / REVISION).read_text().strip()


def record(revision: str) -> None:
    """Write the archive, the same bytes for the same revision."""
    git = ["git", "-C", str(ROOT)]
    code = subprocess.run([*git, "archive", revision, *FOLDERS], capture_output=True, check=True).stdout
    full = subprocess.run([*git, "rev-parse", revision], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(code)) as source, tarfile.open(ARCHIVE, "w:xz", preset=9) as target:
        add(target, REVISION, full)
        for member in source.getmembers():
            file = source.extractfile(member) if member.isfile() else None
            if file is not None:
                add(target, member.name, b"" if any(part in member.name for part in EMPTIED) else file.read())


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    record(sys.argv[1])
