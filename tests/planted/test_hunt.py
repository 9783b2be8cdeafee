"""A test of the tests: some planted bugs, the cheapest to find, are found. `just planted-bugs` plants all of them."""

import pytest

from tests.planted.bugs import BUGS, Bug
from tests.planted.plant import copy_of_checkout, hunt, passed, run

QUICK = {
    "tests/unit/test_saga.py": ("late-result-dropped",),
    "tests/unit/test_payment_decide.py": ("captured-again", "refund-truncates-cents"),
    "tests/unit/test_inventory_decide.py": ("release-before-reserve-forgotten",),
    "tests/unit/test_parking.py": ("follower-let-through",),
}


@pytest.mark.parametrize(("check", "name"), [(check, name) for check, names in QUICK.items() for name in names])
def test_a_planted_bug_is_found(check: str, name: str) -> None:
    [bug] = [bug for bug in BUGS if bug.name == name]
    finding = hunt(bug)
    assert finding.caught_by.startswith(f"{check}::"), finding.output


def test_without_a_bug_the_same_checks_pass() -> None:
    with copy_of_checkout() as copy:
        failed, output = run(copy, *QUICK)
    assert not failed
    assert passed(output), output


def test_a_bug_that_fails_no_test_is_not_caught() -> None:
    """A bug that keeps the tests from being collected is not caught either."""
    harmless = Bug("harmless", "nothing", "common/backoff.py", "import random", "import random  # as ever", ())
    fatal = harmless._replace(new="import nothing_like_this")
    for bug in (harmless, fatal):
        finding = hunt(bug._replace(checks=("tests/unit/test_backoff.py",)))
        assert finding.caught_by == "", finding.output
