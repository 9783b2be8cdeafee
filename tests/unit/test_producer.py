"""What the producer acknowledges is stored once and in order, by brokers that refuse, move, fall silent and go away."""

import asyncio
import contextlib
import gc
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator

import pytest
from confluent_kafka import KafkaError, KafkaException

from common.config.kafka import Brokers as Address
from common.kafka.clients import Delivery, delivery_of
from common.kafka.produce import cluster, connection, partition, producer
from common.kafka.produce.batch import BATCH_BYTES_MAX, Acknowledged, Outgoing
from common.kafka.produce.producer import Producer
from common.kafka.publisher import Publisher
from tests.unit.kafka_brokers import AT_MS, CUT, CUT_AFTERWARDS, NONSENSE, TOPIC, Answer, Brokers, Stored

PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a producer waits for in seconds comes in hundredths."""
    monkeypatch.setattr(producer, "TICK_S", 0.005)
    monkeypatch.setattr(partition, "RETRY_S", 0.005)
    monkeypatch.setattr(partition, "RETRY_MAX_S", 0.02)
    monkeypatch.setattr(cluster, "RECONNECT_S", 0.005)
    monkeypatch.setattr(cluster, "RECONNECT_MAX_S", 0.02)
    monkeypatch.setattr(cluster, "REFRESH_AGAIN_S", 0.005)


class Sender:
    """Sends records, and awaits their fates."""

    def __init__(self, servers: str) -> None:
        self.producer = Producer(Address(servers), "test")

    def begin(self, records: Iterable[tuple[int, bytes]]) -> "list[asyncio.Future[Acknowledged]]":
        """Send values to partitions."""
        futures = []
        outgoing = []
        for number, value in records:
            future: asyncio.Future[Acknowledged] = asyncio.get_running_loop().create_future()
            futures.append(future)
            outgoing.append(Outgoing(TOPIC, number, b"key", value, told(future)))
        self.producer.produce(outgoing)
        return futures

    async def send(self, *records: tuple[int, bytes]) -> list[Acknowledged]:
        return list(await asyncio.gather(*self.begin(records)))

    async def fails(self, *records: tuple[int, bytes]) -> list[KafkaError]:
        ended = await asyncio.gather(*self.begin(records), return_exceptions=True)
        return [error.args[0] for error in ended if isinstance(error, KafkaException)]


def told(future: "asyncio.Future[Acknowledged]") -> Callable[[Outgoing, Acknowledged | None, KafkaError | None], None]:
    def delivered(_: Outgoing, acknowledged: Acknowledged | None, error: KafkaError | None) -> None:
        assert not future.done(), "told twice"
        if acknowledged is not None:
            future.set_result(acknowledged)
        else:
            future.set_exception(KafkaException(error))
            future.exception()  # whether anybody asks or not

    return delivered


def run(brokers: Brokers, story: Callable[[Sender], Awaitable[None]]) -> None:
    """Run a story; an error in a callback fails the test."""
    failures: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with asyncio.timeout(PATIENCE_S), brokers.running() as servers:
            sender = Sender(servers)
            await story(sender)
            sender.producer.close()
            await asyncio.sleep(0)

    asyncio.run(main())
    assert not failures


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the brokers and the producer know of no event
        await asyncio.sleep(0.001)


def first(answer: Answer, times: int = 1) -> Callable[[int, Stored], Answer]:
    """Behave so for some batches, then store them."""
    left = iter([answer] * times)
    return lambda _, __: next(left, 0)


def test_a_leader_is_asked_once_for_all_of_its_partitions() -> None:
    brokers = Brokers({0: 1, 1: 1, 2: 2, 3: 1})

    async def story(sender: Sender) -> None:
        places = await sender.send((0, b"a"), (1, b"b"), (2, b"c"), (3, b"d"), (1, b"e"))
        assert places == [(0, 0, AT_MS), (1, 0, AT_MS), (2, 0, AT_MS), (3, 0, AT_MS), (1, 1, AT_MS)]
        assert sorted(brokers.requests) == [(1, [0, 1, 3]), (2, [2])]

    run(brokers, story)
    assert [log.values for log in brokers.logs.values()] == [[b"a"], [b"b", b"e"], [b"c"], [b"d"]]


def test_records_that_come_while_a_batch_is_under_way_go_together_in_the_next() -> None:
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        brokers.held = asyncio.Event()
        one = sender.begin([(0, b"1")])
        await until(lambda: bool(brokers.requests))
        others = sender.begin([(0, b"2")]) + sender.begin([(0, b"3")])
        brokers.held.set()
        assert [place.offset for place in await asyncio.gather(*one, *others)] == [0, 1, 2]

    run(brokers, story)
    assert [batch.values for batch in brokers.logs[0].batches] == [[b"1"], [b"2", b"3"]]


@pytest.mark.parametrize(
    "answer",
    [
        CUT,
        CUT_AFTERWARDS,
        NONSENSE,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.UNKNOWN_PRODUCER_ID,
    ],
)
def test_a_batch_is_sent_until_the_log_has_it_once(answer: Answer) -> None:
    brokers = Brokers({0: 1, 1: 1})

    async def story(sender: Sender) -> None:
        await sender.send((0, b"before"), (1, b"before"))
        brokers.behaviour = first(answer, times=3)
        one = sender.begin([(0, b"1"), (0, b"2"), (1, b"3")])
        two = sender.begin([(0, b"4")])
        assert [place.offset for place in await asyncio.gather(*one, *two)] == [1, 2, 1, 3]

    run(brokers, story)
    assert [log.values for log in brokers.logs.values()] == [[b"before", b"1", b"2", b"4"], [b"before", b"3"]]


def test_a_partition_that_has_moved_is_followed_and_keeps_its_order() -> None:
    brokers = Brokers({0: 1, 1: 2})

    async def story(sender: Sender) -> None:
        await sender.send((0, b"1"), (1, b"x"))
        brokers.logs[0].leader = 2
        await sender.send((0, b"2"))
        brokers.stop(1)
        await sender.send((0, b"3"), (1, b"y"))
        assert brokers.requests[-1] == (2, [0, 1])

    run(brokers, story)
    assert brokers.logs[0].values == [b"1", b"2", b"3"]
    assert len({batch.producer_id for batch in brokers.logs[0].batches}) == 1


def test_a_leader_that_falls_silent_keeps_nobody_else_waiting_and_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TIMEOUT_S", 0.05)
    brokers = Brokers({0: 1, 1: 2})

    async def story(sender: Sender) -> None:
        await sender.send((0, b"1"), (1, b"x"))
        brokers.frozen.add(1)
        [waits, other] = sender.begin([(0, b"2"), (1, b"y")])
        assert (await other).offset == 1
        assert not waits.done()
        await sender.send((1, b"z"))
        brokers.logs[0].leader = 2
        assert (await waits).offset == 1

    run(brokers, story)


def test_one_that_is_frozen_keeps_nobody_from_an_identity_or_from_the_metadata() -> None:
    brokers = Brokers({0: 1, 1: 2, 2: 2, 3: 2})

    async def story(sender: Sender) -> None:
        await sender.send((0, b"1"), (1, b"1"))
        brokers.frozen.add(1)
        brokers.behaviour = first(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)  # which needs another identity
        await sender.send((2, b"1"))
        await sender.send((1, b"2"), (3, b"2"))
        described = await sender.producer.cluster.describe([TOPIC])
        assert described.topics[TOPIC].error == 0

    run(brokers, story)
    assert brokers.identities >= 2


def test_one_that_is_frozen_from_the_beginning_is_sent_nothing() -> None:
    brokers = Brokers({0: 1, 1: 2})
    brokers.frozen.add(1)

    async def story(sender: Sender) -> None:
        [waits, other] = sender.begin([(0, b"1"), (1, b"1")])
        await other
        assert not sender.producer._partitions[TOPIC, 0].asked
        brokers.logs[0].leader = 2
        assert (await waits).offset == 0

    run(brokers, story)


def test_a_broker_that_does_not_know_of_an_election_is_not_believed() -> None:
    brokers = Brokers({0: 1, 1: 2, 2: 3})

    async def story(sender: Sender) -> None:
        await sender.send((0, b"1"), (1, b"1"), (2, b"1"))
        brokers.lagging = {1: {0: 1, 1: 2, 2: 3}, 3: {0: 1, 1: 2, 2: 3}}
        brokers.logs[0].leader, brokers.epoch = 2, 2
        assert (await sender.send((0, b"2")))[0].offset == 1

    run(brokers, story)
    assert sum(numbers == [0] for _, numbers in brokers.requests) < 10


def test_a_broker_with_another_address_is_found_by_way_of_the_others() -> None:
    brokers = Brokers({0: 1, 1: 2})

    async def story(sender: Sender) -> None:
        await sender.send((0, b"1"), (1, b"1"))
        brokers.stop(1)
        del brokers.ports[1]
        await brokers.start(1)
        assert (await sender.send((0, b"2")))[0].offset == 1

    run(brokers, story)


def test_a_connection_that_the_broker_has_closed_meanwhile_is_made_again() -> None:
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        for offset in range(5):
            assert (await sender.send((0, b"1")))[0].offset == offset
            brokers.stop(1)
            await brokers.start(1)

    run(brokers, story)
    assert brokers.logs[0].values == [b"1"] * 5


def test_who_was_away_at_first_is_found() -> None:
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        brokers.stop(1)
        sent = sender.begin([(0, b"1")])
        await asyncio.sleep(0)
        await brokers.start(1)
        assert (await asyncio.gather(*sent))[0].offset == 0

    run(brokers, story)


def test_a_batch_that_is_too_large_is_divided_until_only_the_record_to_blame_fails() -> None:
    brokers = Brokers({0: 1})

    def at_most_10_bytes(_: int, batch: Stored) -> Answer:
        return 0 if sum(map(len, batch.values)) <= 10 else KafkaError.MSG_SIZE_TOO_LARGE

    async def story(sender: Sender) -> None:
        brokers.behaviour = at_most_10_bytes
        [error] = await sender.fails((0, b"1111"), (0, b"2222"), (0, b"3" * 11), (0, b"4444"), (0, b"5555"))
        assert (error.code(), error.str()) == (KafkaError.MSG_SIZE_TOO_LARGE, "why")
        assert delivery_of(error) is Delivery.REFUSED
        await sender.send((0, b"6"))
        await sender.send(*[(0, b"7")] * 5)  # batches are as large as before

    run(brokers, story)
    assert brokers.logs[0].values == [b"1111", b"2222", b"4444", b"5555", b"6"] + [b"7"] * 5
    assert len(brokers.logs[0].batches[-1].values) == 5
    assert len({batch.producer_id for batch in brokers.logs[0].batches}) == 1  # a refusal takes no number


def test_a_refusal_is_told_at_once_and_ends_with_its_cause() -> None:
    brokers = Brokers({0: 1, 1: 1})

    async def story(sender: Sender) -> None:
        brokers.behaviour = lambda number, _: KafkaError.TOPIC_AUTHORIZATION_FAILED if number == 0 else 0
        [error] = await sender.fails((0, b"1"), (1, b"2"))
        assert delivery_of(error) is Delivery.REFUSED
        brokers.behaviour = first(0)
        assert await sender.send((0, b"3"), (1, b"4")) == [(0, 0, AT_MS), (1, 1, AT_MS)]

    run(brokers, story)
    assert brokers.identities == 1


@pytest.mark.parametrize(
    ("answer", "delivery", "identities"),
    [
        (KafkaError.NOT_ENOUGH_REPLICAS, Delivery.NOT_TAKEN, 1),
        (KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, Delivery.UNKNOWN, 2),
        (KafkaError.DUPLICATE_SEQUENCE_NUMBER, Delivery.UNKNOWN, 2),
        (-1, Delivery.UNKNOWN, 2),
        (CUT, Delivery.UNKNOWN, 2),
    ],
)
def test_what_is_given_up_is_only_said_not_to_be_stored_if_that_is_certain(
    answer: Answer, delivery: Delivery, identities: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "DELIVERY_TIMEOUT_MS", 50)
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        brokers.behaviour = lambda _, __: answer
        [error] = await sender.fails((0, b"1"))
        assert delivery_of(error) is delivery
        monkeypatch.setattr(producer, "DELIVERY_TIMEOUT_MS", 10_000)
        brokers.behaviour = first(0)
        assert (await sender.send((0, b"2")))[0].offset == 0

    run(brokers, story)
    # Nobody knows which number the log expects of an identity whose batch may be stored.
    assert brokers.identities == identities


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    ],
)
def test_what_a_broker_has_stored_before_it_refused_it_is_unknown_and_the_next_is_not_taken_for_it(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a leader is replaced while it waits for the copies, and one copy is away."""
    monkeypatch.setattr(producer, "DELIVERY_TIMEOUT_MS", 50)
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        stored_first: Iterator[Answer] = iter([(code,)])
        brokers.behaviour = lambda _, __: next(stored_first, KafkaError.NOT_ENOUGH_REPLICAS)
        [error] = await sender.fails((0, b"1"))
        assert delivery_of(error) is Delivery.UNKNOWN
        monkeypatch.setattr(producer, "DELIVERY_TIMEOUT_MS", 10_000)
        brokers.behaviour = first(0)
        assert (await sender.send((0, b"2")))[0].offset == 1

    run(brokers, story)
    assert brokers.logs[0].values == [b"1", b"2"]


