"""What goes on in the background when a tab is closed: a full proof, acts on parked events, a command of Break it, a
shape of load. A job's end, and what became of each part of it, stays here for a while."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Literal, TypedDict

from common.errors import describe
from common.events import Milliseconds, now
from common.http.problem import Problem, ProblemError, ProblemType
from common.terminal import printable, shortened
from ops.verify.waiting import PARTS

ROOT: Final = Path(__file__).resolve().parents[2]
REMEMBERED: Final = 20
OUTPUT_LINES: Final = 20
LINE_CHARS: Final = 500
PUBLISH_EVERY_S: Final = 0.5
STOP_S: Final = 10.0

Kind = Literal["verify", "act", "drill", "load"]
State = Literal["running", "done", "failed", "stopped"]

BUSY: Final = ProblemType(
    code="busy",
    status=409,
    title="Another one is running",
    when="a job of the same kind has not ended; of each kind one runs at a time",
    remedy="wait until it has ended, or stop it",
    example="'full proof' (verify-3) has not ended; wait for it",
)
CANNOT_STOP: Final = ProblemType(
    code="cannot-stop",
    status=409,
    title="It cannot be stopped",
    when="the job has ended, or must not be interrupted",
    remedy="wait until it ends",
    example="act-2 cannot be interrupted: it ends by itself",
)


class Attempt(TypedDict):
    """What became of one parked event of an act. `count` is the number of events that it marked."""

    service: str
    record: str
    result: Literal["marked", "unchanged", "refused", "failed"]
    count: int
    detail: str


class JobView(TypedDict):
    """A job and how far it is: `done` of `total` parts, with the last lines of its output. Times are in ms since the
    Unix epoch, `expected_s` is how long the last one of this title took."""

    id: str
    kind: Kind
    title: str
    state: State
    started_at: int
    ended_at: int | None
    expected_s: float | None
    done: int
    total: int | None
    note: str
    output: list[str]
    can_stop: bool


class JobWithResults(JobView):
    """A job, and what became of each part of it."""

    results: list[Attempt]


class JobList(TypedDict):
    """The jobs that run or ended last, newest first."""

    jobs: list[JobView]


@dataclass
class Job:
    """A piece of work and how far it is."""

    id: str
    kind: Kind
    title: str
    started_at: Milliseconds
    expected_s: float | None = None
    can_stop: bool = False
    state: State = "running"
    ended_at: Milliseconds | None = None
    done: int = 0
    total: int | None = None
    note: str = ""
    output: deque[str] = field(default_factory=lambda: deque(maxlen=OUTPUT_LINES))
    results: list[Attempt] = field(default_factory=list)
    process: "subprocess.Popen[str] | None" = None
    stopping: bool = False

    def shown(self) -> JobView:
        return {
            "id": self.id,
            "kind": self.kind,
            "title": self.title,
            "state": self.state,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "expected_s": self.expected_s,
            "done": self.done,
            "total": self.total,
            "note": self.note,
            "output": list(self.output),
            "can_stop": self.can_stop and self.state == "running",
        }

    def with_results(self) -> JobWithResults:
        return {**self.shown(), "results": list(self.results)}


class Jobs:
    """The jobs that run or ended last. Of each kind one runs at a time."""

    def __init__(self, publish: Callable[[Job], None], forget: Callable[[Job], None]) -> None:
        self._publish = publish
        self._forget = forget
        self._jobs: deque[Job] = deque()
        self._lock = threading.Lock()
        self._count = 0
        self._took_s: dict[str, float] = {}
        self._published_at_s = 0.0

    def start(self, kind: Kind, title: str, work: Callable[[Job], bool], *, can_stop: bool = False) -> Job:
        """Begin `work` in a thread; it returns whether it succeeded. Raises `ProblemError` 409 while one of this kind
        runs."""
        with self._lock:
            if running := next((j for j in self._jobs if j.kind == kind and j.state == "running"), None):
                detail = f"{running.title!r} ({running.id}) has not ended; wait for it"
                raise ProblemError(Problem(BUSY, detail))
            self._count += 1
            job = Job(f"{kind}-{self._count}", kind, title, now(), self._took_s.get(title), can_stop)
            self._jobs.appendleft(job)
            while len(self._jobs) > REMEMBERED:
                ended = next((j for j in reversed(self._jobs) if j.state != "running"), self._jobs[-1])
                self._jobs.remove(ended)
                self._forget(ended)
        self._publish(job)
        threading.Thread(target=self._run, args=(job, work), name=job.id, daemon=True).start()
        return job

    def _run(self, job: Job, work: Callable[[Job], bool]) -> None:
        began_s = time.monotonic()
        try:
            succeeded = work(job)
        except Exception as error:
            succeeded = False
            job.note = describe(error)
        self._took_s[job.title] = round(time.monotonic() - began_s, 1)
        job.ended_at, job.process = now(), None
        job.state = "stopped" if job.stopping else "done" if succeeded else "failed"
        self._publish(job)

    def report(self, job: Job) -> None:
        """Show how far the job is, now and then."""
        at_s = time.monotonic()
        if at_s - self._published_at_s >= PUBLISH_EVERY_S:
            self._published_at_s = at_s
            self._publish(job)

    def all(self) -> list[Job]:
        with self._lock:
            return list(self._jobs)

    def find(self, job_id: str) -> Job | None:
        return next((job for job in self.all() if job.id == job_id), None)

    def stop(self, job: Job) -> None:
        """Tell a job to end. Raises `ProblemError` 409 for one that has ended or must not be interrupted."""
        if job.state != "running" or not job.can_stop:
            why = "has ended" if job.state != "running" else "cannot be interrupted: it ends by itself"
            raise ProblemError(Problem(CANNOT_STOP, f"{job.id} {why}"))
        job.stopping = True
        if job.process is not None:
            end(job.process)

    def close(self) -> None:
        """End the processes of jobs that run."""
        for job in self.all():
            if job.process is not None:
                job.stopping = True
                end(job.process)

    def run_command(
        self, job: Job, arguments: Sequence[str], variables: Mapping[str, str], answer: IO[bytes] | None = None
    ) -> int:
        """Run a module of Tandem as a process of its own to its end. What it prints becomes the job's output; with
        `answer`, only stderr does, and stdout goes there. Returns its exit code."""
        process = subprocess.Popen(
            [sys.executable, "-Eu", *arguments],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=answer or subprocess.PIPE,
            stderr=subprocess.PIPE if answer else subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        job.process = process
        if job.stopping:
            end(process)
        lines = process.stderr if answer else process.stdout
        assert lines is not None
        with process:  # which closes its pipes
            for line in lines:
                self.take_line(job, line)
        return process.returncode

    def take_line(self, job: Job, line: str) -> None:
        """Show a line of output, which may come from a stranger."""
        if text := shortened(printable(line.rstrip()), LINE_CHARS):
            job.output.append(text)
            job.note = text
            if parts := PARTS.search(text):
                job.done, job.total = int(parts[1]), int(parts[2])
            self.report(job)


def end(process: "subprocess.Popen[str]") -> None:
    """Interrupt a job's process and all that it started, and kill them if they do not end."""

    def kill_later() -> None:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)

    _signal(process, signal.SIGINT)
    threading.Thread(target=kill_later, daemon=True).start()


def _signal(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, number)
