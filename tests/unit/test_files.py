import os
import subprocess
import sys
from pathlib import Path

from common.files import locked, stamp

TRY = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
"""


def test_a_folder_is_locked_against_other_processes_until_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "anew"

    def others_may() -> bool:
        return subprocess.run([sys.executable, "-c", TRY, folder], capture_output=True).returncode == 0

    with locked(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not others_may()
    assert others_may()


def test_a_file_that_was_given_back_its_size_and_time_has_another_stamp(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("old")
    before, status = stamp(path), path.stat()
    path.write_text("new")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert stamp(path) != before
