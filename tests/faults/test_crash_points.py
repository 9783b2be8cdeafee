"""The crash points that matter most. `just crash-matrix` runs all of them."""

from collections.abc import Iterator

import pytest

from tests.crash.points import POINTS
from tests.crash.trial import Trials
from tests.servers import Servers


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Trials]:
    trials = Trials(tmp_path_factory.mktemp("crash"), servers)
    yield trials
    trials.stop()


@pytest.mark.parametrize("name", ["payment-committed", "saga-outcomes-sent", "relay-published", "api-key-stored"])
def test_a_process_killed_at_its_point_is_survived(trials: Trials, name: str) -> None:
    outcome = trials.run(POINTS[name])
    assert not outcome.fault, f"{outcome.fault}\n{trials.stack.logs()}"
