"""Everything that can happen to a producer at once, from a seed; and what it does at the edges of its life."""

import asyncio
import random
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError

from common.config.kafka import Brokers as Address
from common.kafka.async_publisher import AsyncPublisher
from common.kafka.clients import Delivery, delivery_of
from common.kafka.produce import cluster, connection, producer
from common.kafka.produce.batch import Acknowledged, Delivered, Identity, Outgoing
from tests.unit.kafka_brokers import CUT, CUT_AFTERWARDS, NONSENSE, TOPIC, Answer, Brokers, Log
from tests.unit.test_producer import Sender, first, run, soon, until

__all__ = ["soon"]
"""A fixture for every test here too."""

FAULTS: tuple[Answer, ...] = (
    *[0] * 12,
    CUT,
    CUT_AFTERWARDS,
    NONSENSE,
    KafkaError.NOT_ENOUGH_REPLICAS,
    (KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,),
    (KafkaError.REQUEST_TIMED_OUT,),
    (KafkaError.NOT_LEADER_FOR_PARTITION,),
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    KafkaError.MSG_SIZE_TOO_LARGE,
    -1,
    (-1,),
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.KAFKA_STORAGE_ERROR,
)
ANSWERED_S = 0.05


@pytest.mark.parametrize("seed", range(6))
def test_what_is_acknowledged_is_stored_once_in_order_whatever_happens(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "TIMEOUT_S", ANSWERED_S)
    monkeypatch.setattr(cluster, "OTHERS_S", 0.01)
    monkeypatch.setattr(producer, "DELIVERY_TIMEOUT_MS", 250)
    choice = random.Random(seed)
    brokers = Brokers({0: 1, 1: 2, 2: 3, 3: 1})
    brokers.behaviour = lambda _, __: choice.choice(FAULTS)
    up = True

    async def story(sender: Sender) -> None:
        nonlocal up
        sent: list[tuple[bytes, asyncio.Future[Acknowledged]]] = []
        for number in range(120):
            values = [(choice.randrange(-1, 4), b"%06d" % (number * 10 + each)) for each in range(choice.randrange(5))]
            sent += zip((value for _, value in values), sender.begin(values), strict=True)
            what = choice.random()
            if up and what < 0.02:
                brokers.stop(2)
                up = False
            elif not up and what < 0.06:
                await brokers.start(2)
                up = True
            elif what < 0.12:
                brokers.frozen = {3} if what < 0.08 else set()
            elif what < 0.16:
                brokers.logs[choice.randrange(4)].leader = choice.randrange(1, 4)
                brokers.epoch += 1
            await asyncio.sleep(choice.random() * 0.005)
        if not up:
            await brokers.start(2)
        brokers.frozen = set()
        await asyncio.gather(*(future for _, future in sent), return_exceptions=True)
        check(brokers, sent)
        await until(lambda: not sender.producer._ready and not sender.producer._homeless)

    run(brokers, story)


def check(brokers: Brokers, sent: "list[tuple[bytes, asyncio.Future[Acknowledged]]]") -> None:
    stored = [value for log in brokers.logs.values() for value in log.values]
    assert len(set(stored)) == len(stored)
    acknowledged = set()
    for value, future in sent:
        error = future.exception()
        if error is None:
            place = future.result()
            assert brokers.logs[place.partition].values[place.offset] == value
            acknowledged.add(value)
        elif delivery_of(error.args[0]) is not Delivery.UNKNOWN:
            assert value not in stored
    assert acknowledged
    for log in brokers.logs.values():
        in_order = [value for value in log.values if value in acknowledged]
        assert in_order == sorted(in_order)


def ours() -> list[str]:
    """The tasks of producers that have not ended."""
    return [repr(task) for task in asyncio.all_tasks() if "common/kafka" in repr(task)]


def noted() -> tuple[list[bytes], Delivered]:
    """The values of records whose fate was told, and what notes them."""
    told: list[bytes] = []

    def note(record: Outgoing, _: Acknowledged | None, __: KafkaError | None) -> None:
        told.append(record.value)

    return told, note


def test_whoever_is_told_may_send_the_next() -> None:
    brokers = Brokers({0: 1, 1: 1})

    async def story(sender: Sender) -> None:
        told, note = noted()

        def again(record: Outgoing, _: Acknowledged | None, __: KafkaError | None) -> None:
            told.append(record.value)
            sender.producer.produce([Outgoing(TOPIC, number, b"k", b"next", note) for number in (0, 1)])

        sender.producer.produce([Outgoing(TOPIC, 0, b"k", b"1", again), Outgoing(TOPIC, 0, b"k", b"2", note)])
        await until(lambda: len(told) == 4)

    run(brokers, story)
    assert [log.values for log in brokers.logs.values()] == [[b"1", b"2", b"next"], [b"next"]]


