from collections.abc import Iterable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.events import Contradiction, CustomerId, Milliseconds, OrderId, OrderPlaced
from payment.decide import Account, Decisions, Payment, Relevant, Transfer, decide
from tests.unit.orders import as_read, cancelled, cut, order_id, placed, rejected

ANN = CustomerId("ann")
BOB = CustomerId("bob")
CAT = CustomerId("cat")  # her account is in another currency
DAN = CustomerId("dan")  # has no account


class Bank:
    """Payment's database, as far as the rules see it."""

    def __init__(self, **balances: int) -> None:
        self.accounts = {CustomerId(name): Account(balance, "EUR") for name, balance in balances.items()}
        self.payments: dict[OrderId, Payment] = {}
        self.transfers: list[Transfer] = []

    def take(self, *events: Relevant) -> Decisions:
        """Decide a batch and store the result."""
        return self.take_read(as_read(events))

    def take_read(self, batch: Iterable[tuple[Relevant, Milliseconds]]) -> Decisions:
        decisions = decide(self.accounts, self.payments, batch)
        self.payments.update(decisions.payments)
        for customer_id, balance in decisions.balances.items():
            self.accounts[customer_id] = Account(balance, self.accounts[customer_id].currency)
        self.transfers += decisions.transfers
        return decisions

    def state(self, number: int = 1) -> str:
        return self.payments[order_id(number)].state

    def balance(self, customer_id: CustomerId = ANN) -> int:
        return self.accounts[customer_id].balance


def order(number: int = 1, amount: int = 300, customer: str = ANN) -> Relevant:
    return placed(number, items=[("tea", 1)], unit_price=amount, customer=customer)


def test_an_order_is_paid_from_its_customers_account() -> None:
    bank = Bank(ann=1000)
    bank.take(order(amount=300))
    assert (bank.state(), bank.balance()) == ("completed", 700)
    assert bank.transfers == [Transfer("capture", order_id(1), ANN, 300, "EUR", Milliseconds(0))]


def test_the_last_of_the_money_can_be_spent_but_no_more() -> None:
    bank = Bank(ann=500)
    bank.take(order(1, 500), order(2, 1))
    assert (bank.state(1), bank.state(2), bank.balance()) == ("completed", "declined", 0)
    assert bank.payments[order_id(2)].reason == "insufficient_funds"


@pytest.mark.parametrize(("customer", "reason"), [(DAN, "unknown_account"), (CAT, "currency_mismatch")])
def test_an_order_is_declined_with_the_reason(customer: CustomerId, reason: str) -> None:
    bank = Bank()
    bank.accounts[CAT] = Account(1000, "CHF")
    bank.take(order(customer=customer))
    assert (bank.state(), bank.payments[order_id(1)].reason) == ("declined", reason)
    assert bank.transfers == []


def test_a_rejected_order_gets_its_money_back_and_the_next_one_can_spend_it() -> None:
    bank = Bank(ann=300)
    bank.take(order(1), rejected(1, customer=ANN), order(2))
    assert (bank.state(1), bank.state(2), bank.balance()) == ("refunded", "completed", 0)
    assert [t.kind for t in bank.transfers] == ["capture", "refund", "capture"]


def test_a_refund_is_exact_to_the_last_cent() -> None:
    bank = Bank(ann=1_999)
    bank.take(order(1, 1_999), rejected(1, customer=ANN))
    assert bank.balance() == 1_999
    assert [(t.kind, t.amount) for t in bank.transfers] == [("capture", 1_999), ("refund", 1_999)]


def test_a_refunded_payment_keeps_the_time_of_its_decision_and_the_reason_of_its_revocation() -> None:
    bank = Bank(ann=300)
    bank.take(order(), cancelled(reason="deadline", customer=ANN))
    payment = bank.payments[order_id(1)]
    assert (payment.decided_at, payment.revoked_at, payment.reason, payment.amount) == (0, 1, "deadline", 300)


def test_an_order_that_is_revoked_before_it_is_placed_is_never_charged() -> None:
    bank = Bank(ann=300)
    bank.take(rejected(customer=ANN))
    bank.take(order())
    assert (bank.state(), bank.balance(), bank.transfers) == ("void", 300, [])


def test_a_free_order_is_completed_and_revoked_without_an_entry_in_the_ledger() -> None:
    bank = Bank(ann=0)
    bank.take(order(amount=0))
    assert bank.state() == "completed"
    bank.take(cancelled(customer=ANN))
    assert (bank.state(), bank.transfers) == ("refunded", [])


def test_an_order_that_paid_nothing_gets_nothing_back() -> None:
    bank = Bank(ann=100)
    bank.take(order(amount=300), rejected(customer=ANN), cancelled(customer=ANN))
    assert (bank.state(), bank.payments[order_id(1)].reason, bank.transfers) == ("declined", "insufficient_funds", [])


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_one_order_ends_alike_for_every_sequence_of_its_events(length: int) -> None:
    """Its events in every sequence and any number of times, in one batch and in batches of one."""
    for arrival in product([order(), rejected(customer=ANN), cancelled(customer=ANN)], repeat=length):
        one_batch, one_by_one = Bank(ann=1000), Bank(ann=1000)
        one_batch.take_read(as_read(arrival))
        for read in as_read(arrival):
            one_by_one.take_read([read])
        revoked = set(arrival) != {order()}
        state = "void" if arrival[0] != order() else "refunded" if revoked else "completed"
        kinds = {"void": [], "refunded": ["capture", "refund"], "completed": ["capture"]}[state]
        for bank in (one_batch, one_by_one):
            assert bank.state() == state
            assert [t.kind for t in bank.transfers] == kinds
            assert bank.balance() == (700 if state == "completed" else 1000)


