"""What the tests on the shared stack order, and who orders it."""

import uuid
from typing import Final

import pytest

from tests.stack import Stack

BALANCE: Final = 10**6
PRICE: Final = 100


def draw(prefix: str) -> str:
    """An id that no other test has."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def product(stack: Stack) -> str:
    """A product that does not run out, at `PRICE`."""
    product_id = draw("sku")
    stack.product(product_id, price=PRICE, pieces=10**6)
    stack.await_orderable(product_id)
    return product_id


@pytest.fixture
def customer(stack: Stack) -> str:
    """A customer with `BALANCE`."""
    customer_id = draw("cust")
    stack.account(customer_id, BALANCE)
    return customer_id
