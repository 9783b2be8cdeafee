"""A log whose reader stands still does not stop the process."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.log import Output


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of four pages: its reading and its writing end."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 16384)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_lines_that_nobody_reads_are_lost_and_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    output = Output(writer, lambda lost: f"{lost} lost\n", patience_s=0)
    for number in range(1000):
        output.write(f"line {number:3} {'.' * 90}\n")
    held = os.read(reader, 65536).decode().splitlines()
    assert 0 < len(held) < 1000
    output.write("the reader is back\n")
    assert os.read(reader, 65536).decode().splitlines() == [f"{1000 - len(held)} lost", "the reader is back"]


def test_a_line_that_was_cut_short_ends_before_the_next_one(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    output = Output(writer, lambda lost: f"{lost} lost\n", patience_s=0)
    output.write("x" * 50_000 + "\n")
    cut = os.read(reader, 65536)
    assert cut == b"x" * len(cut)
    output.write("whole\n")
    assert os.read(reader, 65536) == b"\n1 lost\nwhole\n"


def test_a_line_of_any_length_is_whole_in_a_file(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        Output(log.fileno(), str, patience_s=0).write("ü" * 10_000 + "\n")
    assert (tmp_path / "log").read_text() == "ü" * 10_000 + "\n"
