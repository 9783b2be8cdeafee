"""A replay restores everything published, in whatever sequence it reads that."""

from collections.abc import Sequence
from typing import cast, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Fatal
from common.events import (
    PAYMENT_EVENTS,
    STOCK_EVENTS,
    CustomerId,
    DepositData,
    Line,
    Milliseconds,
    PaymentData,
    PaymentEvent,
    PaymentState,
    ProductId,
    StockData,
    StockEvent,
    StockState,
    account_deposited,
    make,
)
from common.postgres import Conn
from inventory import decide as stock_rules
from inventory.consumer import answer as stock_answer
from inventory.decide import Product
from ops.replay import entered, inventory, payment
from ops.replay.published import RANKS, time_of
from payment import decide as payment_rules
from payment.consumer import answer as payment_answer
from payment.decide import Account, Transfer
from tests.unit.orders import CUSTOMER, as_read, cancelled, order_id, placed

ANN = CustomerId("ann")
TEA = ProductId("tea")
AT = Milliseconds(7)


def paid(state: PaymentState, number: int = 1, amount: int | None = 300, currency: str | None = "EUR") -> PaymentEvent:
    data = PaymentData(order_id=order_id(number), customer_id=ANN, amount=amount, currency=currency)
    return make(PAYMENT_EVENTS[state], data, at=AT, traceparent="")


def stocked(state: StockState, number: int = 1, quantity: int = 0) -> StockEvent:
    lines = (Line(TEA, quantity),) if quantity else ()
    data = StockData(order_id=order_id(number), customer_id=CUSTOMER, items=lines)
    return make(STOCK_EVENTS[state], data, at=AT, traceparent="")


def test_every_state_that_is_published_has_a_rank() -> None:
    assert RANKS.keys() == {None, *get_args(PaymentState), *get_args(StockState)}
    assert all(RANKS[state] == kind.rank for state, kind in PAYMENT_EVENTS.items())
    assert all(RANKS[state] == kind.rank for state, kind in STOCK_EVENTS.items())


def test_a_deposit_is_looked_up_in_the_account_that_it_is_entered_in() -> None:
    """Whoever writes into the topic could name another one in the envelope."""
    data = DepositData(customer_id=ANN, amount=5, currency="EUR", key="k", by="bea", known_by="token")
    forged = msgspec.structs.replace(account_deposited(data, at=AT), subject="bob")
    looked_up: list[tuple[str, str]] = []

    def known(_: Conn, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        looked_up.extend(keys)
        return set(keys)

    assert entered.missing(cast(Conn, None), [forged], known) == []
    assert looked_up == [(ANN, "k")]


def test_a_published_payment_is_captured_at_its_time() -> None:
    decisions, shortfalls = payment.rebuild([paid("completed")], {ANN: Account(1000, "EUR")}, {})
    assert decisions.balances == {ANN: 700}
    assert decisions.transfers == [Transfer("capture", order_id(1), ANN, 300, "EUR", AT)]
    assert (decisions.payments[order_id(1)].state, decisions.payments[order_id(1)].decided_at) == ("completed", AT)
    assert shortfalls == []


def test_a_refund_of_what_the_database_has_captured_is_only_a_refund() -> None:
    accounts = {ANN: Account(700, "EUR")}
    captured = payment_rules.decide({ANN: Account(1000, "EUR")}, {}, as_read([placed(unit_price=300, customer=ANN)]))
    decisions, _ = payment.rebuild([paid("refunded")], accounts, captured.payments)
    assert (decisions.balances, [t.kind for t in decisions.transfers]) == ({ANN: 1000}, ["refund"])


def test_a_captured_and_refunded_payment_needs_no_balance_but_an_account() -> None:
    decisions, shortfalls = payment.rebuild([paid("refunded")], {ANN: Account(0, "EUR")}, {})
    assert (decisions.balances, shortfalls) == ({ANN: 0}, [])
    assert [t.kind for t in decisions.transfers] == ["capture", "refund"]
    assert payment.rebuild([paid("refunded")], {}, {})[1] == [payment.Shortfall(ANN, "EUR", 0)]


def test_a_balance_that_is_too_low_names_the_missing_deposit() -> None:
    events = [paid("completed", 1), paid("completed", 2), paid("declined", 3)]
    assert payment.rebuild(events, {ANN: Account(250, "EUR")}, {})[1] == [payment.Shortfall(ANN, "EUR", 350)]


def test_an_account_kept_in_another_currency_is_refused() -> None:
    with pytest.raises(Fatal, match=r"was paid in EUR, account ann is in CHF"):
        payment.rebuild([paid("completed")], {ANN: Account(1000, "CHF")}, {})


def test_a_piece_that_was_released_and_reserved_again_is_there_once() -> None:
    reserved = stock_rules.decide({TEA: Product(1, True)}, {}, as_read([placed(1)])).reservations
    published = [stocked("reserved", 2, 1), stocked("released", 1, 1)]
    for events in (published, published[::-1]):
        decisions, shortfalls = inventory.rebuild(events, {TEA: Product(0, True)}, reserved)
        assert (decisions.on_hand, shortfalls) == ({TEA: 0}, [])


def test_stock_that_is_too_low_names_the_missing_restock() -> None:
    _, shortfalls = inventory.rebuild([stocked("reserved", 1, 5)], {TEA: Product(2, True)}, {})
    assert shortfalls == [inventory.Shortfall(TEA, 3)]


# A whole season: a part of it is in the backup, all of it is published. Its orders are read again in any sequence.
histories = st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=12)