@pytest.mark.parametrize("code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER])
def test_a_batch_that_may_be_stored_is_never_sent_as_another_one(code: int) -> None:
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        answers: Iterator[Answer] = iter([CUT_AFTERWARDS, code])
        brokers.behaviour = lambda _, __: next(answers, 0)
        errors = await sender.fails((0, b"1"), (0, b"2"))
        assert [delivery_of(error) for error in errors] == [Delivery.UNKNOWN] * 2
        assert (await sender.send((0, b"3")))[0].offset == 2

    run(brokers, story)
    assert brokers.logs[0].values == [b"1", b"2", b"3"]


def test_overdue_records_are_given_up_while_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "DELIVERY_TIMEOUT_MS", 30)
    monkeypatch.setattr(producer, "TICK_S", 60.0)
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        brokers.behaviour = lambda _, __: KafkaError.NOT_ENOUGH_REPLICAS
        sent = sender.begin([(0, b"1")])
        while not sent[0].done():
            sent += sender.begin([(0, b"2")])
            await asyncio.sleep(0.001)
        brokers.behaviour = first(0)
        await asyncio.gather(*sent, return_exceptions=True)

    run(brokers, story)


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (lambda brokers: brokers.stop(1), KafkaError._TIMED_OUT_QUEUE),
        (
            lambda brokers: brokers.topics.update({TOPIC: KafkaError.UNKNOWN_TOPIC_OR_PART}),
            KafkaError.UNKNOWN_TOPIC_OR_PART,
        ),
        (lambda brokers: setattr(brokers.logs[0], "leader", -1), KafkaError._TIMED_OUT_QUEUE),
        (lambda brokers: brokers.logs.update({1: brokers.logs.pop(0)}), KafkaError._UNKNOWN_PARTITION),
        (
            lambda brokers: setattr(brokers, "identity_error", KafkaError.CLUSTER_AUTHORIZATION_FAILED),
            KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        ),
    ],
    ids=["away", "no topic", "no leader", "no partition", "no right"],
)
def test_what_could_not_be_sent_is_given_up_with_the_reason(
    prepare: Callable[[Brokers], None], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "DELIVERY_TIMEOUT_MS", 50)
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        prepare(brokers)
        [error] = await sender.fails((0, b"1"))
        assert error.code() == code
        assert delivery_of(error) is not Delivery.UNKNOWN

    run(brokers, story)
    assert not brokers.requests


