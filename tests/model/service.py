"""One service's consumer of one partition: the batch protocol of `common.consume` (`loop`, `inbox`, `parking`),
with its crashes, its zombies, its parked events and their operator, as atomic steps over an immutable state.

What counts as one step, and why nothing is lost by it (Lipton, "Reduction", 1975: a step that others neither see nor
disturb may be taken together with its neighbour):

- The log only grows, so an early poll equals a late poll of a smaller batch: polling and storing are one step, except
  for an instance that freezes between the two.
- The broker's acknowledgement changes one process's memory only, and committed offsets are read only by whoever takes
  over: publishing, its acknowledgement and the commit are one step, except in a crash, or where a commit is refused
  or left for later (which does the same).
- Starting reads the position and the committed offset. A late start equals a start at once, being superseded, and a
  second start: so a crash ends in the next instance's start.
- Records that every instance of a service has passed and committed are cut off its queue, since they are not read
  again, and records that do not concern a service are not put into it.
- Zombies are interchangeable, so they are kept sorted.
- Nobody here reads `outcomes`, so it is a set. Of what a process publishes before it crashes, the set gets nothing: to
  lack an outcome is the worse case, since more of them change no step.

`Scenario.fine` takes the first two apart again. Bounds, not reductions: a batch, of records or of parked events, is one
or all there is (records that come meanwhile make sizes in between); a zombie publishes all of its results or none; one
instance at a time believes to own a partition number, of all its topics, and zombies do not commit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from common.events import OUTCOMES, PAYMENTS, TOPICS_OF, Event, OrderDeadlinePassed, OrderPlaced, type_of
from tests.model.parts import (
    Broken,
    Decided,
    Part,
    SagaTables,
    deadline_passed,
    discarded,
    is_good_result,
    name_of,
    order_name,
)
from tests.model.scenarios import Scenario

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """The protocol as designed. Each flag plants a bug that some system has shipped, or nearly."""

    publish_before_store: bool = False
    commit_before_store: bool = False
    read_before_lock: bool = False
    position_unchecked: bool = False
    start_at_position: bool = False
    start_at_committed: bool = False
    only_last_offset: bool = False
    saga_answers_everything: bool = False
    saga_answers_no_repeats: bool = False
    deadline_not_gated: bool = False
    deadline_while_parked: bool = False
    """The timer ignores that a result which the saga has passed is parked."""
    parked_follower_let_through: bool = False
    parked_before_decided: bool = False
    redriven_out_of_order: bool = False
    redriven_done_before_published: bool = False
    discarded_to_nothing: bool = False
    discarded_reopened_as_it_is: bool = False
    """A discarded event that is not published yet is decoded to be answered again, which fails if it is no event."""
    discards_anything: bool = False


ParkedState = Literal["parked", "redrive", "discard", "decided"]
Phase = Literal["idle", "polled", "read", "looked", "stored", "published"]
Cost = Literal["", "crashes", "zombies", "poisons", "refusals"]
Offsets = tuple[int, ...]
"""One for each topic that the service reads."""


class Parked(NamedTuple):
    """A row of `parked_events`, until it is done. They are kept in the order in which they are run."""

    topic: int
    offset: int
    event: int
    root: bool
    garbled: bool
    """Whether it is no event to its reader, rather than one that the database refuses."""
    state: ParkedState
    given_up: bool = False

    @property
    def place(self) -> tuple[int, int]:
        return self.topic, self.offset


class Instance(NamedTuple):
    """A process's memory. A zombie is one that goes on although another has taken over."""

    phase: Phase
    next: Offsets = ()
    """Where it reads on; in `polled` and `read`, where its batch begins."""
    known: Offsets = ()
    until: Offsets = ()
    """Where its batch ends."""
    results: tuple[int, ...] = ()
    rows: tuple[Parked, ...] = ()
    """The marked events it is about to run, or whose results it holds."""


class Deadline(NamedTuple):
    """When the time came at which pending orders are past their deadline; kept by the saga only."""

    good: tuple[int, ...]
    """For each order, until the time comes: which of its two good results the log has."""
    in_time: tuple[bool, ...]
    """For each order, whether it had both before the time came."""
    marks: Offsets | None
    """The ends of the saga's topics at that time."""
    to_publish: tuple[int, ...] = ()
    """Deadlines that the timer has found passed, and not yet published."""