@given(histories, st.integers(0, 12), st.randoms())
def test_everything_published_comes_back(season: list[tuple[int, bool]], cut: int, chance: object) -> None:
    events = as_read([cancelled(n) if revoked else placed(n, unit_price=100) for n, revoked in season])
    opening_stock, opening_balance = 2, 250
    stock, money = {TEA: Product(opening_stock, True)}, {CustomerId(CUSTOMER): Account(opening_balance, "EUR")}
    stock_then = stock_rules.decide(stock, {}, events[:cut])
    money_then = payment_rules.decide(money, {}, events[:cut])
    stock_end, money_end = stock_rules.decide(stock, {}, events), payment_rules.decide(money, {}, events)

    lost_stock = [
        stock_answer(r, "") for order, r in stock_end.reservations.items() if stock_then.reservations.get(order) != r
    ]
    lost_money = [
        payment_answer(p, "") for order, p in money_end.payments.items() if money_then.payments.get(order) != p
    ]
    chance.shuffle(lost_stock)  # type: ignore[attr-defined]
    chance.shuffle(lost_money)  # type: ignore[attr-defined]

    left = stock_then.on_hand.get(TEA, opening_stock)
    new_stock, missing = inventory.rebuild(lost_stock, {TEA: Product(left, True)}, stock_then.reservations)  # type: ignore[arg-type]
    assert missing == []
    again = {**stock_then.reservations, **new_stock.reservations}
    assert {o: (r.state, r.reason, r.lines) for o, r in again.items()} == {
        o: (r.state, r.reason, r.lines) for o, r in stock_end.reservations.items()
    }
    assert new_stock.on_hand.get(TEA, left) == stock_end.on_hand.get(TEA, opening_stock)

    balance = money_then.balances.get(CustomerId(CUSTOMER), opening_balance)
    accounts = {CustomerId(CUSTOMER): Account(balance, "EUR")}
    new_money, short = payment.rebuild(lost_money, accounts, money_then.payments)  # type: ignore[arg-type]
    assert short == []
    payments = {**money_then.payments, **new_money.payments}
    assert {o: (p.state, p.reason, p.amount) for o, p in payments.items()} == {
        o: (p.state, p.reason, p.amount) for o, p in money_end.payments.items()
    }
    assert new_money.balances.get(CustomerId(CUSTOMER), balance) == money_end.balances.get(
        CustomerId(CUSTOMER), opening_balance
    )


@pytest.mark.parametrize("time", ["", "yesterday", "0001-01-01T00:00:00Z"])
def test_a_strangers_time_does_not_end_a_replay(time: str) -> None:
    paid = make(PAYMENT_EVENTS["completed"], PaymentData(order_id=order_id(1), customer_id=ANN), at=AT, traceparent="")
    assert time_of(msgspec.structs.replace(paid, time=time)) == 0
    assert time_of(paid) == AT
