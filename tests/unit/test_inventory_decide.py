from collections import Counter
from collections.abc import Iterable
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.events import ITEMS_MAX, QUANTITY_MAX, Contradiction, Line, Milliseconds, OrderId, OrderPlaced, ProductId
from inventory.buckets import shared_out
from inventory.decide import Decisions, Movement, Product, Relevant, Reservation, decide
from tests.unit.orders import as_read, cancelled, cut, order_id, placed, rejected


class Warehouse:
    """Inventory's database, as far as the rules see it."""

    def __init__(self, **pieces: int) -> None:
        self.products = {ProductId(name): Product(on_hand, active=True) for name, on_hand in pieces.items()}
        self.reservations: dict[OrderId, Reservation] = {}
        self.movements: list[Movement] = []

    def take(self, *events: Relevant) -> Decisions:
        """Decide a batch and store the result."""
        return self.take_read(as_read(events))

    def take_read(self, batch: Iterable[tuple[Relevant, Milliseconds]]) -> Decisions:
        decisions = decide(self.products, self.reservations, batch)
        self.reservations.update(decisions.reservations)
        for product_id, on_hand in decisions.on_hand.items():
            self.products[product_id] = Product(on_hand, self.products[product_id].active)
        self.movements += decisions.movements
        return decisions

    def withdraw(self, name: str) -> None:
        """Stop selling a product."""
        self.products[ProductId(name)] = Product(self.on_hand(name), active=False)

    def state(self, number: int = 1) -> str:
        return self.reservations[order_id(number)].state

    def reason(self, number: int = 1) -> str | None:
        return self.reservations[order_id(number)].reason

    def on_hand(self, name: str) -> int:
        return self.products[ProductId(name)].on_hand


def order(number: int = 1, /, **items: int) -> OrderPlaced:
    return placed(number, items=list(items.items()))


def test_an_order_takes_its_pieces_out_of_the_stock() -> None:
    warehouse = Warehouse(tea=10, pot=3)
    warehouse.take(order(tea=4, pot=1))
    assert (warehouse.state(), warehouse.on_hand("tea"), warehouse.on_hand("pot")) == ("reserved", 6, 2)
    assert warehouse.movements == [
        Movement("reserve", order_id(1), ProductId("tea"), 4, Milliseconds(0)),
        Movement("reserve", order_id(1), ProductId("pot"), 1, Milliseconds(0)),
    ]


def test_the_last_piece_is_sold_once() -> None:
    for first, second in permutations([order(1, tea=1), order(2, tea=1)]):
        warehouse = Warehouse(tea=1)
        warehouse.take(first, second)
        assert warehouse.reservations[OrderId(first.subject)].state == "reserved"
        assert warehouse.reservations[OrderId(second.subject)].state == "rejected"
        assert warehouse.on_hand("tea") == 0


@pytest.mark.parametrize("items", [[("tea", 1), ("pot", 5)], [("pot", 5), ("tea", 1)]])
def test_all_lines_are_reserved_or_none(items: list[tuple[str, int]]) -> None:
    warehouse = Warehouse(tea=10, pot=4)
    warehouse.take(placed(items=items))
    assert (warehouse.state(), warehouse.reason()) == ("rejected", "out_of_stock")
    assert (warehouse.on_hand("tea"), warehouse.on_hand("pot"), warehouse.movements) == (10, 4, [])


def test_two_lines_of_one_product_count_together() -> None:
    warehouse = Warehouse(tea=10)
    warehouse.take(placed(1, items=[("tea", 6), ("tea", 5)]), placed(2, items=[("tea", 6), ("tea", 4)]))
    assert (warehouse.state(1), warehouse.state(2), warehouse.on_hand("tea")) == ("rejected", "reserved", 0)
    assert warehouse.reservations[order_id(2)].lines == (Line("tea", 10),)
    assert [m.quantity for m in warehouse.movements] == [10]