def test_a_record_by_key_waits_for_a_topic_that_is_not_there_yet() -> None:
    brokers = Brokers(dict.fromkeys(range(6), 1))
    brokers.topics[TOPIC] = KafkaError.UNKNOWN_TOPIC_OR_PART

    async def story(sender: Sender) -> None:
        sent = sender.begin([(-1, b"1"), (-1, b"2")])
        await asyncio.sleep(0)
        brokers.topics[TOPIC] = 0
        one, two = await asyncio.gather(*sent)
        assert (one.partition, one.offset, two.offset) == (two.partition, 0, 1)

    run(brokers, story)


def test_what_is_too_large_or_too_much_is_refused_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "PRODUCER_BUFFER_KIB", 2_000)
    brokers = Brokers({0: 1})

    async def story(sender: Sender) -> None:
        large = b"x" * (BATCH_BYTES_MAX - 1_000)
        errors = await sender.fails((0, b"x" * BATCH_BYTES_MAX), *[(0, large)] * 3)
        assert [error.code() for error in errors] == [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError._QUEUE_FULL]
        await sender.send(*[(0, large)] * 2)  # there is room again

    run(brokers, story)
    assert [len(batch.values) for batch in brokers.logs[0].batches] == [1, 1, 1, 1]


def test_large_batches_go_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "REQUEST_BYTES_MAX", 3_000)
    brokers = Brokers(dict.fromkeys(range(4), 1))

    async def story(sender: Sender) -> None:
        await sender.send(*((number, b"x" * 1_000) for number in range(4)))
        assert brokers.requests == [(1, [0, 1]), (1, [2, 3])]

    run(brokers, story)


