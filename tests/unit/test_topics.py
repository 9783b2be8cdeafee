"""What `just topics` prints."""

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import TopicPartition

from common.config.env import Env
from common.config.kafka import Brokers
from common.errors import Fatal, Transient
from common.events import ORDERS, OUTCOMES, PRODUCTS, READS, TOPICS
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


Times = list[int]
"""When the broker stamped each record of a partition, in s."""
LATER = 1_000_000


def trim_of(
    orders: Times, outcomes: Times, read: int, others: dict[str, dict[str, int]] | None = None
) -> dict[str, int]:
    """Where a trim lets `orders` and `outcomes` begin, each of one partition, if Tandem has read `orders` up to an
    offset, and groups beside it what they have committed of each topic. Records that are not deleted are left out."""
    times = {Partition(ORDERS, 0): [*orders], Partition(OUTCOMES, 0): [*outcomes]}
    committed = {group: {ORDERS: read} for group in READS} | (others or {})
    listed = SimpleNamespace(valid=[SimpleNamespace(group_id=group) for group in committed], errors=[])
    deleted: dict[str, int] = {}

    def bounds(names: list[str]) -> dict[Partition, tuple[int, int]]:
        """As they are at this time. Then another order comes, and its outcome."""
        found = {p: (0, len(of)) for p, of in times.items() if p.topic in names}
        for of in times.values():
            of.append(LATER)
        return found

    def delete(until: list[TopicPartition], request_timeout: float) -> dict[TopicPartition, Any]:
        deleted.update({tp.topic: tp.offset for tp in until})
        return {tp: SimpleNamespace(result=lambda: None) for tp in until}

    def records(bounds: dict[Partition, tuple[int, int]]) -> Iterator[Any]:
        for partition, (first, end) in bounds.items():
            yield from (SimpleNamespace(timestamp=lambda s=s: (1, 1_000 * s)) for s in times[partition][first:end])

    def offsets_at(bounds: dict[Partition, tuple[int, int]], at_ms: int) -> dict[Partition, int]:
        return {p: sum(1_000 * s < at_ms for s in times[p]) for p in bounds}

    log: Any = SimpleNamespace(
        admin=SimpleNamespace(
            list_consumer_groups=lambda request_timeout: SimpleNamespace(result=lambda: listed), delete_records=delete
        ),
        bounds=bounds,
        committed=lambda group, partitions: {
            p: committed[group][p.topic] for p in partitions if p.topic in committed[group]
        },
        read=records,
        offsets_at=offsets_at,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topics, "record", lambda *_: None)
        patch.setattr(topics, "_sizes", lambda _: iter([None, None]))
        topics.trim(log, Env("topics", {}), dry_run=False)
    return deleted


def test_a_trim_keeps_the_outcomes_of_orders_that_are_kept() -> None:
    orders = [0, 100, 200, 300]
    assert trim_of(orders, [1, 101, 201, 301], read=2) == {ORDERS: 2, OUTCOMES: 2}
    assert trim_of(orders, [101, 201], read=1) == {ORDERS: 1}
    assert trim_of(orders, [], read=1) == {ORDERS: 1}


def test_a_trim_goes_by_the_clocks_of_two_brokers() -> None:
    """The outcome may bear the time of its order, or an earlier one."""
    early = topics.CLOCKS_MS // 1_000
    orders, outcomes = [0, 100], [100 - early - 1, 100 - early, 100, 100]
    assert trim_of(orders, outcomes, read=1) == {ORDERS: 1, OUTCOMES: 1}


@pytest.mark.parametrize("orders", [[0, 100], []], ids=["now", "before"])
def test_when_all_orders_are_trimmed_so_are_their_outcomes(orders: Times) -> None:
    deleted = {ORDERS: 2} if orders else {}
    assert trim_of(orders, [1, 101], read=len(orders)) == {**deleted, OUTCOMES: 2}


def test_a_trim_keeps_the_outcomes_that_a_service_beside_tandem_has_not_read() -> None:
    orders, outcomes = [0, 100, 200, 300], [1, 101, 201, 301]
    assert trim_of(orders, outcomes, 4, {"notify": {OUTCOMES: 1}}) == {ORDERS: 4, OUTCOMES: 1}
    assert trim_of(orders, outcomes, 2, {"notify": {OUTCOMES: 4}}) == {ORDERS: 2, OUTCOMES: 2}
    # Once it read both: what it has not read of the orders keeps their outcomes.
    assert trim_of(orders, outcomes, 4, {"notify": {ORDERS: 3}}) == {ORDERS: 3, OUTCOMES: 3}


def test_a_topic_that_no_service_of_tandem_reads_is_not_rewound(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        topics.main(["rewind", OUTCOMES])
    assert "invalid choice: 'outcomes'" in capsys.readouterr().err


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
