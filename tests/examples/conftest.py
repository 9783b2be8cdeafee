"""The examples run against the stack that tests share."""

from pathlib import Path

import pytest
from playwright._impl._driver import compute_driver_executable

from dev.settings import HOST
from tests.integration.conftest import customer, product
from tests.stack import Stack

__all__ = ["api", "customer", "node", "product"]


@pytest.fixture(scope="module")
def api(stack: Stack) -> str:
    """The address of the order api."""
    return f"http://{HOST}:{stack.ports['order-api']}"


@pytest.fixture(scope="module")
def node() -> Path:
    """The Node that Playwright brings. It runs TypeScript, which a Node of the machine may be too old for."""
    executable, _ = compute_driver_executable()
    return Path(executable)
