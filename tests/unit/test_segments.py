"""The golden log's own tools."""

from tests.golden.archive import load
from tests.golden.segments import crc32c, for_any_broker, records_of


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_a_segment_is_read_whole() -> None:
    golden = load()
    offsets: dict[tuple[str, int], list[int]] = {}
    for record in golden.records():
        offsets.setdefault((record.topic, record.partition), []).append(record.offset)
    assert len(offsets) == len(golden.segments)
    for (topic, _), found in offsets.items():
        assert found == sorted(found)
        assert topic == "products" or found == list(range(len(found)))


def test_what_belongs_to_a_broker_is_taken_out_once() -> None:
    for folder, segment in load().segments.items():
        assert for_any_broker(segment) == segment, folder
        spoilt = segment[:12] + b"\0\0\0\7" + segment[16:]  # another leader's epoch
        assert list(records_of("t", 0, spoilt)) == list(records_of("t", 0, segment))
        assert for_any_broker(spoilt) == segment
