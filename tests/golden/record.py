"""`python -m tests.golden.record [REVISION …]` writes the golden log anew, in about a minute for each revision.

Each revision is checked out into a scratch folder and runs `script.py` on the same databases and the same log, as an
installation does that is upgraded from version to version. What the broker then has on its disk is the golden log.
Without arguments, the revisions are those of `REVISIONS`.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from common.events import PRODUCTS, READERS
from dev.archive import extract_all
from dev.settings import ROOT, Settings, new_passwords
from tests.golden.archive import ARCHIVE, FIRST_SEGMENT, Golden, save
from tests.golden.segments import for_any_broker

REVISIONS: Final = ("771bd5c", "cfeb57b", "ea94d9b", "d099eeb", "1012739", "8943931")
"""Versions after which the events, or who writes them, were changed."""
SCRIPT: Final = Path(__file__).with_name("script.py")


def main(revisions: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(prefix="golden-") as scratch:
        home = Path(scratch) / "home"
        home.mkdir()
        cache = Settings.from_environment().cache
        cache.mkdir(parents=True, exist_ok=True)
        (home / "cache").symlink_to(cache)
        stack, passwords = Path(scratch) / "stack", json.dumps(new_passwords())
        stack.mkdir()
        said = {}
        for number, revision in enumerate(revisions, start=1):
            print(f"golden: {revision}", flush=True)
            checkout, out = Path(scratch) / revision, Path(scratch) / f"{revision}.json"
            check_out(revision, checkout)
            subprocess.run(
                [sys.executable, "-P", str(SCRIPT), str(stack), str(number), passwords, str(out)],
                cwd=checkout,
                env={**os.environ, "PYTHONPATH": str(checkout), "TANDEM_HOME": str(home)},
                check=True,
            )
            said[revision] = json.loads(out.read_text())
        save(Golden(dict(segments(stack / "kafka/log")), said))
    print(f"golden: {ARCHIVE.relative_to(ROOT)} has {ARCHIVE.stat().st_size} bytes")


def check_out(revision: str, folder: Path) -> None:
    done = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        extract_all(archive, folder)


def segments(log: Path) -> Iterator[tuple[str, bytes]]:
    """The partitions of our topics that have records. Raises `ValueError` when one was rolled: it is one file here."""
    for folder in sorted(folder for topic in (*READERS, PRODUCTS) for folder in log.glob(f"{topic}-[0-9]*")):
        files = sorted(folder.glob("*.log"))
        if [file.name for file in files] != [FIRST_SEGMENT]:
            raise ValueError(f"{folder.name} has {[file.name for file in files]}")
        if content := files[0].read_bytes():
            yield folder.name, for_any_broker(content)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or REVISIONS)
