"""The examples run against the stack that tests share."""

import re
import shutil
import subprocess
from typing import Final

import pytest

from dev.settings import HOST
from tests.integration.conftest import customer, product
from tests.stack import Stack

__all__ = ["api", "customer", "node", "product"]

NODE_MIN: Final = (22, 18)
"""From this version on Node runs TypeScript as it is."""
NO_NODE: Final = (
    f"NO NODE: the TypeScript client is not tested; no node from {'.'.join(map(str, NODE_MIN))} on is on PATH"
)


@pytest.fixture(scope="module")
def api(stack: Stack) -> str:
    """The address of the order api."""
    return f"http://{HOST}:{stack.ports['order-api']}"


@pytest.fixture(scope="module")
def node() -> str:
    """A Node that runs TypeScript. Without one, its test is left out, and the summary at the end says so."""
    path = shutil.which("node")
    if path is not None:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        if (version := re.match(r"v(\d+)\.(\d+)", said)) and (int(version[1]), int(version[2])) >= NODE_MIN:
            return path
    pytest.skip(NO_NODE)
