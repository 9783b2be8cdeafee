"""Payment by card against a gateway that is slow, fails, drops answers, answers twice, and is down.

The books must agree: the gateway has captured what is confirmed, once, and holds nothing of any other order.
"""

import asyncio
import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec import structs

from common.consume.records import Received
from common.events import (
    ORDERS,
    OUTCOMES,
    Event,
    Milliseconds,
    OrderConfirmed,
    OrderId,
    PaymentCompleted,
    PlacedData,
)
from common.kafka.broker import Partition
from common.pipeline import Answer
from common.postgres import Conn, connect
from dev.settings import HOST, Service, free_ports
from examples.gateway import store
from examples.gateway.authorise import AT_ONCE, Authoriser
from examples.gateway.breaker import CUSTOMERS_MIN, REST_S, Breaker
from examples.gateway.client import Gateway, Unanswered
from examples.gateway.consumer import CardBatch, CardHandler
from examples.gateway.fake import Book, FakeGateway
from examples.gateway.settle import settle
from examples.gateway.store import Task
from payment.consumer import Batch as PaymentBatch
from payment.decide import Decisions
from payment.store import Locked
from tests.audit import assert_consistent
from tests.integration.conftest import BALANCE, PRICE, draw
from tests.proof import Proof
from tests.stack import Instance, Stack
from tests.unit import virtual_time
from tests.unit.orders import CUSTOMER, about, cancelled, placed, rejected
from tests.waiting import eventually

CARDS: Final = Service("payment", ("examples.gateway",), "payment", "", 0, "", lambda _: None)
ORDER: Final = OrderId(placed().subject)
CARD: Final = [placed().data]


def test_the_breaker_tells_a_slow_card_from_a_gateway_that_is_down() -> None:
    breaker = Breaker()
    for second in range(100):
        breaker.failed("one-slow-card", float(second))
    assert breaker.admits(100.0)
    for number in range(CUSTOMERS_MIN - 1):
        breaker.failed(f"customer-{number}", 100.0)
    assert not breaker.admits(100.0 + REST_S / 2)
    assert breaker.admits(100.0 + REST_S), "a probe"
    assert not breaker.admits(100.0 + REST_S), "one at a time"
    breaker.failed("customer-1", 101.5)
    assert not breaker.admits(101.5 + REST_S / 2)
    breaker.succeeded(103.0)
    assert breaker.admits(103.0)
    assert breaker.open_s(200.0) == 3.0
    breaker.failed("customer-1", 200.0)
    assert breaker.admits(200.0), "it counts anew"


class SlowGateway(Gateway):
    """Authorises in `takes_s`, but for slow customers. It is down for `down_s` at first."""

    def __init__(self, down_s: float = 0.0, takes_s: float = 0.0) -> None:
        self.breaker = Breaker()
        self._takes_s = takes_s
        self.up_at_s = down_s

    async def authorise(self, order_id: str, customer_id: str, amount: int, currency: str) -> Any:
        at_s = asyncio.get_running_loop().time()
        if at_s < self.up_at_s:
            for number in range(CUSTOMERS_MIN):
                self.breaker.failed(f"customer-{number}", at_s)
            raise Unanswered("it is down")
        self.breaker.succeeded(at_s)
        await asyncio.sleep(1.0 if "slow" in customer_id else self._takes_s)
        if "slow" in customer_id:
            raise Unanswered("it is slow")
        return "authorised"

    async def state(self, order_id: str, customer_id: str) -> Any:
        return None


def answers_of(gateway: SlowGateway, *customers: str) -> list[tuple[str, float]]:
    """The answers to an order of each customer, with the seconds after which they came."""

    async def main() -> list[tuple[str, float]]:
        authoriser = Authoriser("http://nowhere", hold_s=3.0)
        authoriser._gateway = gateway
        began_s = asyncio.get_running_loop().time()
        gateway.up_at_s += began_s

        async def answer(order: PlacedData) -> tuple[str, float]:
            return await authoriser._authorise(order), round(asyncio.get_running_loop().time() - began_s, 1)

        orders = [placed(number, customer=customer).data for number, customer in enumerate(customers)]
        return await asyncio.gather(*map(answer, orders))

    return virtual_time.run(main())


def test_an_answer_takes_no_longer_than_the_hold() -> None:
    answers = answers_of(SlowGateway(), "slow", "quick", "slow", "slow-too")
    assert answers == [("unknown", 3.0), ("authorised", 0.0), ("unknown", 3.0), ("unknown", 3.0)]