def test_the_largest_order_there_can_be_is_one_line_of_a_million() -> None:
    warehouse = Warehouse(tea=ITEMS_MAX * QUANTITY_MAX)
    warehouse.take(placed(items=[("tea", QUANTITY_MAX)] * ITEMS_MAX))
    assert (warehouse.state(), warehouse.on_hand("tea")) == ("reserved", 0)


def test_an_unknown_product_is_out_of_stock() -> None:
    warehouse = Warehouse(tea=10)
    warehouse.take(order(tea=1, unicorn=1))
    assert (warehouse.state(), warehouse.reason(), warehouse.on_hand("tea")) == ("rejected", "out_of_stock", 10)


@pytest.mark.parametrize("items", [{"tea": 1}, {"tea": 99}, {"unicorn": 1, "tea": 1}, {"tea": 1, "unicorn": 1}])
def test_a_product_no_longer_sold_is_rejected_as_inactive_whatever_else_is_wrong(items: dict[str, int]) -> None:
    warehouse = Warehouse(tea=10)
    warehouse.withdraw("tea")
    warehouse.take(order(1, **items))
    assert (warehouse.state(), warehouse.reason(), warehouse.on_hand("tea")) == ("rejected", "inactive", 10)


def test_a_product_no_longer_sold_takes_back_its_reserved_pieces() -> None:
    warehouse = Warehouse(tea=10)
    warehouse.take(order(tea=4))
    warehouse.withdraw("tea")
    warehouse.take(rejected())
    assert (warehouse.state(), warehouse.on_hand("tea")) == ("released", 10)


def test_a_revoked_order_gives_its_pieces_back_and_the_next_one_can_have_them() -> None:
    warehouse = Warehouse(tea=4)
    warehouse.take(order(1, tea=4), cancelled(1), order(2, tea=3))
    assert (warehouse.state(1), warehouse.state(2), warehouse.on_hand("tea")) == ("released", "reserved", 1)
    assert [m.kind for m in warehouse.movements] == ["reserve", "release", "reserve"]


def test_a_released_reservation_keeps_its_lines_and_the_time_of_its_decision() -> None:
    warehouse = Warehouse(tea=4)
    warehouse.take(order(tea=4), cancelled(reason="deadline"))
    reservation = warehouse.reservations[order_id(1)]
    assert (reservation.decided_at, reservation.revoked_at, reservation.reason) == (0, 1, "deadline")
    assert reservation.lines == (Line("tea", 4),)


def test_an_order_that_is_revoked_before_it_is_placed_reserves_nothing() -> None:
    warehouse = Warehouse(tea=4)
    warehouse.take(cancelled())
    warehouse.take(order(tea=1))
    assert (warehouse.state(), warehouse.on_hand("tea"), warehouse.movements) == ("void", 4, [])


def test_an_order_that_got_nothing_has_nothing_to_give_back() -> None:
    warehouse = Warehouse(tea=4)
    warehouse.take(order(tea=5), rejected(), cancelled())
    assert (warehouse.state(), warehouse.reason(), warehouse.movements) == ("rejected", "out_of_stock", [])


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_one_order_ends_alike_for_every_sequence_of_its_events(length: int) -> None:
    """Its events in every sequence and any number of times, in one batch and in batches of one."""
    wanted = placed(items=[("tea", 1), ("pot", 1), ("tea", 2)])
    events: list[Relevant] = [wanted, rejected(), cancelled()]
    for arrival in product(events, repeat=length):
        one_batch, one_by_one = Warehouse(tea=10, pot=10), Warehouse(tea=10, pot=10)
        one_batch.take_read(as_read(arrival))
        for read in as_read(arrival):
            one_by_one.take_read([read])
        revoked = set(arrival) != {wanted}
        state = "void" if arrival[0] != wanted else "released" if revoked else "reserved"
        kinds = {"void": [], "released": ["reserve"] * 2 + ["release"] * 2, "reserved": ["reserve"] * 2}[state]
        left = (7, 9) if state == "reserved" else (10, 10)
        for warehouse in (one_batch, one_by_one):
            assert warehouse.state() == state
            assert [m.kind for m in warehouse.movements] == kinds
            assert (warehouse.on_hand("tea"), warehouse.on_hand("pot")) == left


