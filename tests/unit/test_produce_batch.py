"""The bytes of a batch, and the partition of a key, against the values of Kafka's own tests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.kafka.produce.batch import RECORD_OVERHEAD, Identity, Outgoing, encode, murmur2, partition_of
from common.kafka.wire import Fields, varint
from tests.unit.kafka_brokers import records_of


# Of `UtilsTest.testMurmur2` of Java's client, whose numbers are signed.
@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_a_key_belongs_to_the_partition_that_javas_client_gives_it(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed & 0xFFFFFFFF
    assert partition_of(key, 6) == (hashed & 0x7FFFFFFF) % 6


@given(st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=9_000)), min_size=1, max_size=80))
def test_a_batch_has_its_records_in_order_and_no_more_bytes_than_they_are_counted_for(
    records: list[tuple[bytes, bytes]],
) -> None:
    outgoing = [Outgoing("t", 0, key, value) for key, value in records]
    batch = encode(outgoing, Identity(2**40, 3), 17, 1_700_000_000_000)
    stored = records_of(batch)
    assert (stored.producer_id, stored.sequence) == (2**40, 17)
    assert stored.values == [value for _, value in records]
    assert len(batch) <= 61 + sum(record.size for record in outgoing)


def test_the_count_of_a_records_bytes_holds_for_the_largest() -> None:
    for size in (0, 63, 64, 8_191, 8_192, 999_000):
        batch = encode([Outgoing("t", 0, b"k" * 200, b"v" * size)] * 3, Identity(1, 0), 0, 0)
        assert len(batch) - 61 <= 3 * (200 + size + RECORD_OVERHEAD)


@given(st.integers(min_value=0, max_value=2**62))
def test_a_varint_is_read_as_it_was_written(value: int) -> None:
    assert Fields(varint(value)).varint() == value