def test_a_backlog_is_worked_off_and_not_declined() -> None:
    answers = answers_of(SlowGateway(takes_s=0.5), *(f"customer-{number}" for number in range(20 * AT_ONCE)))
    assert {answer for answer, _ in answers} == {"authorised"}
    assert max(at_s for _, at_s in answers) == 20 * 0.5


def test_the_hold_stands_still_while_the_gateway_is_down() -> None:
    [(first, at_s), (second, _)] = answers_of(SlowGateway(down_s=60.0), "quick", "quick")
    assert (first, second) == ("authorised", "authorised")
    assert 60.0 <= at_s < 60.0 + 2 * REST_S


def check_book(book: Book, orders: Mapping[str, str]) -> None:
    """Fails unless the gateway captures what is confirmed, once, and releases all else, given the orders' statuses."""

    def astray() -> list[Any]:
        """The payments that are not yet, or never, what their orders want."""
        return [
            payment
            for order_id, payment in book.payments.items()
            if (payment["state"] == "captured") != (orders[order_id] == "confirmed") or payment["state"] == "authorised"
        ]

    eventually(lambda: not astray(), "all cards are captured or released", last_words=lambda: astray()[:5])
    captures = Counter(order_id for order_id, state in book.changes if state == "captured")
    assert set(captures.values()) == {1}, "a card was charged twice"


class DoubleCharging(Gateway):
    """Captures as often as it is told to, and loses its first answer."""

    def __init__(self) -> None:
        self.captures = 0

    async def change(self, order_id: str, customer_id: str, act: str) -> Any:
        self.captures += 1
        if self.captures == 1:
            raise Unanswered("the answer is lost")
        return "captured"

    async def state(self, order_id: str, customer_id: str) -> Any:
        return "captured" if self.captures else "authorised"


def test_a_capture_whose_answer_was_lost_is_asked_about_before_it_is_repeated() -> None:
    gateway = DoubleCharging()
    task = Task("order-1", "customer-1", "capture", attempts=1)
    assert asyncio.run(settle(gateway, task)) == "the answer is lost"
    assert asyncio.run(settle(gateway, task._replace(attempts=2))) == ""
    assert asyncio.run(settle(gateway, task)) == "", "a restored database does not know of the attempts"
    assert gateway.captures == 1


class Authorising(Authoriser):
    """Authorises at once."""

    def ask(self, order: PlacedData) -> "Future[Any]":
        answer: Future[Any] = Future()
        answer.set_result("authorised")
        return answer


def decided(*records: tuple[str, Event]) -> CardBatch:
    """The batch of these records, each an event in a topic, when nothing is stored."""
    accounts, payments = Answer(), Answer()
    accounts.receive([(CUSTOMER, 1_000, "EUR")])
    payments.receive([])
    fresh = [Received(Partition(topic, 0), n, Milliseconds(n), event) for n, (topic, event) in enumerate(records)]
    return CardHandler(Authorising("http://nowhere")).decide(Locked(accounts, payments), fresh, [])


def test_a_cancellation_in_the_outcomes_does_not_overtake_its_order() -> None:
    batch = decided((OUTCOMES, cancelled()), (OUTCOMES, rejected(2)), (ORDERS, placed()), (ORDERS, placed(2)))
    assert [payment.state for payment in batch.decisions.payments.values()] == ["completed", "completed"]
    assert [type(event) for _, event in PaymentBatch.results(batch)] == [PaymentCompleted, PaymentCompleted]
    batch = decided((ORDERS, placed()), (ORDERS, cancelled()))
    assert [payment.state for payment in batch.decisions.payments.values()] == ["refunded"]


@pytest.mark.parametrize("topic", [OUTCOMES, ORDERS])
def test_a_confirmation_is_read_from_both_topics(topic: str) -> None:
    assert decided((topic, about(OrderConfirmed))).confirmed == [ORDER]


class Cards:
    """Payment by card on the shared stack, and its gateway."""

    def __init__(self, stack: Stack, directory: Path, gateway: FakeGateway) -> None:
        self.stack = stack
        self.book = gateway.book
        url = f"http://{HOST}:{gateway.server_port}"
        self.instance = Instance(
            directory,
            CARDS,
            2,
            stack.ports["payment"],
            {**stack.variables, "CARD_GATEWAY_URL": url, "CARD_HOLD_S": "6"},
        )

    def customer(self, card: str = "") -> str:
        customer_id = draw("cust") + card
        self.stack.account(customer_id, BALANCE)
        return customer_id

    def outcome(self, order_id: str) -> tuple[str, str | None]:
        order = self.stack.await_settled(order_id)
        return order["status"], order["reason"]

    def await_card(self, order_id: str, state: str) -> None:
        def is_there() -> bool:
            return self.book.payments.get(order_id, {}).get("state") == state

        eventually(is_there, f"{order_id} is {state}", last_words=lambda: self.book.payments.get(order_id))

    def check(self) -> None:
        """Fails unless the gateway's book and the orders agree, to the order and to the minor unit."""
        orders = dict(self.stack.query("order", "SELECT order_id::text, status FROM orders"))
        check_book(self.book, orders)
        amounts = dict(self.stack.query("payment", "SELECT order_id::text, amount FROM payments"))
        assert {o: p["amount"] for o, p in self.book.payments.items() if p["state"] == "captured"} == {
            order_id: amounts[order_id] for order_id in self.book.payments if orders[order_id] == "confirmed"
        }


