"""Every reachable state of a scenario, breadth first, so that the first violation found has a shortest trace.

A state is the world outside (budgets, the client, the clock, pieces on hand) and three services a partition, each
interned as a small number together with its possible steps: services are loosely coupled, so most states differ from
one another in how the same few services combine.

The search judges each service by itself when it is first met, and the three tables against one another in every state.
In a quiescent state, in which no step is left but a fault, every order must be settled. And without faults and clients
no run may go on for ever: the graph of the other steps has no cycle.
"""

import gc
import time
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

from common.events import Event, OrderPlaced
from tests.model.parts import (
    Part,
    PaymentPart,
    Rules,
    SagaPart,
    StockPart,
    cancel_requested,
    name_of,
    order_name,
    placed,
)
from tests.model.scenarios import PRICE, ROLES, Scenario
from tests.model.service import Events, Protocol, Service, Step, Stepper

State = tuple[int, ...]
"""The world outside, then saga, payment and inventory of partition 0, then of partition 1."""


class Violation(NamedTuple):
    """A statement broken, and a shortest way there."""

    statement: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        steps = (f"{number:4}  {step}" for number, step in enumerate(self.trace, 1))
        return "\n".join((*steps, f"   => {self.statement}"))


@dataclass(frozen=True, slots=True)
class Result:
    scenario: Scenario
    states: int
    transitions: int
    quiescent: int
    seconds: float
    violation: Violation | None
    complete: bool
    """Whether all was explored: not after a violation, nor when the limit on states was reached."""
    ends: frozenset[tuple[Any, ...]]
    """The outcomes of quiescent states: the status of each order, and how much net is paid and taken for it."""


STATES_MAX: Final = 20_000_000
_RULES: Final = Rules()
_PROTOCOL: Final = Protocol()


def run(
    scenario: Scenario, *, rules: Rules = _RULES, protocol: Protocol = _PROTOCOL, states_max: int = STATES_MAX
) -> Result:
    """Explore the scenario until a statement is broken, every state was seen, or there are too many."""
    search = _Search(scenario, rules, protocol)
    # Millions of tuples, none of them in a cycle: looking for cycles among them takes half of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return search.run(states_max)
    finally:
        if collecting:
            gc.enable()


class _World(NamedTuple):
    """What is outside the services: what may still go wrong, what clients may still send, the stock they share."""

    crashes: int
    zombies: int
    poisons: int
    refusals: int
    placed: int
    """How many of the orders have been placed."""
    cancels: tuple[int, ...]
    duplicates: int
    time_to_come: bool
    restore_to_come: bool
    on_hand: int


class _Outside(NamedTuple):
    """A step of the world: a client's, the clock's or an operator's."""

    label: str
    optional: bool
    after: _World
    published: tuple[int, ...] = ()
    partition: int = 0
    ticks: bool = False
    restores: bool = False


class _Inner(NamedTuple):
    """A step of a service, by numbers."""

    cost: int  # index into `_World`, or -1
    after: int
    on_hand: int
    published: int  # 0: nothing
    wrong: str | None


_COSTS: Final = ("crashes", "zombies", "poisons", "refusals")


class _Slot:
    """The states of one service of one partition that were met, by number."""

    def __init__(self, stepper: Stepper, partition: int) -> None:
        self.stepper = stepper
        self.partition = partition
        self.services: list[Service] = []
        self.wrong: list[str | None] = []
        self.view: list[int] = []
        self._numbers: dict[Service, int] = {}
        self.views: dict[tuple[Any, ...], int] = {}
        self.seen_views: list[tuple[Any, ...]] = []
        self.steps: dict[tuple[int, int], list[_Inner]] = {}
        self.delivered: dict[tuple[int, int], int] = {}

    def number(self, service: Service) -> int:
        service = self.stepper.normal(service)
        number = self._numbers.get(service)
        if number is None:
            number = self._numbers[service] = len(self.services)
            self.services.append(service)
            self.wrong.append(self.stepper.wrong(service))
            view = self.stepper.view(service)
            if view not in self.views:
                self.views[view] = len(self.seen_views)
                self.seen_views.append(view)
            self.view.append(self.views[view])
        return number


