import struct

import pytest

from common.errors import Transient
from ops.log_dirs import Folder, read

NO_TAGS = b"\0"
A_TAG = b"\1\0\2??"


def text(value: str) -> bytes:
    return bytes([len(value) + 1]) + value.encode()


def directory(error: int = 0, **topics: tuple[int, ...]) -> bytes:
    """A folder of a broker, with the sizes of the partitions of each topic, on a volume of 1000 bytes."""
    answer = struct.pack(">h", error) + text("/data") + bytes([len(topics) + 1])
    for topic, sizes in topics.items():
        partitions = [struct.pack(">iqqb", number, size, 0, 0) + NO_TAGS for number, size in enumerate(sizes)]
        answer += text(topic) + bytes([len(sizes) + 1]) + b"".join(partitions) + A_TAG
    return answer + struct.pack(">qq", 1_000, 250) + NO_TAGS


def answer(*directories: bytes, error: int = 0) -> bytes:
    head = NO_TAGS + struct.pack(">ih", 0, error) + bytes([len(directories) + 1])
    return head + b"".join(directories) + NO_TAGS


def test_the_sizes_of_a_topics_partitions_are_added_up() -> None:
    said = answer(directory(orders=(5, 7), products=(100,)), directory(payments=(2**40,)))
    assert read(said) == [
        Folder({"orders": 12, "products": 100}, 1_000, 250),
        Folder({"payments": 2**40}, 1_000, 250),
    ]


def test_a_long_name_takes_a_length_of_two_bytes() -> None:
    name = "a" * 300
    partition = struct.pack(">iqqb", 0, 5, 0, 0) + NO_TAGS
    topic = bytes([301 & 0x7F | 0x80, 301 >> 7]) + name.encode() + bytes([2]) + partition + NO_TAGS
    said = answer(struct.pack(">h", 0) + text("/data") + bytes([2]) + topic + struct.pack(">qq", 9, 8) + NO_TAGS)
    assert read(said) == [Folder({name: 5}, 9, 8)]


def test_a_folder_that_cannot_be_read_is_named() -> None:
    with pytest.raises(Transient, match=r"/data .* error 56"):
        read(answer(directory(error=56)))


def test_a_broker_that_refuses_is_an_error() -> None:
    with pytest.raises(Transient, match="error 31"):
        read(answer(error=31))


def test_an_answer_that_ends_too_soon_is_an_error() -> None:
    with pytest.raises(struct.error):
        read(answer(directory(orders=(5,)))[:-9])
