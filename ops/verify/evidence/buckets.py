"""Lines kept on disk, in buckets by order id, so that memory is bounded by a bucket and not by the history.

This is the partitioning step of a grace hash join: every source writes each line into its order's bucket, then one
bucket at a time has all that is known of its orders. Order ids end in random digits, which tell the buckets apart.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from ops.verify.evidence.lines import ID_LENGTH

BUCKET_RECORDS: Final = 30_000
"""About how many records of the log a bucket holds: some 10 MB in memory, with the rows of their orders."""
DIGITS_MAX: Final = 3
BUFFERED_CHARS_MAX: Final = 16_000_000


def digits_for(records: int) -> int:
    """How many hexadecimal digits of an order id name its bucket, given how many records there are."""
    digits = 0
    while digits < DIGITS_MAX and records >> (4 * digits) > BUCKET_RECORDS:
        digits += 1
    return digits


def bucket_names(digits: int) -> list[str]:
    return [f"{number:0{digits}x}" for number in range(16**digits)] if digits else [""]


class Writer:
    """Keeps lines until the end of its `with` block. Several may write at once, each under a source name of its own."""

    def __init__(self, directory: Path, source: str, digits: int) -> None:
        self._directory = directory
        self._source = source
        self._from = ID_LENGTH - digits
        self._buffers: defaultdict[str, list[str]] = defaultdict(list)
        self._buffered = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def write(self, line: str) -> None:
        """`line` begins with an order id and has no line break."""
        self.write_lines(line[self._from : ID_LENGTH], line)

    def write_lines(self, bucket: str, lines: str) -> None:
        """Lines of one bucket, with line breaks between them."""
        self._buffers[bucket].append(lines)
        self._buffered += len(lines)
        if self._buffered >= BUFFERED_CHARS_MAX:
            self._flush()

    def _flush(self) -> None:
        for bucket, buffered in self._buffers.items():
            # A forged order id may end in anything.
            name = bucket if bucket.isalnum() and bucket.isascii() else "0" * len(bucket)
            path = self._directory / f"b{name}.{self._source}"
            with path.open("a", encoding="utf-8", errors="replace") as file:
                file.write("\n".join(buffered))
                file.write("\n")
        self._buffers.clear()
        self._buffered = 0


def lines(directory: Path, bucket: str, sources: str) -> Iterator[str]:
    """The lines of a bucket, source by source in the order of their names, each as it was written."""
    for path in sorted(directory.glob(f"b{bucket}.{sources}")):
        # As bytes: reading as text would make a line break of a carriage return.
        yield from path.read_bytes().decode().removesuffix("\n").split("\n")