def test_whoever_fails_to_take_a_report_keeps_it_from_nobody_else() -> None:
    brokers = Brokers({0: 1})

    def fail(*_: object) -> None:
        raise ValueError

    async def story(sender: Sender) -> None:
        sender.producer.produce([Outgoing(TOPIC, 0, b"k", b"1", fail)])
        assert (await sender.send((0, b"2")))[0].offset == 1

    run(brokers, story)


def test_the_loss_of_the_last_connection_is_said() -> None:
    brokers = Brokers({0: 1, 1: 2})

    async def story(sender: Sender) -> None:
        lost: list[int] = []
        sender.producer.cluster.on_all_lost = lambda: lost.append(1)
        await sender.send((0, b"1"), (1, b"2"))
        brokers.stop(1)
        await asyncio.sleep(0.01)
        assert not lost
        brokers.stop(2)
        await until(lambda: bool(lost))

    run(brokers, story)


def test_closing_tells_what_was_under_way_and_leaves_nothing_behind() -> None:
    brokers = Brokers({0: 1, 1: 2})

    async def story(sender: Sender) -> None:
        await sender.send((0, b"1"), (1, b"1"))
        brokers.held = asyncio.Event()
        under_way = sender.begin([(0, b"2")])
        await until(lambda: len(brokers.requests) == 3)
        waiting = sender.begin([(0, b"3")])
        connections = brokers.connections
        sender.producer.close()
        fates = [delivery_of(future.exception().args[0]) for future in under_way + waiting]  # type: ignore[union-attr]
        assert fates == [Delivery.UNKNOWN, Delivery.NOT_TAKEN]
        await until(lambda: not any("common/kafka" in repr(task) for task in asyncio.all_tasks()))
        assert brokers.connections == connections

    run(brokers, story)


