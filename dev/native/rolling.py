"""`just restart` and `just upgrade`: processes are replaced one after the other, while others do their work.

All instances of a service share its port. A service whose only instance is replaced gets a second one for that time, so
that no request finds it closed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from dev.native.supervised import SupervisedStack
from dev.settings import CONSOLE, SERVICES

ORDER: Final = (("payment", "inventory", "order-saga"), ("order-api",), (CONSOLE,))
"""Consumers first: whoever reads an event knows its newest form before anybody writes it."""
STAND_IN: Final = 2
"""The number of the second instance."""


def upgrade(stack: SupervisedStack) -> None:
    """Run the migrations, then replace every process by one of the code that is here now. Raises `StackError` and
    `StartError`; what has not been replaced by then goes on."""
    stack.set_up()
    for names in ORDER:
        roll(stack, stack.programs.matching(names))


def roll(stack: SupervisedStack, chosen: Sequence[str]) -> None:
    """Replace programs in turns. Raises `StartError` if one is not ready; those after it are then left as they are."""
    with stand_ins(stack, chosen):
        for turn in stack.programs.turns(chosen):
            stack.supervisor.stop(turn)
            stack.supervisor.renew(turn)
            stack.start_programs(turn)


@contextmanager
def stand_ins(stack: SupervisedStack, chosen: Sequence[str]) -> Iterator[None]:
    """A second instance of each service whose only one is among these and runs. If anything fails after they are ready,
    they stay, as `just scale` would have them. Raises `StartError`."""
    statuses, counts = stack.supervisor.statuses(), stack.state.instances()
    lone = [
        service
        for service in SERVICES
        if counts[service.name] == 1
        and (name := service.instance(1)) in chosen
        and name in statuses
        and statuses[name].state == "RUNNING"
    ]
    before = stack.state.scale
    _scale(stack, before | {service.name: STAND_IN for service in lone})
    names = [service.instance(STAND_IN) for service in lone]
    try:
        stack.start_programs(names)
    except BaseException:
        _scale(stack, before)
        raise
    try:
        yield
    except BaseException:
        if lone:
            back = " ".join(f"{service.name}=1" for service in lone)
            print(f"{', '.join(names)} stay beside the others; 'just scale {back}' ends them", flush=True)
        raise
    _scale(stack, before)


def _scale(stack: SupervisedStack, scale: dict[str, int]) -> None:
    """Let everybody know the instances: each reads the state when it starts."""
    stack.state.scale = scale
    stack.state.save()
    stack.configure_supervisor(replacing=False)
