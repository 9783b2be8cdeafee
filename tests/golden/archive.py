"""The golden log: the files of the broker, and what the versions that wrote it said of their orders."""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.golden.segments import StoredRecord, records_of

ARCHIVE: Final = Path(__file__).with_name("log.tar.xz")
FIRST_SEGMENT: Final = "00000000000000000000.log"
_SAID: Final = "said.json"


class Golden(NamedTuple):
    """`segments` by partition folder, such as `orders-0`; `said` by revision, in the order in which they ran."""

    segments: Mapping[str, bytes]
    said: Mapping[str, Mapping[str, Any]]

    def records(self) -> Iterator[StoredRecord]:
        """All records, one partition after the other."""
        for folder, segment in self.segments.items():
            named = re.fullmatch(r"(.+)-(\d+)", folder)
            assert named is not None, folder
            yield from records_of(named[1], int(named[2]), segment)


def load() -> Golden:
    with tarfile.open(ARCHIVE) as archive:
        files = {member.name: _content(archive, member) for member in archive.getmembers()}
    said = json.loads(files.pop(_SAID))
    return Golden(files, said)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, member.name
    return file.read()


def save(golden: Golden) -> None:
    """Write the archive, the same bytes for the same log."""
    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for name, content in [*sorted(golden.segments.items()), (_SAID, json.dumps(golden.said, indent=1).encode())]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