def test_no_broker_is_pressed_for_an_identity_that_it_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "TICK_S", 60.0)
    brokers = Brokers({0: 1})
    brokers.identity_error = KafkaError.COORDINATOR_LOAD_IN_PROGRESS

    async def story(sender: Sender) -> None:
        sender.begin([(0, b"1")])
        await until(lambda: brokers.identities == 1)
        for _ in range(20):
            sender.begin([(0, b"1")])
            await asyncio.sleep(0.001)

    run(brokers, story)
    assert brokers.identities == 1


def test_nobody_is_asked_for_leaders_while_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "DELIVERY_TIMEOUT_MS", 30)
    monkeypatch.setattr(cluster, "REFRESH_AGAIN_S", 0.0)
    brokers = Brokers({0: 1})
    brokers.topics[TOPIC] = KafkaError.UNKNOWN_TOPIC_OR_PART

    async def story(sender: Sender) -> None:
        await sender.fails((0, b"1"), (-1, b"1"))
        asked = brokers.metadata_requests
        assert asked > 0
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert brokers.metadata_requests <= asked + 1  # one may have been under way

    run(brokers, story)


def test_a_failed_publish_keeps_nothing_of_its_records(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Publisher(Address("127.0.0.1:1"), "test")
    value = bytes(1_000)
    held = sys.getrefcount(value)
    monkeypatch.setattr(producer, "DELIVERY_TIMEOUT_MS", 30)
    with contextlib.suppress(KafkaException):  # `pytest.raises` would keep the frames
        publisher.publish([Outgoing(TOPIC, 0, b"k", value)])
    publisher.close()
    gc.collect()
    assert sys.getrefcount(value) == held


def test_a_batch_is_published_when_the_log_has_all_of_it_and_fails_with_the_reason_otherwise() -> None:
    """The publisher runs a loop of its own: the brokers are in another thread."""
    brokers = Brokers({0: 1, 1: 1})
    up, down = threading.Event(), threading.Event()
    servers: list[str] = []

    async def serve() -> None:
        async with brokers.running() as addresses:
            servers.append(addresses)
            up.set()
            await asyncio.to_thread(down.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert up.wait(PATIENCE_S)
        publisher = Publisher(Address(servers[0]), "test")
        publisher.publish([])
        publisher.publish(Outgoing(TOPIC, number, b"k", bytes([number])) for number in (0, 1, 0))
        brokers.behaviour = lambda number, _: KafkaError.POLICY_VIOLATION if number else 0
        with pytest.raises(Exception, match=r"topic 't' refuses a record of 2 bytes: why"):
            publisher.publish([Outgoing(TOPIC, 0, b"k", b"1"), Outgoing(TOPIC, 1, b"k", b"22")])
        brokers.behaviour = lambda _, __: -1
        with pytest.raises(KafkaException):
            publisher.publish([Outgoing(TOPIC, 0, b"k", b"1")])
        publisher.close()
    finally:
        down.set()
        thread.join()
    assert brokers.logs[0].values == [b"\0", b"\0", b"1"]
