"""The rules and the batch protocol as one small model, checked in every reachable state within stated bounds.

`run(scenario)` explores; `python -m tests.model` prints the results. The rules (`advance`, both `decide`) are the
real code; the protocol of `common.consume.loop`, parking and the operator are modelled in `service`.
"""

from tests.model.explore import Result, run
from tests.model.parts import Rules
from tests.model.scenarios import LARGE, SMALL, Scenario
from tests.model.service import Protocol

__all__ = ["LARGE", "SMALL", "Protocol", "Result", "Rules", "Scenario", "run"]
