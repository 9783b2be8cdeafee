"""A small discrete-event simulation: processes, a clock, cores that they share, locks.

A process is a generator. It yields what it waits for: `simulation.sleep(…)`, `cores.use(…)`, `lock.acquire()`. Time is
in seconds and passes only between events, so a run is repeatable.
"""

import heapq
from collections import deque
from collections.abc import Callable, Generator
from itertools import count
from typing import Final

QUANTUM_S: Final = 0.001
"""How long a task has a core to itself while others wait."""

Resume = Callable[[], None]
Wait = Callable[[Resume], None]
Process = Generator[Wait, None, None]


class Simulation:
    """The clock, and what is to happen when."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Resume]] = []
        self._numbers = count()

    def at(self, time_s: float, event: Resume) -> None:
        """Have something happen at a time; what was planned first comes first."""
        heapq.heappush(self._events, (time_s, next(self._numbers), event))

    def spawn(self, process: Process) -> None:
        """Start a process now."""

        def resume() -> None:
            try:
                wait = next(process)
            except StopIteration:
                return
            wait(resume)

        self.at(self.now_s, resume)

    def sleep(self, duration_s: float) -> Wait:
        return lambda resume: self.at(self.now_s + duration_s, resume)

    def run(self, until_s: float) -> None:
        """Let time pass, up to a moment or until nothing is left to happen."""
        events = self._events
        while events and events[0][0] <= until_s:
            self.now_s, _, event = heapq.heappop(events)
            event()
        self.now_s = max(self.now_s, until_s)


class Cores:
    """The processors of a machine, shared in turn. `busy_s` is the CPU time that was used."""

    def __init__(self, simulation: Simulation, number: int, quantum_s: float = QUANTUM_S) -> None:
        self._simulation = simulation
        self._free = number
        self._quantum_s = quantum_s
        self._waiting: deque[tuple[float, Resume]] = deque()
        self.busy_s = 0.0

    def use(self, cpu_s: float) -> Wait:
        """Compute for so long, in turns with others."""

        def start(resume: Resume) -> None:
            self._waiting.append((cpu_s, resume))
            self._start()

        return start

    def _start(self) -> None:
        while self._free and self._waiting:
            left_s, resume = self._waiting.popleft()
            self._free -= 1
            # Alone, a task need not be interrupted: what comes later waits for the end of a quantum at most.
            turn_s = min(left_s, self._quantum_s)
            self.busy_s += turn_s
            self._simulation.at(self._simulation.now_s + turn_s, self._end_of_turn(left_s - turn_s, resume))

    def _end_of_turn(self, left_s: float, resume: Resume) -> Resume:
        def end() -> None:
            self._free += 1
            if left_s > 0:
                self._waiting.append((left_s, resume))
                self._start()
            else:
                self._start()
                resume()

        return end


class Lock:
    """One process at a time, in the order of asking."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[Resume] = deque()

    def acquire(self) -> Wait:
        def start(resume: Resume) -> None:
            if self._taken:
                self._waiting.append(resume)
            else:
                self._taken = True
                resume()

        return start

    def release(self) -> None:
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._taken = False


class Signal:
    """Lets one process wait until another has something for it."""

    def __init__(self) -> None:
        self._set = False
        self._resume: Resume | None = None

    def set(self) -> None:
        if self._resume is None:
            self._set = True
        else:
            resume, self._resume = self._resume, None
            resume()

    def wait(self) -> Wait:
        """Until it is set; at once if it was set since the last wait."""

        def start(resume: Resume) -> None:
            if self._set:
                self._set = False
                resume()
            else:
                self._resume = resume

        return start
