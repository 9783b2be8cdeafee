"""Demo data is loaded however slow the machine is: `just up` must not fail because of it."""

from collections.abc import Callable

import pytest

import inventory.__main__ as inventory
import payment.__main__ as payment
from common import postgres
from tests.stack import Stack


@pytest.mark.parametrize("load_demo", [payment.load_demo, inventory.load_demo], ids=["payment", "inventory"])
def test_demo_data_may_take_longer_than_a_statement_of_a_service(
    own_stack: Stack, load_demo: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in own_stack.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(postgres.connect.__kwdefaults__ or {}, "statement_timeout_ms", 1)
    load_demo()