@pytest.fixture(scope="module")
def cards(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cards]:
    gateway = FakeGateway()
    thread = threading.Thread(target=gateway.serve_forever)
    thread.start()
    stack.run_tool("ops.migrate", "payment=examples.gateway")
    cards = Cards(stack, tmp_path_factory.mktemp("cards"), gateway)
    stack["payment-1"].stop()
    try:
        cards.instance.launch()
        cards.instance.await_ready()
        yield cards
    finally:
        cards.instance.stop()
        gateway.shutdown()
        thread.join()
        gateway.server_close()
        stack["payment-1"].launch()
        stack["payment-1"].await_ready()


@pytest.fixture
def database(stack: Stack, cards: Cards) -> Iterator[Conn]:
    """Payment's database, in a transaction that is rolled back."""
    with connect(stack.variables["PAYMENT_ADMIN_URL"].replace("/postgres?", "/payment?"), "test") as connection:
        connection.execute("BEGIN")
        connection.execute("DELETE FROM replays")
        batch = decided((ORDERS, placed()))
        batch.store(connection)
        PaymentBatch.update(batch, connection)
        yield connection
        connection.rollback()


def card(connection: Conn) -> tuple[str, bool] | None:
    """What is wanted of the order's card, and whether the settler takes it now."""
    query = "SELECT wanted, wanted <> done AND next_at <= now() FROM card_payments WHERE order_id = %s"
    return connection.execute(query, (ORDER,)).fetchone()


def test_a_restored_database_captures_an_order_whose_confirmation_it_reads_first(database: Conn) -> None:
    database.execute("INSERT INTO replays VALUES (1, 'a test', 'it is restored', 0)")
    store.capture(database, [ORDER])
    assert card(database) == ("capture", False), "nothing is on hold yet"
    store.hold(database, CARD)
    assert card(database) == ("capture", True)


def test_a_confirmation_of_an_order_that_was_paid_without_a_card_captures_nothing(database: Conn) -> None:
    store.capture(database, [ORDER])
    assert card(database) is None


def test_a_card_that_is_to_be_released_is_never_captured(database: Conn) -> None:
    store.hold(database, CARD)
    assert card(database) == ("hold", False)
    store.release(database, [ORDER])
    store.capture(database, [ORDER])
    store.hold(database, CARD)
    assert card(database) == ("release", True)


def test_a_cancellation_that_payment_without_cards_has_read_is_not_captured_but_released(database: Conn) -> None:
    store.hold(database, CARD)
    [paid] = decided((ORDERS, placed())).decisions.payments.values()
    refunded = structs.replace(paid, state="refunded")
    CardBatch(Decisions({}, {}, []), {ORDER: refunded}, [], {}, [ORDER], Authorising("")).update(database)
    assert card(database) == ("release", True)


def test_a_card_is_captured_once_the_order_is_confirmed(stack: Stack, cards: Cards, product: str) -> None:
    customer_id = cards.customer()
    order_id = stack.place(customer_id, (product, 2))
    assert cards.outcome(order_id) == ("confirmed", None)
    cards.await_card(order_id, "captured")
    assert cards.book.payments[order_id]["amount"] == 2 * PRICE
    assert stack.balance(customer_id) == BALANCE - 2 * PRICE


def test_a_card_without_money_declines_the_order(stack: Stack, cards: Cards, product: str) -> None:
    order_id = stack.place(cards.customer("-declines"), (product, 1))
    assert cards.outcome(order_id) == ("rejected", "insufficient_funds")
    assert cards.book.payments[order_id]["state"] == "declined"