class _Search:
    def __init__(self, scenario: Scenario, rules: Rules, protocol: Protocol) -> None:
        self._scenario = scenario
        self._events = Events()
        self._slots: list[_Slot] = []
        self._numbers: list[tuple[int, ...]] = []
        for partition in range(1 + max(order.partition for order in scenario.orders)):
            numbers = tuple(n for n, order in enumerate(scenario.orders) if order.partition == partition)
            self._numbers.append(numbers)
            parts: list[Part] = [
                SagaPart(scenario, rules, numbers, protocol.saga_answers_everything, protocol.saga_answers_no_repeats),
                PaymentPart(scenario, rules, numbers),
                StockPart(scenario, rules, numbers),
            ]
            self._slots += [
                _Slot(Stepper(scenario, protocol, part, numbers, self._events), partition) for part in parts
            ]
        self._worlds: list[_World] = []
        self._world_numbers: dict[_World, int] = {}
        self._spent: dict[tuple[int, int, int], int] = {}
        self._outside: dict[int, list[_Outside]] = {}
        self._published: list[tuple[int, ...]] = [()]
        self._published_numbers: dict[tuple[int, ...], int] = {(): 0}
        self._judged: dict[tuple[int, ...], str | None] = {}
        self._stock_slots = [at for at, slot in enumerate(self._slots) if slot.stepper.name == "inventory"]

    def run(self, states_max: int) -> Result:
        began = time.perf_counter()
        initial = self._initial()
        index: dict[State, int] = {initial: 0}
        states: list[State] = [initial]
        parents = array("I", [0])
        waits_for = array("I", [0])  # of each state: how many steps that are bound to come lead to it
        transitions = quiescent = at = 0
        level_ends = 1
        broken: tuple[int, str] | None = None  # met on the way from this state
        violation: Violation | None = None
        ends: set[tuple[Any, ...]] = set()

        while at < len(states) and len(states) <= states_max:
            if at == level_ends:
                if broken is not None:
                    break
                level_ends = len(states)
            state = states[at]
            calm = True
            for successor, bound, wrong in self._successors(state):
                transitions += 1
                calm = calm and not bound
                if broken is not None:
                    continue
                number = index.get(successor)
                if number is None:
                    number = index[successor] = len(states)
                    states.append(successor)
                    parents.append(at)
                    waits_for.append(0)
                    wrong = wrong or self._wrong(successor)
                if bound:
                    waits_for[number] += 1
                if wrong is not None:
                    broken = (at, wrong)
            if calm:
                quiescent += 1
                ends.add(tuple(slot.seen_views[slot.view[state[n]]] for n, slot in enumerate(self._slots, 1)))
                unsettled = self._unsettled(state)
                if unsettled is not None:
                    violation = Violation(unsettled, self._trace(states, parents, at))
                    break
            at += 1

        complete = at == len(states)
        if violation is None and broken is not None:
            violation = self._broken(states, parents, *broken)
        elif violation is None and complete:
            violation = self._endless(index, states, parents, waits_for)
        complete = complete and violation is None
        seconds = time.perf_counter() - began
        return Result(
            self._scenario, len(states), transitions, quiescent, seconds, violation, complete, frozenset(ends)
        )

    # States and steps, by numbers.

    def _initial(self) -> State:
        scenario = self._scenario
        world = _World(
            scenario.crashes,
            scenario.zombies,
            scenario.poisons,
            scenario.refusals,
            0,
            (scenario.cancels,) * len(scenario.orders),
            scenario.duplicates,
            scenario.deadline,
            scenario.restored is not None,
            scenario.stock,
        )
        return (self._world(world), *(slot.number(slot.stepper.initial()) for slot in self._slots))

    def _world(self, world: _World) -> int:
        number = self._world_numbers.get(world)
        if number is None:
            number = self._world_numbers[world] = len(self._worlds)
            self._worlds.append(world)
        return number

    def _successors(self, state: State) -> list[tuple[State, bool, str | None]]:
        """Each with whether it is bound to come, and the statement that the step itself breaks."""
        successors: list[tuple[State, bool, str | None]] = []
        world = state[0]
        for outside in self._outside_steps(world):
            successors.append((self._after_outside(state, outside), not outside.optional, None))  # noqa: PERF401
        on_hand = self._worlds[world].on_hand
        for at, slot in enumerate(self._slots, 1):
            number = state[at]
            shared = on_hand if at - 1 in self._stock_slots else 0
            steps = slot.steps.get((number, shared))
            if steps is None:
                steps = self._inner_steps(slot, number, shared)
            for cost, after, left, published, wrong in steps:
                spent = world
                if cost >= 0 or left != shared:
                    spent = self._spend(world, cost, left if left != shared else on_hand)
                    if spent < 0:
                        continue
                successor = list(state)
                successor[0] = spent
                successor[at] = after
                if published:
                    self._deliver(successor, slot.partition, published)
                successors.append((tuple(successor), cost < 0, wrong))
        return successors

    def _inner_steps(self, slot: _Slot, number: int, shared: int) -> list[_Inner]:
        steps = [
            _Inner(
                _COSTS.index(step.cost) if step.cost else -1,
                slot.number(step.after),
                step.on_hand,
                self._publication(step.published),
                step.wrong,
            )
            for step in self._steps(slot, number, shared)
        ]
        slot.steps[number, shared] = steps
        return steps

    def _steps(self, slot: _Slot, number: int, shared: int) -> list[Step]:
        return slot.stepper.steps(slot.services[number], shared)

    def _publication(self, events: tuple[int, ...]) -> int:
        if events not in self._published_numbers:
            self._published_numbers[events] = len(self._published)
            self._published.append(events)
        return self._published_numbers[events]

    def _spend(self, world: int, cost: int, on_hand: int) -> int:
        """The world with one fault less and these pieces on hand; -1 where there is none left."""
        key = (world, cost, on_hand)
        spent = self._spent.get(key)
        if spent is None:
            before = self._worlds[world]
            after = before._asdict() | {"on_hand": on_hand}
            if cost >= 0:
                after[_COSTS[cost]] -= 1
            spent = self._spent[key] = -1 if cost >= 0 and after[_COSTS[cost]] < 0 else self._world(_World(**after))
        return spent

    def _deliver(self, successor: list[int], partition: int, published: int) -> None:
        for at in range(1 + 3 * partition, 4 + 3 * partition):
            slot = self._slots[at - 1]
            key = (successor[at], published)
            after = slot.delivered.get(key)
            if after is None:
                service = slot.services[successor[at]]
                after = slot.number(slot.stepper.delivered(service, self._published[published]))
                slot.delivered[key] = after
            successor[at] = after

    def _outside_steps(self, world: int) -> list[_Outside]:
        steps = self._outside.get(world)
        if steps is None:
            steps = self._outside[world] = list(self._find_outside_steps(self._worlds[world]))
        return steps

    def _find_outside_steps(self, world: _World) -> Iterator[_Outside]:
        scenario = self._scenario
        if world.placed < len(scenario.orders):
            number = world.placed
            yield self._sends(placed(scenario, number), number, world._replace(placed=number + 1), optional=False)
        for number in range(world.placed):
            if world.cancels[number]:
                left = (*world.cancels[:number], world.cancels[number] - 1, *world.cancels[number + 1 :])
                yield self._sends(cancel_requested(scenario, number), number, world._replace(cancels=left))
            if world.duplicates:
                yield self._sends(placed(scenario, number), number, world._replace(duplicates=world.duplicates - 1))
        if world.time_to_come and world.placed == len(scenario.orders):
            yield _Outside("(clock) the deadline passes", False, world._replace(time_to_come=False), ticks=True)
        if world.restore_to_come and world.placed == len(scenario.orders):
            after = world._replace(restore_to_come=False)
            if scenario.restored == "inventory":
                after = after._replace(on_hand=scenario.stock)
            yield _Outside(f"(operator) restores {scenario.restored} from its backup", True, after, restores=True)

    def _sends(self, event: Event, number: int, after: _World, *, optional: bool = True) -> _Outside:
        again = " again" if isinstance(event, OrderPlaced) and optional else ""
        published = (self._events.number(event),)
        return _Outside(
            f"(client) sends {name_of(event)}{again}",
            optional,
            after,
            published,
            self._scenario.orders[number].partition,
        )

    def _after_outside(self, state: State, outside: _Outside) -> State:
        successor = list(state)
        successor[0] = self._world(outside.after)
        if outside.published:
            self._deliver(successor, outside.partition, self._publication(outside.published))
        for at, slot in enumerate(self._slots, 1):
            service = slot.services[successor[at]]
            if outside.ticks:
                successor[at] = slot.number(slot.stepper.ticked(service))
            if outside.restores and slot.stepper.name == self._scenario.restored:
                successor[at] = slot.number(slot.stepper.restored(service))
        return tuple(successor)

    # Statements.

    def _wrong(self, state: State) -> str | None:
        """The statement that this state breaks."""
        for at, slot in enumerate(self._slots, 1):
            wrong = slot.wrong[state[at]]
            if wrong is not None:
                return wrong
        views = tuple(slot.view[state[at]] for at, slot in enumerate(self._slots, 1))
        key = (self._worlds[state[0]].on_hand, *views)
        if key not in self._judged:
            self._judged[key] = self._judge(key[0], views, settled_only=self._scenario.restored is None)
        return self._judged[key]

    def _judge(self, on_hand: int, views: tuple[int, ...], *, settled_only: bool) -> str | None:
        """The three services' tables against one another, and the pieces on hand against all movements."""
        shipped = 0
        for partition, numbers in enumerate(self._numbers):
            orders, money, pieces = (
                self._slots[3 * partition + role].seen_views[views[3 * partition + role]] for role in range(len(ROLES))
            )
            shipped += sum(pieces)
            for number, order, paid, taken in zip(numbers, orders, money, pieces, strict=True):
                if order is None or not settled_only:
                    continue
                status, settled = order
                expected = self._scenario.orders[number].pieces if status == "confirmed" else 0
                if settled and (paid, taken) != (expected * PRICE, expected):
                    return (
                        f"4: order {order_name(number)} is settled, {status}: {paid} net is paid, {taken} net is taken"
                    )
        if on_hand != self._scenario.stock - shipped or on_hand < 0:
            return f"3: {on_hand} are on hand, the movements say {self._scenario.stock - shipped}"
        return None

    def _unsettled(self, state: State) -> str | None:
        for at, slot in enumerate(self._slots, 1):
            unsettled = slot.stepper.unsettled(slot.services[state[at]])
            if unsettled is not None:
                return unsettled
        views = tuple(slot.view[state[at]] for at, slot in enumerate(self._slots, 1))
        return self._judge(self._worlds[state[0]].on_hand, views, settled_only=True)

    # Traces.

    def _trace(self, states: list[State], parents: "array[int]", at: int) -> tuple[str, ...]:
        path = [at]
        while path[-1]:
            path.append(parents[path[-1]])
        path.reverse()
        return tuple(self._label(states[a], states[b]) for a, b in pairwise(path))

    def _broken(self, states: list[State], parents: "array[int]", at: int, statement: str) -> Violation:
        for (successor, _, wrong), label in zip(self._successors(states[at]), self._labels(states[at]), strict=True):
            if statement in (wrong, self._wrong(successor)):
                return Violation(statement, (*self._trace(states, parents, at), label))
        raise AssertionError(statement)

    def _label(self, before: State, after: State) -> str:
        for (successor, _, _), label in zip(self._successors(before), self._labels(before), strict=True):
            if successor == after:
                return label
        raise AssertionError("no step leads there")

    def _labels(self, state: State) -> Iterator[str]:
        """The label of each successor, in the same sequence."""
        world = self._worlds[state[0]]
        for outside in self._outside_steps(state[0]):
            yield outside.label
        for at, slot in enumerate(self._slots, 1):
            shared = world.on_hand if at - 1 in self._stock_slots else 0
            name = slot.stepper.name if len(self._numbers) == 1 else f"{slot.stepper.name} {slot.partition}"
            for step in self._steps(slot, state[at], shared):
                if not step.cost or getattr(world, step.cost):
                    yield f"{name}: {step.label}"

    def _endless(
        self, index: dict[State, int], states: list[State], parents: "array[int]", waits_for: "array[int]"
    ) -> Violation | None:
        """A cycle of steps that are bound to come: a run that never rests. Kahn's topological sort finds none, or
        leaves the states on cycles over."""
        ready = deque(at for at, count in enumerate(waits_for) if not count)
        left = len(states)
        while ready:
            left -= 1
            for successor, bound, _ in self._successors(states[ready.popleft()]):
                if bound:
                    at = index[successor]
                    waits_for[at] -= 1
                    if not waits_for[at]:
                        ready.append(at)
        if not left:
            return None
        first = next(at for at, count in enumerate(waits_for) if count)
        trace = list(self._trace(states, parents, first))
        at, seen = first, [first]
        while True:
            at = next(
                index[successor]
                for successor, bound, _ in self._successors(states[at])
                if bound and waits_for[index[successor]]
            )
            trace.append(self._label(states[seen[-1]], states[at]))
            if at in seen:
                break
            seen.append(at)
        steps = len(seen) - seen.index(at)
        return Violation(f"6: the last {steps} steps repeat for ever", tuple(trace))
