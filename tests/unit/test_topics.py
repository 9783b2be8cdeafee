"""What `just topics` prints."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import cast

import pytest

from common.events import PRODUCTS, READERS
from common.kafka.broker import Partition
from ops import topics
from ops.log import Log


def log_with(*existing: str) -> Log:
    """A log with these topics, in which nothing was ever written."""

    def bounds(names: Iterable[str]) -> dict[Partition, tuple[int, int]]:
        return {Partition(name, 0): (0, 0) for name in names}

    admin = SimpleNamespace(
        list_topics=lambda timeout: SimpleNamespace(topics=existing),
        describe_consumer_groups=lambda groups, request_timeout: {},
    )
    return cast(
        Log,
        SimpleNamespace(
            admin=admin,
            bounds=bounds,
            committed=lambda group, partitions: {},
            drift=lambda names: [],
        ),
    )


def test_a_topic_that_is_missing_has_no_lag_of_0(capsys: pytest.CaptureFixture[str]) -> None:
    topics.show(log_with(*READERS, PRODUCTS))
    assert "missing" not in capsys.readouterr().out
    topics.show(log_with("payments", "inventory", PRODUCTS))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["orders", "missing"] for line in lines)
    assert any(line.startswith("orders: missing; 'just topics create'") for line in lines)
    lags = [line.split() for line in lines if line.startswith("payment  ")]
    assert lags == [["payment", "0", "orders", "missing", "missing"]]