# Up to four orders that compete for two products, a third that is no longer sold, and an unknown one. Any event about
# each may come at any time.
names = st.sampled_from(["tea", "tea", "pot", "pot", "withdrawn", "unknown"])
lines = st.lists(st.tuples(names, st.integers(1, 5)), min_size=1, max_size=3)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Relevant, Milliseconds]]:
    events: list[Relevant] = []
    for number, items in enumerate(draw(st.lists(lines, min_size=1, max_size=4))):
        events += [placed(number, items=items), rejected(number), cancelled(number)]
    return as_read(draw(st.lists(st.sampled_from(events), max_size=16)))


cuts = st.lists(st.integers(0, 16), max_size=4)
OPENING = {"tea": 8, "pot": 5, "withdrawn": 9}


def warehouse_after(history: list[tuple[Relevant, Milliseconds]], cut_at: Iterable[int] = ()) -> Warehouse:
    warehouse = Warehouse(**OPENING)
    warehouse.withdraw("withdrawn")
    for batch in cut(history, cut_at):
        warehouse.take_read(batch)
        assert min(p.on_hand for p in warehouse.products.values()) >= 0
    return warehouse


@given(histories(), cuts)
def test_every_piece_is_accounted_for(history: list[tuple[Relevant, Milliseconds]], cut_at: list[int]) -> None:
    warehouse = warehouse_after(history, cut_at)
    for name, opening in OPENING.items():
        moved = sum(
            m.quantity * (1 if m.kind == "release" else -1) for m in warehouse.movements if m.product_id == name
        )
        assert warehouse.on_hand(name) == opening + moved


@given(histories(), cuts)
def test_an_order_has_all_that_it_asked_for_or_nothing(
    history: list[tuple[Relevant, Milliseconds]], cut_at: list[int]
) -> None:
    warehouse = warehouse_after(history, cut_at)
    ordered: dict[str, Counter[str]] = {}
    for event, _ in history:
        if isinstance(event, OrderPlaced):
            ordered[event.subject] = Counter()
            for item in event.data.items:
                ordered[event.subject][item.product_id] += item.quantity
    for reservation in warehouse.reservations.values():
        moved = {kind: Counter[str]() for kind in ("reserve", "release")}
        for movement in warehouse.movements:
            if movement.order_id == reservation.order_id:
                assert movement.product_id not in moved[movement.kind], "moved twice"
                moved[movement.kind][movement.product_id] = movement.quantity
        reserved = ordered[reservation.order_id] if reservation.state in ("reserved", "released") else Counter()
        assert moved["reserve"] == {line.product_id: line.quantity for line in reservation.lines} == reserved
        assert moved["release"] == (reserved if reservation.state == "released" else Counter())
    assert {m.order_id for m in warehouse.movements} <= warehouse.reservations.keys()


@given(histories(), cuts)
def test_it_does_not_matter_how_the_log_is_cut_into_batches(
    history: list[tuple[Relevant, Milliseconds]], cut_at: list[int]
) -> None:
    whole, in_parts = warehouse_after(history), warehouse_after(history, cut_at)
    assert whole.reservations == in_parts.reservations
    assert (whole.products, whole.movements) == (in_parts.products, in_parts.movements)


@given(histories())
def test_reading_the_log_again_changes_nothing(history: list[tuple[Relevant, Milliseconds]]) -> None:
    warehouse = warehouse_after(history)
    assert warehouse.take_read(history) == Decisions({}, {}, [])


