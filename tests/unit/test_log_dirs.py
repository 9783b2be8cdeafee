import struct

import pytest

from common.errors import Transient
from ops.log_dirs import total


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def directory(error: int = 0, **topics: tuple[int, ...]) -> bytes:
    """A folder of a broker, with the sizes of the partitions of each topic."""
    answer = struct.pack(">h", error) + text("/data") + struct.pack(">i", len(topics))
    for topic, sizes in topics.items():
        partitions = b"".join(struct.pack(">iqqb", number, size, 0, 0) for number, size in enumerate(sizes))
        answer += text(topic) + struct.pack(">i", len(sizes)) + partitions
    return answer


def answer(*directories: bytes) -> bytes:
    return struct.pack(">ii", 0, len(directories)) + b"".join(directories)


def test_the_sizes_of_the_wanted_topics_are_added_up() -> None:
    said = answer(directory(orders=(5, 7), products=(100,)), directory(payments=(2**40,)))
    assert total(said, frozenset({"orders", "payments"})) == 12 + 2**40


def test_a_folder_that_cannot_be_read_is_named() -> None:
    with pytest.raises(Transient, match=r"/data .* error 56"):
        total(answer(directory(error=56)), frozenset())


def test_an_answer_that_ends_too_soon_is_an_error() -> None:
    with pytest.raises(struct.error):
        total(answer(directory(orders=(5,)))[:-9], frozenset({"orders"}))
