"""The stacks that tests run on. `stack` is shared and is left as it was found; `own_stack` is there to be broken."""

import os
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

import dev.settings
from tests.stack import Stack

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Give each of the workers that run side by side ports of its own."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        dev.settings.free_port_range = dev.settings.free_port_range[int(worker.removeprefix("gw")) :: count]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One of each process, running. Tests bring customers and products of their own."""
    shared = Stack(tmp_path_factory.mktemp("stack"))
    try:
        shared.start_infrastructure()
        shared.launch_all()
        yield shared
    finally:
        shared.stop()


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Infrastructure with a proxy before each database, for the tests of one module; they start the processes."""
    own = Stack(tmp_path_factory.mktemp("own"))
    try:
        own.start_infrastructure()
        own.put_proxies()
        yield own
    finally:
        own.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the ends of the processes' logs."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            if isinstance(value, Stack):
                report.sections.append(("logs of the stack", value.logs()))
    return report