@given(histories(), cuts)
def test_the_first_event_about_an_order_decides_and_a_later_one_can_only_revoke(
    history: list[tuple[Relevant, Milliseconds]], cut_at: list[int]
) -> None:
    warehouse = warehouse_after(history, cut_at)
    for reservation in warehouse.reservations.values():
        events = [event for event, _ in history if event.data.order_id == reservation.order_id]
        revoked = any(not isinstance(event, OrderPlaced) for event in events)
        assert (reservation.state == "void") == (not isinstance(events[0], OrderPlaced))
        assert (reservation.state == "reserved") <= (not revoked)
        assert (reservation.state == "released") == (revoked and reservation.lines != ())


@given(st.lists(lines, max_size=6), st.integers(0, 20))
def test_an_order_is_reserved_exactly_when_the_stock_at_its_turn_suffices(
    orders: list[list[tuple[str, int]]], pieces: int
) -> None:
    """To reserve more would be to oversell; to reserve less would refuse an order that can be filled."""
    warehouse = Warehouse(tea=pieces, pot=pieces, withdrawn=pieces)
    warehouse.withdraw("withdrawn")
    warehouse.take(*(placed(number, items=items) for number, items in enumerate(orders)))
    left = Counter(tea=pieces, pot=pieces)
    for number, items in enumerate(orders):
        ordered = Counter[str]()
        for name, quantity in items:
            ordered[name] += quantity
        if ordered <= left:
            left -= ordered
            assert warehouse.state(number) == "reserved"
        else:
            assert warehouse.reason(number) == ("inactive" if "withdrawn" in ordered else "out_of_stock")
    assert (warehouse.on_hand("tea"), warehouse.on_hand("pot")) == (left["tea"], left["pot"])


def test_pieces_of_a_product_that_is_gone_cannot_come_back_and_the_contradiction_says_so() -> None:
    warehouse = Warehouse(tea=10)
    warehouse.take(order(tea=4))
    del warehouse.products[ProductId("tea")]
    with pytest.raises(Contradiction, match=r"4 pieces of product 'tea'.*row is gone.*'Rows that are gone'"):
        warehouse.take(cancelled())


# Stock in buckets


def in_a_bucket(pieces: int) -> dict[ProductId, Product]:
    return {ProductId("tea"): Product(pieces, active=True, whole=False)}


def test_what_a_bucket_has_is_sold_without_the_others() -> None:
    decisions = decide(in_a_bucket(4), {}, as_read([order(1, tea=3), order(2, tea=1)]))
    assert not decisions.is_short
    assert decisions.on_hand == {ProductId("tea"): 0}


def test_an_order_that_a_bucket_cannot_fill_is_decided_again_with_the_whole_stock() -> None:
    assert decide(in_a_bucket(4), {}, as_read([order(1, tea=3), order(2, tea=2)])).is_short
    whole = {ProductId("tea"): Product(4, active=True)}
    decisions = decide(whole, {}, as_read([order(1, tea=3), order(2, tea=2)]))
    assert not decisions.is_short
    assert decisions.reservations[order_id(2)].reason == "out_of_stock"


def test_other_buckets_do_not_help_an_order_that_no_stock_could_fill() -> None:
    products = in_a_bucket(4) | {ProductId("pot"): Product(9, active=False)}
    decisions = decide(products, {}, as_read([order(1, tea=5, pot=1), order(2, nothing=1)]))
    assert not decisions.is_short
    assert [decisions.reservations[order_id(n)].reason for n in (1, 2)] == ["inactive", "out_of_stock"]


@given(st.integers(0, 2**53), st.sets(st.integers(0, 63), min_size=1))
def test_shares_add_up_and_differ_by_a_piece_at_most(pieces: int, buckets: set[int]) -> None:
    shares = shared_out(pieces, buckets)
    assert shares.keys() == buckets
    assert sum(shares.values()) == pieces
    assert max(shares.values()) - min(shares.values()) <= 1
