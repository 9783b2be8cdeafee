"""The stacks that tests run on. `stack` is shared and is left as it was found; `own_stack` is there to be broken."""

import os
import signal
from collections.abc import Generator, Iterator
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

import tests.guarded
from common.config.env import ignore_foreign_variables
from dev.settings import ports
from tests.guarded import Guarded
from tests.servers import Servers
from tests.stack import Stack

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

LONGEST: Final = (
    "tests/integration/test_bench.py",
    "tests/chaos/test_chaos.py",
    "tests/integration/test_verify.py",
    "tests/faults/test_loss.py",
    "tests/faults/test_restore.py",
    "tests/golden/test_replay.py",
    "tests/faults/test_poison.py",
    "tests/faults/test_delivery.py",
    "tests/integration/test_verify_under_load.py",
    "tests/faults/test_crash_points.py",
    "tests/faults/test_one_service_away.py",
    "tests/faults/test_deadlines.py",
    "tests/fuzz/test_fuzz.py",
    "tests/faults/test_killed_under_load.py",
    "tests/faults/test_rolling_upgrade.py",
    "tests/alerts/test_alerts.py",
    "tests/integration/test_stored.py",
    "tests/integration/test_secure.py",
)
"""The modules that take longest, in that order, so that the workers end at about the same time."""
SHARING: Final = "stack"
"""The fixture of the modules that share a stack: they come together, so that a worker starts one once."""


def pytest_configure(config: pytest.Config) -> None:
    """Give each of the workers that run side by side ports of its own. Nothing of the shell may lead a test's own
    requests and connections elsewhere, and no process may ignore Ctrl-C because the shell runs this in the
    background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ignore_foreign_variables()
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name == "TANDEM_CALLER"]:
        del os.environ[name]
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        ports.free_port_range = ports.free_port_range[int(worker.removeprefix("gw")) :: count]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules come first, then those that share a stack, and last those that need none, to fill the
    gaps."""
    sharing = {item.path for item in items if isinstance(item, pytest.Function) and SHARING in item.fixturenames}

    def turn(item: pytest.Item) -> tuple[int, int]:
        module = item.path.relative_to(item.config.rootpath).as_posix()
        if module in LONGEST:
            return 0, LONGEST.index(module)
        return (1 if item.path in sharing else 2), 0

    items.sort(key=turn)


class Premises:
    """A worker's servers, and the stack that uses them: one after the other, since a broker costs seconds to start."""

    def __init__(self, directories: pytest.TempPathFactory) -> None:
        self._directories = directories
        self._servers: Servers | None = None
        self._shared: Stack | None = None
        self.tenant: Stack | None = None

    def vacate(self) -> Servers:
        """Stop the present stack, and leave the servers with nothing in them."""
        self._shared = None
        if self.tenant is not None:
            self.tenant.stop()
            self.tenant = None
        if self._servers is None:
            self._servers = Servers(self._directories.mktemp("servers"))
        self._servers.clear()
        return self._servers

    def let(self) -> Stack:
        """A new stack, not yet started, on servers with nothing in them."""
        servers = self.vacate()
        self.tenant = Stack(self._directories.mktemp("stack"), servers=servers)
        return self.tenant

    def share(self) -> Stack:
        """The stack that modules share, running."""
        if self._shared is None:
            stack = self.let()
            stack.start_infrastructure()
            stack.launch_all()
            self._shared = stack
        return self._shared

    def secure(self) -> Stack:
        """A running stack in which nothing is sent in the clear. The other servers end: the machine has memory for one
        broker a worker."""
        self.close()
        self._servers = self._shared = self.tenant = None
        directory = self._directories.mktemp("secure")
        stack = Stack(directory, servers=Servers(directory, secure=True), owns_servers=True)
        self.tenant = stack
        stack.start_infrastructure()
        stack.launch_all()
        return stack

    def close(self) -> None:
        if self.tenant is not None:
            self.tenant.stop()
        if self._servers is not None:
            self._servers.stop()


_PREMISES: Final = pytest.StashKey[Premises]()


@pytest.fixture(scope="session")
def premises(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    premises = request.config.stash[_PREMISES] = Premises(tmp_path_factory)
    yield premises
    premises.close()


@pytest.fixture(scope="module")
def servers(premises: Premises) -> Servers:
    """PostgreSQL and Kafka with nothing in them."""
    return premises.vacate()


@pytest.fixture(scope="module")
def stack(premises: Premises) -> Stack:
    """One of each process, running. Tests bring customers and products of their own."""
    return premises.share()


@pytest.fixture(scope="module")
def guarded(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Instances beside those of the shared stack that ask for credentials."""
    with tests.guarded.guarded(stack, tmp_path_factory.mktemp("guarded")) as instances:
        yield instances


@pytest.fixture(scope="module")
def own_stack(premises: Premises) -> Stack:
    """Infrastructure with a proxy before each database, for the tests of one module; they start the processes."""
    own = premises.let()
    own.start_infrastructure()
    own.put_proxies()
    return own


@pytest.fixture(scope="module")
def secure_stack(premises: Premises) -> Iterator[Stack]:
    """One of each process, where nothing is sent in the clear, on servers of its own, for the tests of one module."""
    secure = premises.secure()
    yield secure
    secure.stop()


@pytest.fixture
def fresh_stack(premises: Premises) -> Stack:
    """Infrastructure for one test. It ends the stack of the module, so the test has to be the module's last."""
    fresh = premises.let()
    fresh.start_infrastructure()
    return fresh


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the ends of the processes' logs, and what the processes and the databases do just now."""
    report = yield
    premises = item.config.stash.get(_PREMISES, None)
    if report.failed and premises is not None and premises.tenant is not None and "premises" in item.fixturenames:  # type: ignore[attr-defined]
        tenant = premises.tenant
        report.sections += [
            ("logs of the stack", tenant.logs()),
            ("threads", tenant.threads()),
            ("sessions", tenant.sessions()),
        ]
    return report
