"""What the topics must be set to, and what is said when they are not."""

import pytest

from common.events import ORDERS, PRODUCTS
from common.kafka.settings import KEPT, drift_of, wanted


def test_a_topic_as_it_is_made_has_no_drift() -> None:
    for topic in (ORDERS, PRODUCTS):
        assert drift_of(topic, wanted(topic, 3), 3) == []
    assert drift_of(ORDERS, {**KEPT, "max.message.bytes": "9000000", "segment.index.bytes": "1"}) == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cleanup.policy", "compact"),
        ("cleanup.policy", "compact,delete"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "0"),
        ("message.timestamp.type", "CreateTime"),
        ("max.message.bytes", "100"),
        ("max.message.bytes", "209715200"),
        ("min.insync.replicas", "3"),
    ],
)
def test_what_would_lose_or_refuse_orders_is_drift(setting: str, value: str) -> None:
    [drift] = drift_of(ORDERS, {**wanted(ORDERS, 3), setting: value}, 3)
    assert f"topic 'orders': {setting} is {value}, must be " in str(drift)
    assert "'just topics create'" in str(drift)