class Service(NamedTuple):
    """A service's database, its queues, and its instances."""

    queues: tuple[tuple[int, ...], ...]
    positions: Offsets
    committed: Offsets
    tables: object
    parked: tuple[Parked, ...]
    active: Instance
    zombies: tuple[Instance, ...]
    accepted: tuple[bool, ...]
    """For each order, whether it was ever in the queue."""
    deadline: Deadline | None
    outcomes: tuple[frozenset[str], ...]
    """For each order, what `outcomes` has of it; kept by the saga only."""


class Step(NamedTuple):
    label: str
    cost: Cost
    after: Service
    on_hand: int
    published: tuple[int, ...] = ()
    wrong: str | None = None


class Events:
    """Events as small numbers, so that queues hash fast."""

    def __init__(self) -> None:
        self.known: list[Event] = []
        self._numbers: dict[Event, int] = {}

    def number(self, event: Event) -> int:
        if event not in self._numbers:
            self._numbers[event] = len(self.known)
            self.known.append(event)
        return self._numbers[event]


class Stepper:
    """What a service can do next."""

    def __init__(
        self, scenario: Scenario, protocol: Protocol, part: Part, numbers: tuple[int, ...], events: Events
    ) -> None:
        self._scenario = scenario
        self._protocol = protocol
        self._part = part
        self._numbers = numbers
        self._events = events
        self._faulty = part.role in scenario.faults_in
        self.name = part.role

    # States.

    def initial(self) -> Service:
        count, orders = len(self._part.topics), len(self._numbers)
        zero = (0,) * count
        timed = self._scenario.deadline and self._part.role == "saga"
        return Service(
            queues=((),) * count,
            positions=zero,
            committed=zero,
            tables=self._part.empty(),
            parked=(),
            active=Instance("idle", zero, zero),
            zombies=(),
            accepted=(False,) * orders,
            deadline=Deadline((0,) * orders, (False,) * orders, None) if timed else None,
            outcomes=(frozenset[str](),) * orders if self._part.role == "saga" else (),
        )

    def delivered(self, service: Service, published: Sequence[int]) -> Service:
        """With these records at the ends of the queues they concern."""
        queues = list(service.queues)
        accepted, deadline = service.accepted, service.deadline
        for number in published:
            event = self._event(number)
            read = [topic for topic in TOPICS_OF[type(event)] if topic in self._part.topics]
            if not read or not self._part.concerns(event):
                continue
            for topic in read:
                queues[self._part.topics.index(topic)] += (number,)
            at = self._numbers.index(int(event.subject[-12:], 16))
            if isinstance(event, OrderPlaced):
                accepted = _put(accepted, at, True)
            if deadline is not None and deadline.marks is None and is_good_result(event):
                which = 1 if PAYMENTS in read else 2
                deadline = deadline._replace(good=_put(deadline.good, at, deadline.good[at] | which))
        return service._replace(queues=tuple(queues), accepted=accepted, deadline=deadline)

    def ticked(self, service: Service) -> Service:
        """The time has come at which pending orders are past their deadline."""
        if service.deadline is None:
            return service
        marks = tuple(len(queue) for queue in service.queues)
        in_time = tuple(good == 3 for good in service.deadline.good)
        return service._replace(deadline=Deadline((), in_time, marks))

    def restored(self, service: Service) -> Service:
        """The database is set back to a backup from before the first order, the service is started anew."""
        zero = (0,) * len(self._part.topics)
        return self._restarted(service._replace(positions=zero, tables=self._part.empty(), parked=(), zombies=()))

    def normal(self, service: Service) -> Service:
        """Without the records that no instance will read again."""
        # Parked events are known by their offsets.
        if self._scenario.restored or service.parked or any(zombie.rows for zombie in service.zombies):
            return service
        low = tuple(map(min, service.positions, service.committed, service.active.next))
        for zombie in service.zombies:
            if zombie.next:
                low = tuple(map(min, low, zombie.next))
        if not any(low):
            return service
        deadline = service.deadline
        if deadline is not None and deadline.marks is not None:
            deadline = deadline._replace(marks=tuple(max(0, mark) for mark in _less(deadline.marks, low)))
        return service._replace(
            queues=tuple(queue[by:] for queue, by in zip(service.queues, low, strict=True)),
            positions=_less(service.positions, low),
            committed=_less(service.committed, low),
            active=_shifted(service.active, low),
            zombies=tuple(_shifted(zombie, low) for zombie in service.zombies),
            deadline=deadline,
        )

    # Statements.

    def wrong(self, service: Service) -> str | None:
        """The statement that this state breaks, judged by this service alone."""
        for number, accepted in zip(self._numbers, service.accepted, strict=True):
            if accepted and not self._part.has(service.tables, number) and not self._waits(service, number):
                return f"1: {self.name} has passed order {order_name(number)} and knows nothing of it"
        for queue, position in zip(service.queues, service.positions, strict=True):
            if len(queue) - position > self._scenario.queue_max:
                most = self._scenario.queue_max
                return f"6: {self.name} has more than {most} unread records: a service answers answers"
        return self._part.wrong(service.tables)

    def _waits(self, service: Service, number: int) -> bool:
        unread = service.queues[0][service.positions[0] :]
        parked = (row.event for row in service.parked if row.state != "decided")
        return any(
            isinstance(event, OrderPlaced) and int(event.subject[-12:], 16) == number
            for event in map(self._event, (*unread, *parked))
        )

    def view(self, service: Service) -> tuple[Any, ...]:
        """For each order, what the other services' tables are compared with."""
        return self._part.view(service.tables)

    def unsettled(self, service: Service) -> str | None:
        """What this service has left undone, in a state in which no step is left."""
        ends = tuple(len(queue) for queue in service.queues)
        if service.parked:
            return f"6: {self.name} has {len(service.parked)} parked events that nobody can move"
        if service.active.phase != "idle" or service.positions != ends:
            return f"6: {self.name} stands at {service.positions} of {ends}, and nothing moves it"
        if service.committed != ends:
            return f"6: {self.name} has committed {service.committed} of {ends}, and never will the rest"
        if isinstance(service.tables, SagaTables):
            for number, row in zip(self._numbers, service.tables.rows, strict=True):
                if row is None or row.settled_at is None:
                    state = row and f"{row.status}, payment {row.payment}, stock {row.inventory}"
                    return f"6: order {order_name(number)} is never settled: {state}"
            for number, row, told in zip(self._numbers, service.tables.rows, service.outcomes, strict=True):
                if row is not None and f"order.{row.status}" not in told:
                    return f"6: order {order_name(number)} is {row.status}, and `outcomes` never has it"
        return None

    # Steps.

    def steps(self, service: Service, on_hand: int) -> list[Step]:
        """Every step that can happen here next. A step without a cost is bound to happen, sooner or later."""
        return [step for step in self._all(service, on_hand) if self._faulty or not step.cost]

    def _all(self, service: Service, on_hand: int) -> Iterator[Step]:
        active = service.active
        match active.phase:
            case "idle":
                yield from self._from_idle(service, on_hand)
            case "polled":
                yield from self._settles(service, on_hand, active.until)
            case "read":
                yield from self._writes(service)
            case "stored" if active.rows:
                yield self._publishes_redriven(service, on_hand)
            case "stored":
                yield from self._publishes(service, on_hand)
            case "published":
                after = service._replace(active=_idle(active), committed=active.next)
                yield Step("commits the offsets", "", after, on_hand)
        if active.phase in ("stored", "published", "polled"):
            yield from self._crashes(service, on_hand)
        if active.phase in ("stored", "polled"):
            yield self._freezes(service, active, on_hand, f"freezes, {active.phase}; another instance takes over")
        for zombie in dict.fromkeys(service.zombies):
            yield from self._zombie_steps(service, zombie, on_hand)

    def _from_idle(self, service: Service, on_hand: int) -> Iterator[Step]:
        active = service.active
        for until in self._batches(service):
            polled = active._replace(phase="polled", until=until)
            named = self._named(service, active.next, until)
            if self._scenario.fine:
                yield Step(f"polls {named}", "", service._replace(active=polled), on_hand)
            elif self._protocol.read_before_lock:
                yield self._reads(service, polled, on_hand)
            else:
                yield from self._settles(service, on_hand, until)
                yield self._freezes(service, polled, on_hand, f"polls {named} and freezes; another instance takes over")
        if active.next != service.committed and not self._protocol.only_last_offset:
            after = service._replace(committed=active.next)
            yield Step("commits offsets", "", after, on_hand)
        if self._restarted(service) != service:
            yield Step("crashes and starts", "crashes", self._restarted(service), on_hand)
        yield from self._operator(service, on_hand)
        yield from self._redrives(service, on_hand)
        yield from self._timer(service, on_hand)

    def _batches(self, service: Service) -> Iterator[Offsets]:
        """One record of any topic, or all there is."""
        begin = service.active.next
        ends = tuple(len(queue) for queue in service.queues)
        sizes = dict.fromkeys(
            _put(begin, topic, begin[topic] + 1)
            for topic in range(len(ends))
            if begin[topic] < ends[topic] and not self._scenario.whole_batches
        )
        if ends != begin:
            sizes[ends] = None
        return iter(sizes)

    def _settles(self, service: Service, on_hand: int, until: Offsets) -> Iterator[Step]:
        """The batch's transaction, by the active instance, with or without an event in it that turns out poison."""
        active = service.active
        batch = f"takes {self._named(service, active.next, until)}"
        if self._superseded(service, active, until):
            dropped = f"{batch}; finds the position moved, drops the batch, starts again"
            yield Step(dropped, "", self._restarted(service), on_hand)
            return
        fresh = sum(
            max(0, end - max(begin, known)) for begin, end, known in zip(active.next, until, active.known, strict=True)
        )
        yield from self._settles_with(service, on_hand, until, batch, None, garbled=False)
        if self._scenario.poisons:
            for root in range(fresh):
                # Whether it is no event, or one that the database refuses, makes a difference to the planted bug only.
                for garbled in (True, False) if self._protocol.discarded_reopened_as_it_is else (False,):
                    yield from self._settles_with(service, on_hand, until, batch, root, garbled=garbled)

    def _settles_with(
        self, service: Service, on_hand: int, until: Offsets, batch: str, root: int | None, *, garbled: bool
    ) -> Iterator[Step]:
        active = service.active
        cost: Cost = "" if root is None else "poisons"
        try:
            outcome = self._transaction(service, active, until, on_hand, root, garbled=garbled)
        except Broken as broken:
            yield Step(batch, cost, service, on_hand, wrong=str(broken))
            return
        if outcome is None:
            return
        stored, decided, parked = outcome
        results = tuple(map(self._events.number, decided.results))
        does = "; ".join((batch, *parked, *decided.did))
        known = tuple(map(max, active.known, until))
        after = stored._replace(active=Instance("stored", until, known, results=results))
        if self._protocol.publish_before_store:
            publishing = f"{does}; publishes {self._names(results)}"
            done = self._committed(self._told(after, results)._replace(active=_idle(after.active)), active.next)
            yield Step(f"{publishing}; stores; commits offsets", cost, done, decided.on_hand, results)
            if root is None and results:
                yield Step(
                    f"{publishing}; crashes before it stores", "crashes", self._restarted(service), on_hand, results
                )
            return
        if self._protocol.commit_before_store:
            if root is None:
                ahead = self._restarted(service._replace(committed=until))
                yield Step(f"{batch}; commits offsets; crashes before it stores", "crashes", ahead, on_hand)
            after = after._replace(committed=until)
        if results or self._scenario.fine:
            yield Step(does, cost, after, decided.on_hand)
        else:
            done = self._committed(after._replace(active=_idle(after.active)), active.next)
            yield Step(f"{does}; commits offsets", cost, done, decided.on_hand)

    def _transaction(
        self, service: Service, who: Instance, until: Offsets, on_hand: int, root: int | None, *, garbled: bool
    ) -> tuple[Service, Decided, list[str]] | None:
        """Sort, decide, store, park, advance the positions; the instances are left as they are. `root` is which of the
        fresh records is poison; None is returned where it would be parked anyway."""
        fresh: list[int] = []
        repeats: list[int] = []
        parked = list(service.parked)
        blocked = self._blocked(parked)
        notes: list[str] = []
        seen = 0
        for topic, (begin, end, known) in enumerate(zip(who.next, until, who.known, strict=True)):
            for offset in range(begin, end):
                event = service.queues[topic][offset]
                customer = self._customer(event)
                if offset < known:
                    if not (self._protocol.parked_before_decided and customer in blocked):
                        repeats.append(event)
                    continue
                is_root = seen == root
                seen += 1
                if is_root and customer in blocked:
                    return None
                if is_root or (customer in blocked and not self._protocol.parked_follower_let_through):
                    parked.append(
                        Parked(topic, offset, event, is_root, is_root and garbled, blocked.get(customer, "parked"))
                    )
                    blocked.setdefault(customer, "parked")
                    why = ("not an event" if garbled else "poison") if is_root else "a follower"
                    notes.append(f"parks {self._name(event)}, {why}")
                    continue
                self._check_in_order(parked, topic, offset, event)
                fresh.append(event)
        decided = self._part.decide(service.tables, on_hand, [*map(self._event, fresh)], [*map(self._event, repeats)])
        self._check_in_time(service, decided)
        positions = tuple(
            end if end > begin and (end > known or self._protocol.position_unchecked) else position
            for position, begin, end, known in zip(service.positions, who.next, until, who.known, strict=True)
        )
        after = service._replace(tables=decided.tables, positions=positions, parked=_in_order(parked))
        return after, decided, notes

    def _publishes(self, service: Service, on_hand: int) -> Iterator[Step]:
        active = service.active
        service = self._told(service, active.results)
        publishing = f"publishes {self._names(active.results)}" if active.results else "has nothing to publish"
        if self._scenario.fine:
            after = service._replace(active=Instance("published", active.next, active.known))
            yield Step(publishing, "", after, on_hand, active.results)
            return
        idle = service._replace(active=_idle(active))
        done = self._committed(idle, service.committed)
        yield Step(f"{publishing}; commits offsets", "", done, on_hand, active.results)
        if done != idle:
            yield Step(f"{publishing}; does not commit", "refusals", idle, on_hand, active.results)

    def _told(self, service: Service, results: Sequence[int]) -> Service:
        """With these results in `outcomes`, if they belong there."""
        outcomes = list(service.outcomes)
        for event in map(self._event, results):
            if OUTCOMES in TOPICS_OF[type(event)]:
                outcomes[self._numbers.index(int(event.subject[-12:], 16))] |= {type_of(event)}
        return service._replace(outcomes=tuple(outcomes))

    def _committed(self, service: Service, begin: Offsets) -> Service:
        """With the offsets of the active instance committed. `begin` is where its batch began."""
        offsets = service.active.next
        if self._protocol.only_last_offset:
            moved = [topic for topic, (a, b) in enumerate(zip(begin, offsets, strict=True)) if a != b]
            offsets = _put(service.committed, moved[-1], offsets[moved[-1]]) if moved else service.committed
        return service._replace(committed=offsets)

    def _crashes(self, service: Service, on_hand: int) -> Iterator[Step]:
        """A part of the results, in order, may have been published."""
        results = service.active.results
        restarted = self._restarted(service)
        if not results and restarted != service:
            yield Step(f"crashes, {service.active.phase}, and starts", "crashes", restarted, on_hand)
        if results:
            yield Step("crashes before it has published, and starts", "crashes", restarted, on_hand)
        for count in range(1, len(results) + 1):
            label = f"publishes {self._names(results[:count])}; crashes, and starts"
            yield Step(label, "crashes", restarted, on_hand, results[:count])

    def _freezes(self, service: Service, frozen: Instance, on_hand: int, label: str) -> Step:
        # Only the results that it has stored matter: its offsets are of no use any more.
        zombie = Instance("stored", results=frozen.results) if frozen.phase == "stored" else frozen
        zombies = tuple(sorted((*service.zombies, zombie)))
        return Step(label, "zombies", self._restarted(service._replace(zombies=zombies)), on_hand)

    def _zombie_steps(self, service: Service, zombie: Instance, on_hand: int) -> Iterator[Step]:
        rest = list(service.zombies)
        rest.remove(zombie)
        without = service._replace(zombies=tuple(rest))
        if zombie.phase == "stored":
            publishing = f"(zombie) publishes {self._names(zombie.results)}"
            yield Step(publishing, "", self._told(without, zombie.results), on_hand, zombie.results)
            return
        if zombie.phase == "looked":
            yield self._zombie_runs(without, zombie, on_hand)
            return
        batch = f"(zombie) takes {self._named(service, zombie.next, zombie.until)}"
        if self._superseded(service, zombie, zombie.until):
            yield Step(f"{batch}; finds the position moved, drops the batch", "", without, on_hand)
            return
        try:
            outcome = self._transaction(without, zombie, zombie.until, on_hand, None, garbled=False)
        except Broken as broken:
            yield Step(batch, "", service, on_hand, wrong=str(broken))
            return
        assert outcome is not None
        stored, decided, parked = outcome
        if decided.results:
            frozen = Instance("stored", results=tuple(map(self._events.number, decided.results)))
            stored = stored._replace(zombies=tuple(sorted((*stored.zombies, frozen))))
        yield Step("; ".join((batch, *parked, *decided.did)), "", stored, decided.on_hand)

    def _superseded(self, service: Service, who: Instance, until: Offsets) -> bool:
        return not self._protocol.position_unchecked and any(
            begin != end and known != position
            for begin, end, known, position in zip(who.next, until, who.known, service.positions, strict=True)
        )

    def _restarted(self, service: Service) -> Service:
        begin = tuple(map(min, service.committed, service.positions))
        if self._protocol.start_at_position:
            begin = service.positions
        if self._protocol.start_at_committed:
            begin = service.committed
        return service._replace(active=Instance("idle", begin, service.positions))

    # The planted bug that reads before it locks. Its memory has what it read in the place of results.

    def _reads(self, service: Service, polled: Instance, on_hand: int) -> Step:
        label = f"takes {self._named(service, polled.next, polled.until)}; reads that {on_hand} are on hand"
        return Step(label, "", service._replace(active=polled._replace(phase="read", results=(on_hand,))), on_hand)

    def _writes(self, service: Service) -> Iterator[Step]:
        [on_hand] = service.active.results
        reader = service._replace(active=service.active._replace(phase="polled", results=()))
        yield from self._settles(reader, on_hand, reader.active.until)

    # Parked events.

    def _blocked(self, parked: Sequence[Parked]) -> dict[str, ParkedState]:
        """The customers with parked events, each with the state in which an event behind them is parked."""
        blocked: dict[str, ParkedState] = {}
        for row in parked:
            customer = self._customer(row.event)
            if row.state == "parked":
                blocked[customer] = "parked"
            elif row.state != "decided":
                blocked.setdefault(customer, "redrive")
        return blocked

    def _operator(self, service: Service, on_hand: int) -> Iterator[Step]:
        """The operator redrives all that is parked of a customer, or discards an order."""
        waiting = [row for row in service.parked if row.state == "parked"]
        for customer in dict.fromkeys(self._customer(row.event) for row in waiting):
            marked = [row for row in waiting if self._customer(row.event) == customer]
            after = self._marked(service, [row._replace(state="redrive") for row in marked])
            yield Step(f"(operator) redrives what is parked of {customer}", "", after, on_hand)
        for row in waiting:
            may = isinstance(self._event(row.event), OrderPlaced) or self._protocol.discards_anything
            if self._scenario.discards and may:
                after = self._marked(service, [row._replace(state="discard")])
                yield Step(f"(operator) discards {self._name(row.event)}", "", after, on_hand)

    def _redrives(self, service: Service, on_hand: int) -> Iterator[Step]:
        """The owner runs marked events: all whose turn it is, or the first of them."""
        active = service.active
        turn = [row for row in service.parked if row.state != "parked" and self._has_turn(service, row)]
        for rows in dict.fromkeys((tuple(turn[:1]), tuple(turn))):
            if not rows:
                continue
            looked = active._replace(phase="looked", rows=rows)
            yield self._freezes(service, looked, on_hand, f"reads what is marked ({self._listed(rows)}) and freezes")
            if self._superseded_rows(service, looked):
                yield Step("finds the position moved, starts again", "", self._restarted(service), on_hand)
                continue
            try:
                stored, decided = self._run_marked(service, looked, on_hand)
            except _Stuck:
                continue  # fails, and is requested again, for ever: the service does not move
            except Broken as broken:
                yield Step(f"runs {self._listed(rows)}", "", service, on_hand, wrong=str(broken))
                continue
            results = tuple(map(self._events.number, decided.results))
            after = stored._replace(active=active._replace(phase="stored", results=results, rows=rows))
            if self._protocol.redriven_done_before_published:
                after = self._done(after, rows)
            if not results:
                after = self._done(after, rows)._replace(active=active)
            yield Step("; ".join((f"runs {self._listed(rows)}", *decided.did)), "", after, decided.on_hand)

    def _publishes_redriven(self, service: Service, on_hand: int) -> Step:
        active = service.active
        done = self._done(self._told(service, active.results), active.rows)._replace(active=_idle(active))
        return Step(f"publishes {self._names(active.results)}; marks it done", "", done, on_hand, active.results)

    def _zombie_runs(self, without: Service, zombie: Instance, on_hand: int) -> Step:
        """It runs them as it read them: another instance may have run them meanwhile, which moves no position."""
        does = f"(zombie) runs {self._listed(zombie.rows)}"
        if self._superseded_rows(without, zombie):
            return Step(f"{does}; finds the position moved, drops them", "", without, on_hand)
        try:
            stored, decided = self._run_marked(without, zombie, on_hand)
        except _Stuck:
            return Step(f"{does}; fails", "", without, on_hand)
        except Broken as broken:
            return Step(does, "", without, on_hand, wrong=str(broken))
        if decided.results:
            frozen = Instance("stored", results=tuple(map(self._events.number, decided.results)))
            stored = stored._replace(zombies=tuple(sorted((*stored.zombies, frozen))))
        return Step("; ".join((does, *decided.did)), "", stored, decided.on_hand)

    def _run_marked(self, service: Service, who: Instance, on_hand: int) -> tuple[Service, Decided]:
        """Decide marked events and store that they are decided, in one transaction."""
        fresh: list[Event] = []
        repeats: list[Event] = []
        others = [row for row in service.parked if row.place not in {row.place for row in who.rows}]
        for row in who.rows:
            event = self._event(row.event)
            self._check_in_order(others, row.topic, row.offset, row.event)
            if row.state == "decided":
                if row.given_up and row.garbled and self._protocol.discarded_reopened_as_it_is:
                    raise _Stuck
                repeats.append(event)
            elif row.state == "redrive":
                fresh.append(event)
            elif isinstance(event, OrderPlaced) and not self._protocol.discarded_to_nothing:
                fresh.append(discarded(event))
        decided = self._part.decide(service.tables, on_hand, fresh, repeats)
        self._check_in_time(service, decided)
        ran = [row._replace(state="decided", given_up=row.given_up or row.state == "discard") for row in who.rows]
        return self._marked(service._replace(tables=decided.tables), ran), decided

    def _superseded_rows(self, service: Service, who: Instance) -> bool:
        return any(who.known[row.topic] != service.positions[row.topic] for row in who.rows)

    def _has_turn(self, service: Service, row: Parked) -> bool:
        return self._protocol.redriven_out_of_order or not any(
            earlier.state == "parked" and self._is_before(earlier, row.topic, row.offset, row.event)
            for earlier in service.parked
        )

    def _marked(self, service: Service, rows: Sequence[Parked]) -> Service:
        """With these rows in place of what they were, even if they were done."""
        replaced = {row.place for row in rows}
        return service._replace(parked=_in_order([*(r for r in service.parked if r.place not in replaced), *rows]))

    def _done(self, service: Service, rows: Sequence[Parked]) -> Service:
        replaced = {row.place for row in rows}
        return service._replace(parked=tuple(row for row in service.parked if row.place not in replaced))

    def _check_in_order(self, parked: Sequence[Parked], topic: int, offset: int, event: int) -> None:
        """Parking keeps the sequence: no event of a customer is decided before an earlier one in the same topic."""
        for row in parked:
            if row.state != "decided" and self._is_before(row, topic, offset, event):
                raise Broken(f"order: {self._name(event)} overtakes {self._name(row.event)}, which is parked")

    def _is_before(self, row: Parked, topic: int, offset: int, event: int) -> bool:
        return row.topic == topic and row.offset < offset and self._customer(row.event) == self._customer(event)

    # Deadlines.

    def _timer(self, service: Service, on_hand: int) -> Iterator[Step]:
        """The owner finds a pending order past its deadline, once payments and inventory are read that far, and
        publishes it later. Not while an event of its customer is parked: that may be the result it waits for."""
        deadline = service.deadline
        if deadline is None or deadline.marks is None:
            return
        for number in deadline.to_publish:
            event = deadline_passed(self._scenario, number)
            left = deadline._replace(to_publish=tuple(n for n in deadline.to_publish if n != number))
            after = service._replace(deadline=left)
            yield Step(f"publishes {name_of(event)}", "", after, on_hand, (self._events.number(event),))
        read = all(position >= mark for position, mark in zip(service.positions[1:], deadline.marks[1:], strict=True))
        if not read and not self._protocol.deadline_not_gated:
            return
        assert isinstance(service.tables, SagaTables)
        blocked = {} if self._protocol.deadline_while_parked else self._blocked(service.parked)
        under_way = (*service.queues[0][service.positions[0] :], *(row.event for row in service.parked))
        overdue = {e.subject for e in map(self._event, under_way) if isinstance(e, OrderDeadlinePassed)}
        for number, row in zip(self._numbers, service.tables.rows, strict=True):
            if row is None or row.status != "pending" or row.order_id in overdue or row.customer_id in blocked:
                continue
            if number not in deadline.to_publish:
                to_publish = deadline._replace(to_publish=(*deadline.to_publish, number))
                label = f"(timer) finds order {order_name(number)} pending past its deadline"
                yield Step(label, "", service._replace(deadline=to_publish), on_hand)

    def _check_in_time(self, service: Service, decided: Decided) -> None:
        """No order is cancelled by the deadline whose two good results were in the log before it."""
        if service.deadline is None:
            return
        for number, in_time, row in zip(self._numbers, service.deadline.in_time, decided.tables.rows, strict=True):
            if in_time and row is not None and row.status == "cancelled" and row.reason == "deadline":
                raise Broken(f"deadline: order {order_name(number)} is cancelled, its two good results were in the log")

    # Words.

    def _event(self, number: int) -> Event:
        return self._events.known[number]

    def _customer(self, event: int) -> str:
        return self._event(event).partitionkey

    def _name(self, event: int) -> str:
        return name_of(self._event(event))

    def _names(self, results: Sequence[int]) -> str:
        return ", ".join(map(self._name, results))

    def _named(self, service: Service, begin: Offsets, until: Offsets) -> str:
        return self._names([e for queue, a, b in zip(service.queues, begin, until, strict=True) for e in queue[a:b]])

    def _listed(self, rows: Sequence[Parked]) -> str:
        return ", ".join(f"{row.state} {self._name(row.event)}" for row in rows)


class _Stuck(Exception):
    """A marked event that can neither be decided nor parked again."""


def _idle(instance: Instance) -> Instance:
    return Instance("idle", instance.next, instance.known)


def _in_order(parked: Sequence[Parked]) -> tuple[Parked, ...]:
    return tuple(sorted(parked, key=lambda row: row.place))


def _put(values: tuple[T, ...], at: int, value: T) -> tuple[T, ...]:
    return (*values[:at], value, *values[at + 1 :])


def _less(offsets: Offsets, by: Offsets) -> Offsets:
    return tuple(offset - less for offset, less in zip(offsets, by, strict=True))


def _shifted(instance: Instance, by: Offsets) -> Instance:
    if not instance.next:
        return instance
    return instance._replace(
        next=_less(instance.next, by),
        known=_less(instance.known, by),
        until=_less(instance.until, by) if instance.until else (),
    )
