"""The rules and the protocol hold in every reachable state of the small bound; and the model can fail: each of these
bugs, put into the rules or into the protocol, is found, with a shortest trace."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from common.events import (
    ORDERS,
    OUTCOMES,
    TOPICS_OF,
    AnyOrderEvent,
    CustomerId,
    Event,
    Milliseconds,
    OrderCancelled,
    OrderConfirmed,
    OrderId,
    OrderPlaced,
    OrderRejected,
    Outcome,
    StockRejected,
    StockReserved,
)
from inventory import decide as inventory_rules
from order.saga import decide as saga
from order.saga.decide import Order
from payment import decide as payment_rules
from tests.model import SMALL, Protocol, Result, Rules, Scenario, run, service
from tests.model.scenarios import LAST_PIECE, ONE_BALANCE, PRICE, RESTORED_UNSAFELY

Advanced = tuple[Order | None, list[Outcome]]
SMALL_STATES_MIN = 50_000


def test_every_statement_holds_in_every_reachable_state_of_the_small_bound() -> None:
    results = [run(scenario) for scenario in SMALL]
    for result in results:
        assert result.violation is None, f"{result.scenario.name}:\n{result.violation}"
        assert result.complete
        assert result.quiescent > 0, f"{result.scenario.name} never comes to rest"
    assert sum(result.states for result in results) >= SMALL_STATES_MIN


def test_separate_and_merged_steps_reach_the_same_ends() -> None:
    """Merging steps into one hides nothing: each outcome that can be reached with the steps apart can be
    reached with them merged, and the other way round."""
    merged = Scenario(name="merged", stock=0, crashes=1, faults_in=("payment",))
    apart = replace(merged, name="apart", fine=True)
    assert run(merged).ends == run(apart).ends
    # And with an operator's request in between, which leads to more than one end.
    merged = Scenario(name="merged", cancels=1)
    apart = replace(merged, name="apart", fine=True)
    assert len(run(merged).ends) > 1
    assert run(merged).ends == run(apart).ends


# Bugs in the rules.


def drops_late_results(order: Order | None, event: AnyOrderEvent, at: Milliseconds) -> Advanced:
    """A result after a join window is dropped for ever."""
    if order is not None and order.status == "rejected" and not isinstance(event, Outcome):
        return order, []
    return saga.advance(order, event, at)


def confirms_when_paid(order: Order | None, event: AnyOrderEvent, at: Milliseconds) -> Advanced:
    after, outcomes = saga.advance(order, event, at)
    if after is not None and after.status == "pending" and after.payment == "completed":
        after = msgspec.structs.replace(after, status="confirmed", decided_at=at)
        return after, saga.outcome_of(after)
    return after, outcomes


def cancels_silently(order: Order | None, event: AnyOrderEvent, at: Milliseconds) -> Advanced:
    after, outcomes = saga.advance(order, event, at)
    return after, [outcome for outcome in outcomes if not isinstance(outcome, OrderCancelled)]


def leaves_rejected(order: Order | None, event: AnyOrderEvent, at: Milliseconds) -> Advanced:
    """A good result that comes late turns a rejection over."""
    if order is not None and order.status == "rejected" and isinstance(event, StockReserved):
        after = msgspec.structs.replace(order, status="confirmed", reason=None, inventory="reserved")
        return after, saga.outcome_of(after)
    return saga.advance(order, event, at)


def forgets_early_results(order: Order | None, event: AnyOrderEvent, at: Milliseconds) -> Advanced:
    """A result before its order is dropped."""
    if order is None and not isinstance(event, OrderPlaced):
        return None, []
    return saga.advance(order, event, at)


def takes_the_last_result(order: Order | None, event: AnyOrderEvent, at: Milliseconds) -> Advanced:
    """A side moves backward when an old result is published again."""
    if order is not None and isinstance(event, StockReserved | StockRejected) and order.inventory is not None:
        return msgspec.structs.replace(order, inventory=event.state, settled_at=None), []
    return saga.advance(order, event, at)


PaymentEvents = Iterable[tuple[payment_rules.Relevant, Milliseconds]]


def pays_again(accounts: Any, payments: Any, events: PaymentEvents) -> payment_rules.Decisions:
    """An order that is sent again is captured again: no dedupe by order id."""
    again = [(event, at) for event, at in events]
    forgotten = {event.data.order_id for event, _ in again if isinstance(event, OrderPlaced)}
    return payment_rules.decide(accounts, {k: p for k, p in payments.items() if k not in forgotten}, again)


def refunds_too_little(accounts: Any, payments: Any, events: PaymentEvents) -> payment_rules.Decisions:
    """A refund path that truncates cents."""
    decided = payment_rules.decide(accounts, payments, events)
    transfers = [t._replace(amount=t.amount // 3 * 3) if t.kind == "refund" else t for t in decided.transfers]
    lost = sum(a.amount - b.amount for a, b in zip(decided.transfers, transfers, strict=True))
    return decided._replace(transfers=transfers, balances={c: b - lost for c, b in decided.balances.items()})


def refunds_twice(accounts: Any, payments: Any, events: PaymentEvents) -> payment_rules.Decisions:
    """A revocation that is published again refunds again."""
    stored = {
        k: msgspec.structs.replace(p, state="completed", revoked_at=None) if p.state == "refunded" else p
        for k, p in payments.items()
    }
    return payment_rules.decide(accounts, stored, events)


def never_refunds(accounts: Any, payments: Any, events: PaymentEvents) -> payment_rules.Decisions:
    """A paid order whose stock fails is never refunded."""
    return payment_rules.decide(accounts, payments, [(e, at) for e, at in events if not isinstance(e, OrderRejected)])


def overdraws(accounts: Any, payments: Any, events: PaymentEvents) -> payment_rules.Decisions:
    """The balance is read once a batch: two orders in one batch are both paid from it."""
    changed: dict[OrderId, payment_rules.Payment] = {}
    balances: dict[CustomerId, int] = {}
    transfers: list[payment_rules.Transfer] = []
    for event in events:
        decided = payment_rules.decide(accounts, {**payments, **changed}, [event])
        changed.update(decided.payments)
        balances.update(decided.balances)
        transfers += decided.transfers
    return payment_rules.Decisions(changed, balances, transfers)


StockEvents = Iterable[tuple[inventory_rules.Relevant, Milliseconds]]


def releases_nothing(products: Any, reservations: Any, events: StockEvents) -> inventory_rules.Decisions:
    """The reservation is marked released, its pieces do not come back."""
    decided = inventory_rules.decide(products, reservations, events)
    return decided._replace(movements=[m for m in decided.movements if m.kind != "release"], on_hand={})


def releases_another_quantity(products: Any, reservations: Any, events: StockEvents) -> inventory_rules.Decisions:
    decided = inventory_rules.decide(products, reservations, events)
    movements = [m._replace(quantity=m.quantity + 1) if m.kind == "release" else m for m in decided.movements]
    surplus = sum(b.quantity - a.quantity for a, b in zip(decided.movements, movements, strict=True))
    return decided._replace(movements=movements, on_hand={p: n + surplus for p, n in decided.on_hand.items()})


ONE = Scenario(name="one order")
CANCEL = Scenario(name="a cancel", cancels=1)
SOLD_OUT = Scenario(name="sold out", stock=0)
CALM = Scenario(name="sold out, few unread records", stock=0, queue_max=6)
DECLINED = Scenario(name="declined", balance=0)
CRASH = Scenario(name="a crash", crashes=1)
POISON = Scenario(name="poison in payment", poisons=1, faults_in=("payment",))


@pytest.mark.parametrize(
    ("rules", "scenario", "statement", "steps"),
    [
        (Rules(advance=drops_late_results), SOLD_OUT, "6", 10),
        (Rules(advance=confirms_when_paid), SOLD_OUT, "6", 7),
        (Rules(advance=cancels_silently), CANCEL, "6", 7),
        (Rules(advance=leaves_rejected), DECLINED, "5", 6),
        (Rules(advance=forgets_early_results), ONE, "6", 7),
        (Rules(advance=takes_the_last_result), replace(CANCEL, zombies=1, faults_in=("inventory",)), "6", 10),
        (Rules(decide_payment=pays_again), Scenario(name="sent twice", duplicates=1), "5", 5),
        (Rules(decide_payment=refunds_too_little), SOLD_OUT, "2", 6),
        (Rules(decide_payment=refunds_twice), replace(SOLD_OUT, crashes=1, faults_in=("saga",)), "5", 10),
        (Rules(decide_payment=never_refunds), SOLD_OUT, "6", 10),
        (Rules(decide_payment=overdraws), Scenario(name="one balance", orders=ONE_BALANCE, balance=PRICE), "2", 3),
        (Rules(decide_stock=releases_nothing), CANCEL, "3", 2),
        (Rules(decide_stock=releases_another_quantity), CANCEL, "3", 5),
    ],
    ids=lambda value: _id(value),
)
def test_a_bug_in_the_rules_is_found(rules: Rules, scenario: Scenario, statement: str, steps: int) -> None:
    _assert_found(run(scenario, rules=rules), statement, steps)


@pytest.mark.parametrize(
    ("bug", "scenario", "statement", "steps"),
    [
        ("publish_before_store", CRASH, "4", 4),
        ("commit_before_store", CRASH, "6", 6),
        ("read_before_lock", Scenario(name="x", orders=LAST_PIECE, stock=1), "3", 6),
        ("position_unchecked", replace(CANCEL, zombies=1, faults_in=("saga",)), "6", 11),
        ("start_at_position", CRASH, "6", 7),
        ("start_at_committed", Scenario(name="x", restored="payment"), "6", 8),
        ("only_last_offset", ONE, "6", 7),
        ("saga_answers_everything", CALM, "6", 15),
        ("saga_answers_no_repeats", replace(CRASH, stock=0), "6", 8),
        ("saga_answers_no_repeats", CRASH, "6", 8),
        ("deadline_not_gated", Scenario(name="x", deadline=True), "deadline", 10),
        ("deadline_while_parked", Scenario(name="x", deadline=True, poisons=1, faults_in=("saga",)), "deadline", 12),
        ("parked_follower_let_through", replace(POISON, cancels=1), "order", 5),
        ("parked_before_decided", replace(POISON, orders=ONE_BALANCE, crashes=1, whole_batches=True), "6", 12),
        ("redriven_out_of_order", replace(POISON, orders=ONE_BALANCE), "order", 5),
        ("redriven_done_before_published", replace(POISON, crashes=1), "6", 8),
        ("discarded_to_nothing", POISON, "1", 4),
        ("discarded_reopened_as_it_is", replace(POISON, crashes=1), "6", 8),
        ("discards_anything", replace(POISON, cancels=1), "6", 11),
    ],
    ids=lambda value: _id(value),
)
def test_a_bug_in_the_protocol_is_found(bug: str, scenario: Scenario, statement: str, steps: int) -> None:
    _assert_found(run(scenario, protocol=Protocol(**{bug: True})), statement, steps)


def test_answers_to_answers_are_told_from_answers() -> None:
    """So few unread records are enough for the protocol as it is: the bug is found by what it adds."""
    result = run(CALM)
    assert (result.violation, result.complete) == (None, True)


@pytest.mark.parametrize(
    ("kind", "scenario", "topics", "words"),
    [
        (OrderConfirmed, ONE, (ORDERS,), "order A is confirmed, and `outcomes` never has it"),
        (OrderRejected, SOLD_OUT, (ORDERS,), "order A is rejected, and `outcomes` never has it"),
        (OrderCancelled, CANCEL, (ORDERS,), "order A is cancelled, and `outcomes` never has it"),
        (OrderRejected, SOLD_OUT, (OUTCOMES,), "order A is never settled: rejected"),
        (OrderCancelled, CANCEL, (OUTCOMES,), "order A is never settled: cancelled"),
    ],
    ids=str,
)
def test_an_outcome_that_is_not_on_each_of_its_topics_is_missed(
    kind: type[Event], scenario: Scenario, topics: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "TOPICS_OF", {**TOPICS_OF, kind: topics})
    violation = run(scenario).violation
    assert violation is not None
    assert violation.statement.startswith(f"6: {words}")


def test_a_restored_inventory_may_give_the_last_piece_to_another() -> None:
    """A limit of the design; a change that lifts it fails here. See `RESTORED_UNSAFELY`."""
    _assert_found(run(RESTORED_UNSAFELY), "4", 17)


def _assert_found(result: Result, statement: str, steps: int) -> None:
    assert result.violation is not None, f"{result.states} states, and nothing found"
    assert result.violation.statement.startswith(f"{statement}:"), f"\n{result.violation}"
    assert len(result.violation.trace) == steps, f"\n{result.violation}"


def _id(value: object) -> str | None:
    match value:
        case Rules():
            functions: list[Callable[..., Any]] = [value.advance, value.decide_payment, value.decide_stock]
            return next(f.__name__ for f in functions if f.__module__ == __name__)
        case Scenario() | int():
            return ""
    return None
