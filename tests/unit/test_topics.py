"""What `just topics` prints."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.config.env import Env
from common.config.kafka import Brokers
from common.errors import Fatal, Transient
from common.events import PRODUCTS, READS, TOPICS
from common.kafka import settings
from common.kafka.broker import Partition, Topic
from ops import topics
from ops.log import Log


def log_with(*existing: str) -> Log:
    """A log with these topics, in which nothing was ever written."""

    def bounds(names: Iterable[str]) -> dict[Partition, tuple[int, int]]:
        return {Partition(name, 0): (0, 0) for name in names}

    admin = SimpleNamespace(list_topics=lambda timeout: SimpleNamespace(topics=existing))
    return cast(
        Log,
        SimpleNamespace(
            admin=admin,
            brokers=Brokers("127.0.0.1:1"),
            bounds=bounds,
            members=lambda: dict.fromkeys(READS, ()),
            committed=lambda group, partitions: {},
            drift=lambda names: [],
        ),
    )


def test_a_trim_keeps_what_a_service_beside_tandem_has_not_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`notify` has read partition 0 up to 40, and nothing of partition 1; `elsewhere` reads another topic."""
    all_of_tandem = dict.fromkeys([Partition("orders", 0), Partition("orders", 1)], 100)
    committed = {**dict.fromkeys(READS, all_of_tandem), "notify": {Partition("orders", 0): 40}, "elsewhere": {}}
    listed = SimpleNamespace(valid=[SimpleNamespace(group_id=group) for group in committed], errors=[])
    log: Any = SimpleNamespace(
        admin=SimpleNamespace(list_consumer_groups=lambda request_timeout: SimpleNamespace(result=lambda: listed)),
        bounds=lambda names: {Partition("orders", number): (10, 100) for number in range(2)},
        committed=lambda group, partitions: committed[group],
    )
    topics.trim(log, Env("topics", {}), dry_run=True)
    assert capsys.readouterr().out.splitlines() == [
        "topics: what 'notify' has not read yet is kept; if it is gone for good: 'just topics forget notify'",
        "topics: 30 records would be deleted from 1 partitions",
    ]
    del committed["notify"]
    listed.valid.pop(-2)
    topics.trim(log, Env("topics", {}), dry_run=True)
    assert capsys.readouterr().out == "topics: 180 records would be deleted from 2 partitions\n"
    listed.errors.append("a coordinator is away")
    with pytest.raises(Transient, match=r"a coordinator is away.*nothing was deleted"):
        topics.trim(log, Env("topics", {}), dry_run=True)


def test_what_cannot_be_recorded_is_not_trimmed_rewound_or_forgotten() -> None:
    """The order database has the entries, and is away: nothing listens on that port."""
    away = Env("topics", {"ORDER_DATABASE_URL": "postgresql://order@127.0.0.1:1/order"})
    committed = dict.fromkeys([Partition("orders", 0)], 100)
    listed = SimpleNamespace(valid=[], errors=[])
    log: Any = SimpleNamespace(
        admin=SimpleNamespace(list_consumer_groups=lambda request_timeout: SimpleNamespace(result=lambda: listed)),
        bounds=lambda names: {Partition("orders", 0): (10, 100)},
        committed=lambda group, partitions: committed,
    )
    unrecorded = pytest.raises(Fatal, match="is not recorded in the audit")
    with unrecorded:
        topics.trim(log, away, dry_run=False)
    with unrecorded:
        topics.rewind(log, away, "orders")
    with unrecorded:
        topics.forget(log.admin, away, "notify")


def test_a_broker_that_does_not_know_a_new_topic_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With three brokers, Kafka's own topic of offsets is made by one, and described by another."""
    leader = SimpleNamespace(partitions={0: SimpleNamespace(leader=1)})
    admin = SimpleNamespace(
        create_topics=lambda made, request_timeout: {},
        list_topics=lambda timeout: SimpleNamespace(topics=dict.fromkeys(TOPICS, leader)),
    )
    log: Any = SimpleNamespace(admin=admin, committed=lambda group, partitions: {})
    unknown = Transient("topic '__consumer_offsets' cannot be described: Broker: Unknown topic or partition")
    answers: list[Transient | None] = [unknown, None]

    def fetch_drift(_: object, names: Iterable[str]) -> list[settings.Drift]:
        assert settings.OFFSETS in names
        if answer := answers.pop(0):
            raise answer
        return []

    monkeypatch.setattr("ops.topics.settings.fetch_drift", fetch_drift)
    monkeypatch.setattr("ops.topics.broker.describe", lambda admin, names: {})
    topics.create(log, partitions=6, replicas=3)
    assert not answers

    monkeypatch.setattr(topics, "TIMEOUT_S", -1.0)
    monkeypatch.setattr(topics, "_await_leaders", lambda admin, names: None)
    answers.append(unknown)
    with pytest.raises(Transient, match="__consumer_offsets"):
        topics.create(log, partitions=6, replicas=3)


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (Topic("orders", "T", 6, 3), None),
        (Topic("orders", "T", 6, 5), None),
        (Topic("orders", "T", 6, 1), "orders has 1 copies of each record, TOPIC_REPLICAS is 3"),
        (Topic("orders", "T", 12, 3), "orders has 12 partitions, TOPIC_PARTITIONS asks for 6"),
        (Topic(PRODUCTS, "T", 1, 3), None),
        (Topic(PRODUCTS, "T", 6, 3), "products has 6 partitions, TOPIC_PARTITIONS asks for 1"),
    ],
)
def test_a_topic_that_was_made_otherwise_is_refused(made: Topic, problem: str | None) -> None:
    if problem is None:
        topics.check_made([made], partitions=6, replicas=3)
    else:
        with pytest.raises(Fatal, match=problem):
            topics.check_made([made], partitions=6, replicas=3)


def test_a_topic_that_is_missing_has_no_lag_of_0(capsys: pytest.CaptureFixture[str]) -> None:
    topics.show(log_with(*TOPICS))
    assert "missing" not in capsys.readouterr().out
    topics.show(log_with(*(topic for topic in TOPICS if topic != "orders")))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["orders", "missing"] for line in lines)
    assert any(line.startswith("orders: missing; 'just topics create'") for line in lines)
    lags = [line.split() for line in lines if line.startswith("payment  ")]
    assert lags == [["payment", "0", "orders", "missing", "missing"]]


def test_copies_that_are_not_in_sync_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SimpleNamespace(replicas=[1, 2, 3], isrs=[3, 1, 2])
    left_alone = SimpleNamespace(replicas=[1, 2, 3], isrs=[2])
    of = {"orders": {0: whole, 1: left_alone}, "products": {0: whole}}
    existing = {name: SimpleNamespace(partitions=partitions) for name, partitions in of.items()}
    admin: Any = SimpleNamespace(list_topics=lambda timeout: SimpleNamespace(topics=existing))
    monkeypatch.setattr(topics, "COPIES_WITHIN_S", -1.0)
    with pytest.raises(Fatal, match=r"^topics: copies are not in sync after .*: 2 of orders; is a broker away[?]$"):
        topics.await_copies(admin)
    left_alone.isrs = [2, 3, 1]
    topics.await_copies(admin)
