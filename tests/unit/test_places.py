"""Places for long requests: nobody gets all of them, and with AUTH=off nobody is told from others."""

from contextlib import ExitStack

from common.auth.principal import ANYONE, Principal
from common.http.limits.places import Full, Places
from tests.unit.principals import principal


def taken(places: Places, stack: ExitStack, who: Principal, source: str, times: int) -> list[Full]:
    """Take so many places. Returns the refusals."""
    refusals = []
    for _ in range(times):
        if (full := places.full(who, source)) is None:
            stack.enter_context(places.taking(who, source))
        else:
            refusals.append(full)
    return refusals


def test_a_customer_has_a_limit_of_their_own_whatever_the_addresses() -> None:
    places, greedy = Places(100, 2), principal("greedy")
    with ExitStack() as stack:
        refusals = [full for source in "abc" for full in taken(places, stack, greedy, source, 1)]
        assert refusals == [Full(2, "of this principal")]
        assert taken(places, stack, principal("modest"), "a", 2) == []
        assert places.taken == 4
    assert (places.taken, taken(places, stack, greedy, "a", 1)) == (0, [])


def test_one_machine_and_one_address_leave_places_to_others() -> None:
    places, shop = Places(8, 100), principal("shop", "merchant")
    with ExitStack() as stack:
        assert taken(places, stack, shop, "", 8) == [Full(6, "of this principal")] * 2
        assert taken(places, stack, principal("other", "auditor"), "", 3) == [Full(8, "in all")]
    with ExitStack() as stack:
        names = (principal(f"cust-{number}") for number in range(8))
        refusals = [full for each in names for full in taken(places, stack, each, "a", 1)]
        assert refusals == [Full(6, "of this address")] * 2


def test_with_nobody_told_from_others_all_places_can_be_had() -> None:
    with ExitStack() as stack:
        assert taken(Places(8, 1), stack, ANYONE, "", 9) == [Full(8, "in all")]