# Up to four orders of three customers, who cannot afford all of them. Any event about each may come at any time.
amounts = st.lists(st.integers(0, 500), min_size=1, max_size=4)
customers = st.sampled_from([ANN, BOB, DAN])


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Relevant, Milliseconds]]:
    events: list[Relevant] = []
    for number, amount in enumerate(draw(amounts)):
        customer = draw(customers)
        events += [order(number, amount, customer), rejected(number, customer=customer)]
        events += [cancelled(number, customer=customer)]
    return as_read(draw(st.lists(st.sampled_from(events), max_size=16)))


cuts = st.lists(st.integers(0, 16), max_size=4)


def bank_after(history: list[tuple[Relevant, Milliseconds]], cut_at: Iterable[int] = ()) -> Bank:
    bank = Bank(ann=800, bob=300)
    for batch in cut(history, cut_at):
        bank.take_read(batch)
        assert min(account.balance for account in bank.accounts.values()) >= 0
    return bank


@given(histories(), cuts)
def test_the_books_balance(history: list[tuple[Relevant, Milliseconds]], cut_at: list[int]) -> None:
    bank = bank_after(history, cut_at)
    for customer_id, opening in ((ANN, 800), (BOB, 300)):
        own = [t for t in bank.transfers if t.customer_id == customer_id]
        captured = sum(t.amount for t in own if t.kind == "capture")
        refunded = sum(t.amount for t in own if t.kind == "refund")
        assert bank.balance(customer_id) == opening - captured + refunded


@given(histories(), cuts)
def test_an_order_is_charged_once_at_most_and_gets_back_what_it_paid(
    history: list[tuple[Relevant, Milliseconds]], cut_at: list[int]
) -> None:
    bank = bank_after(history, cut_at)
    entries = {"completed": ["capture"], "refunded": ["capture", "refund"], "declined": [], "void": []}
    for payment in bank.payments.values():
        own = [t for t in bank.transfers if t.order_id == payment.order_id]
        assert [t.kind for t in own] == (entries[payment.state] if payment.amount else [])
        assert {t.amount for t in own} <= {payment.amount}
        assert {t.customer_id for t in own} <= {payment.customer_id}
    assert {t.order_id for t in bank.transfers} <= bank.payments.keys()


@given(histories(), cuts)
def test_it_does_not_matter_how_the_log_is_cut_into_batches(
    history: list[tuple[Relevant, Milliseconds]], cut_at: list[int]
) -> None:
    whole, in_parts = bank_after(history), bank_after(history, cut_at)
    assert (whole.payments, whole.accounts, whole.transfers) == (
        in_parts.payments, in_parts.accounts, in_parts.transfers,
    )  # fmt: skip


@given(histories())
def test_reading_the_log_again_changes_nothing(history: list[tuple[Relevant, Milliseconds]]) -> None:
    bank = bank_after(history)
    assert bank.take_read(history) == Decisions({}, {}, [])


@given(histories(), cuts)
def test_the_first_event_about_an_order_decides_and_a_later_one_can_only_revoke(
    history: list[tuple[Relevant, Milliseconds]], cut_at: list[int]
) -> None:
    bank = bank_after(history, cut_at)
    for payment in bank.payments.values():
        events = [event for event, _ in history if event.data.order_id == payment.order_id]
        revoked = any(not isinstance(event, OrderPlaced) for event in events)
        assert (payment.state == "void") == (not isinstance(events[0], OrderPlaced))
        assert (payment.state == "completed") <= (not revoked)
        assert (payment.state == "refunded") <= revoked


@given(st.lists(st.integers(0, 500), max_size=6), st.integers(0, 1500))
def test_an_order_is_paid_exactly_when_the_balance_at_its_turn_suffices(amounts: list[int], opening: int) -> None:
    bank = Bank(ann=opening)
    bank.take(*(order(number, amount) for number, amount in enumerate(amounts)))
    left = opening
    for number, amount in enumerate(amounts):
        assert bank.state(number) == ("completed" if amount <= left else "declined")
        left -= amount if amount <= left else 0
    assert bank.balance() == left


def test_a_refund_to_an_account_that_is_gone_is_a_contradiction_that_says_so() -> None:
    bank = Bank(ann=1000)
    bank.take(order(amount=300))
    del bank.accounts[ANN]
    with pytest.raises(Contradiction, match=r"300 EUR .* account 'ann' is gone.*'Rows that are gone'"):
        bank.take(cancelled(customer=ANN))


def test_a_refund_in_another_currency_than_the_accounts_is_a_contradiction() -> None:
    bank = Bank(ann=1000)
    bank.take(order(amount=300))
    bank.accounts[ANN] = Account(700, "USD")
    with pytest.raises(Contradiction, match=r"300 EUR .* account 'ann' is in USD"):
        bank.take(cancelled(customer=ANN))