def test_whoever_is_told_that_it_is_over_may_send_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "DELIVERY_TIMEOUT_MS", 50)
    brokers = Brokers({0: 1, 1: 1})
    brokers.behaviour = lambda _, __: KafkaError.NOT_ENOUGH_REPLICAS

    async def story(sender: Sender) -> None:
        told, note = noted()

        def again(record: Outgoing, _: Acknowledged | None, __: KafkaError | None) -> None:
            brokers.behaviour = first(0)
            sender.producer.produce([Outgoing(TOPIC, number, b"k", b"next", note) for number in (0, 1)])

        sender.producer.produce([Outgoing(TOPIC, number, b"k", b"1", again) for number in (0, 1)])
        await until(lambda: len(told) == 4)

    run(brokers, story)
    assert [log.values for log in brokers.logs.values()] == [[b"next", b"next"]] * 2


def test_whoever_is_told_may_close_it() -> None:
    brokers = Brokers({0: 1, 1: 1})

    async def story(sender: Sender) -> None:
        told: list[bytes] = []

        def close(record: Outgoing, _: Acknowledged | None, __: KafkaError | None) -> None:
            told.append(record.value)
            sender.producer.close()

        sender.producer.produce(
            [Outgoing(TOPIC, number, b"k", value, close) for number, value in ((0, b"1"), (0, b"2"), (1, b"3"))]
        )
        await until(lambda: sorted(told) == [b"1", b"2", b"3"])

    run(brokers, story)


def test_a_closed_producer_takes_nothing_and_asks_nobody() -> None:
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        await sender.send((0, b"1"))
        connections = brokers.connections
        sender.producer.close()
        [error] = await sender.fails((0, b"2"))
        assert delivery_of(error) is Delivery.NOT_TAKEN
        with pytest.raises(ConnectionError, match="closed"):
            await sender.producer.cluster.describe([TOPIC])
        await until(lambda: not ours())
        assert brokers.connections == connections

    run(brokers, story)


def test_what_a_closed_publisher_is_given_fails_in_time() -> None:
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        publisher = AsyncPublisher(Address(f"127.0.0.1:{brokers.ports[1]}"), "test", linger_s=0, deadline_s=0.05)
        await publisher.send(TOPIC, b"k", b"v", 0)
        await publisher.close()
        ended = await asyncio.gather(publisher.send(TOPIC, b"k", b"v", 0), return_exceptions=True)
        assert isinstance(ended[0], Exception)

    run(brokers, story)


def connecting(brokers: Brokers, _: Sender) -> None:
    brokers.frozen.add(1)


def without_topic(brokers: Brokers, _: Sender) -> None:
    brokers.topics[TOPIC] = KafkaError.UNKNOWN_TOPIC_OR_PART


def without_identity(brokers: Brokers, _: Sender) -> None:
    brokers.identity_error = KafkaError.COORDINATOR_LOAD_IN_PROGRESS


@pytest.mark.parametrize("stage", [connecting, without_topic, without_identity])
def test_closing_at_any_stage_tells_everybody_and_leaves_nothing(stage: Callable[[Brokers, Sender], None]) -> None:
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        stage(brokers, sender)
        sent = sender.begin([(0, b"1"), (-1, b"2")])
        await until(lambda: brokers.connections > 0)
        sender.producer.close()
        assert all(future.done() for future in sent)
        await until(lambda: not ours())

    run(brokers, story)


@pytest.mark.parametrize("number", [0, -1])
def test_the_buffer_has_an_end_whatever_waits(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "PRODUCER_BUFFER_KIB", 3)
    brokers = Brokers({0: 1})
    brokers.topics[TOPIC] = KafkaError.UNKNOWN_TOPIC_OR_PART

    async def story(sender: Sender) -> None:
        sent = [future for _ in range(5) for future in sender.begin([(number, bytes(1_000))])]
        assert [future.done() for future in sent] == [False, False, True, True, True]

    run(brokers, story)


@pytest.mark.parametrize("what", ["identity", "topic"])
def test_what_was_never_sent_is_not_called_unknown(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "DELIVERY_TIMEOUT_MS", 50)
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        if what == "identity":
            brokers.identity_error = KafkaError.COORDINATOR_LOAD_IN_PROGRESS
        else:
            brokers.topics[TOPIC] = KafkaError.LEADER_NOT_AVAILABLE
        errors = await sender.fails((0, b"1"), (-1, b"2"))
        assert [delivery_of(error) for error in errors] == [Delivery.NOT_TAKEN] * len(errors)
        assert errors

    run(brokers, story)