def test_what_is_not_paid_is_released(stack: Stack, cards: Cards, product: str) -> None:
    scarce = draw("sku")
    stack.product(scarce, price=PRICE)
    stack.await_orderable(scarce)
    rejected = stack.place(cards.customer(), (scarce, 1))
    assert cards.outcome(rejected) == ("rejected", "out_of_stock")
    cards.await_card(rejected, "voided")
    without_account = stack.place(draw("cust"), (product, 1))
    assert cards.outcome(without_account) == ("rejected", "unknown_account")
    cards.await_card(without_account, "voided")
    cancelled = stack.place(cards.customer(), (product, 1))
    cards.await_card(cancelled, "captured")
    stack.http.post(stack.url("order-api", f"/orders/{cancelled}/cancel")).raise_for_status()
    cards.await_card(cancelled, "refunded")


@pytest.mark.parametrize("card", ["-drops", "-fails", "-twice"])
def test_an_unknown_outcome_is_resolved_by_asking(stack: Stack, cards: Cards, product: str, card: str) -> None:
    customer_id = cards.customer(card)
    orders = [stack.place(customer_id, (product, 1)) for _ in range(5)]
    for order_id in orders:
        assert cards.outcome(order_id) == ("confirmed", None)
        cards.await_card(order_id, "captured")


def test_a_slow_card_stops_its_partition_for_the_hold_and_no_longer(stack: Stack, cards: Cards, product: str) -> None:
    slow = cards.customer("-slow")
    late = [stack.place(slow, (product, 1)) for _ in range(3)]
    # Of as many other customers: some are behind it in its partition.
    orders = [stack.place(cards.customer(), (product, 1)) for _ in range(12)]
    for order_id in orders:
        assert cards.outcome(order_id) == ("confirmed", None)
    for order_id in late:
        assert cards.outcome(order_id) == ("rejected", "deadline")
        cards.await_card(order_id, "voided")


def test_while_the_gateway_is_down_orders_wait_and_none_is_declined(stack: Stack, cards: Cards, product: str) -> None:
    customers = [cards.customer() for _ in range(CUSTOMERS_MIN + 3)]
    cards.book.is_down = True
    orders = [stack.place(customer_id, (product, 1)) for customer_id in customers for _ in range(2)]
    cards.instance.await_answer(
        lambda: "card gateway" in cards.instance.get("/readyz").text, "says that the gateway is down"
    )
    pending = "SELECT count(*) FROM payments WHERE order_id = ANY(%s::uuid[])"
    assert stack.query("payment", pending, (orders,)) == [(0,)]
    cards.book.is_down = False
    for order_id in orders:
        assert cards.outcome(order_id) == ("confirmed", None)


def test_killed_again_and_again_it_charges_each_confirmed_order_once(stack: Stack, cards: Cards, product: str) -> None:
    orders: list[str] = []
    faults = ("", "-drops", "-fails", "-twice", "-declines", "")
    rounds = [[cards.customer(card) for card in faults for _ in range(3)] for _ in range(2)]
    for customers in rounds:
        orders += [stack.place(customer_id, (product, 1)) for customer_id in customers]
        first = orders[-len(customers)]
        eventually(lambda o=first: o in cards.book.payments, "cards are being asked")  # type: ignore[misc]
        cards.instance.kill()
        cards.instance.launch()
    cards.instance.await_ready()
    outcomes = Counter(cards.outcome(order_id)[0] for order_id in orders)
    assert outcomes == {"confirmed": 30, "rejected": 6}
    cards.check()


def test_the_proof_holds(stack: Stack, cards: Cards) -> None:
    cards.check()
    assert_consistent(stack)
    proof = Proof.here(stack)
    assert proof.exit_code == 0, proof.summary()


def test_the_fake_gateway_tells_its_book(cards: Cards) -> None:
    [port] = free_ports(1)
    gateway = FakeGateway(port)
    thread = threading.Thread(target=gateway.serve_forever)
    thread.start()

    def send(method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection(HOST, port)
        connection.request(method, path, body and json.dumps(body))
        answer = connection.getresponse()
        content = json.loads(answer.read())
        connection.close()
        return content

    wanted = {"customer_id": "cust-1", "amount": 5, "currency": "EUR"}
    assert send("POST", "/payments/a/void")["state"] == "voided"
    assert send("PUT", "/payments/a", wanted)["state"] == "voided", "an authorisation that comes too late"
    assert send("PUT", "/payments/b", wanted)["state"] == "authorised"
    assert send("POST", "/payments/b/refund")["state"] == "authorised", "nothing was captured"
    assert send("POST", "/payments/b/capture")["state"] == send("POST", "/payments/b/capture")["state"] == "captured"
    assert send("GET", "/payments")["changes"] == [["a", "voided"], ["b", "authorised"], ["b", "captured"]]
    gateway.shutdown()
    thread.join()
    gateway.server_close()