def test_nothing_waits_for_the_clock_when_all_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "TICK_S", 3_600.0)
    brokers = Brokers({0: 1, 1: 2})

    async def story(sender: Sender) -> None:
        await sender.send((0, b"1"), (1, b"1"), (-1, b"2"))

    run(brokers, story)


def test_a_log_that_lacks_what_it_had_is_written_under_another_identity() -> None:
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        await sender.send((0, b"1"))
        await sender.send((0, b"2"))
        del brokers.logs[0].batches[-1]
        await sender.send((0, b"3"))

    run(brokers, story)
    assert brokers.logs[0].values == [b"1", b"3"]
    assert brokers.identities == 2


def test_an_identity_is_taken_of_whoever_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        await sender.send((0, b"1"))

        async def ask(*_: object) -> list[tuple[int, Identity]]:
            return [(KafkaError.COORDINATOR_LOAD_IN_PROGRESS, Identity(-1, -1)), (0, Identity(77, 0))]

        monkeypatch.setattr(sender.producer.cluster, "ask", ask)
        brokers.behaviour = first(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
        await sender.send((0, b"2"))

    run(brokers, story)
    assert brokers.logs[0].batches[-1].producer_id == 77


def test_partitions_that_were_added_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "REFRESH_S", 0.02)
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        await sender.send((-1, b"1"))
        brokers.logs[1] = Log(1)
        await until(lambda: len(sender.producer.cluster.topic(TOPIC).leaders) == 2)

    run(brokers, story)


def test_a_leader_that_is_elected_late_is_found() -> None:
    brokers = Brokers({0: 1, 1: 1})

    async def story(sender: Sender) -> None:
        brokers.logs[0].leader = -1
        [sent] = sender.begin([(0, b"1")])
        await until(lambda: brokers.metadata_requests > 2)
        brokers.logs[0].leader, brokers.epoch = 1, 2
        assert (await sent).offset == 0

    run(brokers, story)


def test_the_addresses_of_the_settings_are_tried_when_all_others_are_wrong() -> None:
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        await sender.send((0, b"1"))
        sender.producer.cluster._addresses = {1: ("127.0.0.1", 1)}
        brokers.stop(1)
        await brokers.start(1)
        assert (await sender.send((0, b"2")))[0].offset == 1

    run(brokers, story)


def test_what_is_known_of_an_election_is_not_forgotten_for_a_broker_that_lags() -> None:
    brokers = Brokers({0: 1, 1: 2})

    async def story(sender: Sender) -> None:
        brokers.epoch = 5
        await sender.send((0, b"1"), (1, b"1"))
        brokers.lagging = {1: {0: 2, 1: 1}, 2: {0: 2, 1: 1}}
        asked = brokers.metadata_requests
        sender.producer.cluster._refreshed_s = -1e9
        sender.producer.cluster.refresh()
        await until(lambda: brokers.metadata_requests >= asked + 2 and not ours())
        assert [leader.node for leader in sender.producer.cluster.topic(TOPIC).leaders.values()] == [1, 2]

    run(brokers, story)


def test_a_topic_that_was_made_anew_is_found_with_its_leaders() -> None:
    brokers = Brokers({0: 1, 1: 2})

    async def story(sender: Sender) -> None:
        brokers.epoch = 5
        await sender.send((0, b"1"), (1, b"1"))
        brokers.topic_id, brokers.epoch = b"j" * 16, 0
        brokers.logs = {0: Log(2), 1: Log(1)}
        assert [place.offset for place in await sender.send((0, b"2"), (1, b"2"))] == [0, 0]

    run(brokers, story)


def test_brokers_that_are_away_are_not_pressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "RECONNECT_S", 3_600.0)
    monkeypatch.setattr(cluster, "RECONNECT_MAX_S", 3_600.0)
    brokers = Brokers({0: 1})
    attempts: list[object] = []

    async def story(sender: Sender) -> None:
        async def counted(*arguments: object) -> object:
            attempts.append(arguments)
            raise ConnectionRefusedError

        monkeypatch.setattr(cluster, "connect", counted)
        monkeypatch.setattr("common.backoff.random.random", lambda: 1.0)
        brokers.stop(1)
        for _ in range(30):
            sender.begin([(0, b"1")])
            await asyncio.sleep(0.001)

    run(brokers, story)
    assert len(attempts) == 1
