"""Break it: which command of the stack an act stands for. Only on the native stack of a developer; `python -m dev` does
what is asked, under the same lock as `just`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from common.audit.entry import ACTOR
from common.config.kafka import Brokers
from common.http import problem
from common.http.problem import FieldError, Problem, ProblemError, ProblemType
from ops.console.jobs import Job, Jobs
from ops.console.settings import Address, Settings
from ops.console.sources import SERVICES

SCALED_MAX: Final = 9
"""More instances than anybody wants to see; the stack itself allows 99."""
SHAPES: Final = ("load", "stress", "spike")

NOT_ALLOWED: Final = ProblemType(
    code="not-allowed",
    status=403,
    title="Not allowed here",
    when="the stack is not a developer's native one, so the console breaks nothing and makes no load",
    remedy="use the console of a native stack",
)

Act = Literal["stop", "start", "restart", "kill", "freeze", "thaw", "scale"]


class Drill(Struct, frozen=True, forbid_unknown_fields=True):
    """What to do to which service or instance."""

    act: Act
    target: Annotated[str, Meta(pattern=r"^[a-z]+(-[a-z]+)?(-[1-9][0-9]?)?\Z")]
    count: Annotated[int, Meta(ge=1, le=SCALED_MAX)] | None = None


class Load(Struct, frozen=True, forbid_unknown_fields=True):
    """A shape of load."""

    shape: Literal["load", "stress", "spike"]


def servers(kafka: Brokers) -> tuple[str, ...]:
    """The servers that can be broken. If there are several brokers, each of them, and `kafka` for all."""
    count = len(kafka.servers.split(","))
    return ("kafka", *(f"kafka-{number}" for number in range(1, count + 1) if count > 1), "postgres")


def command(drill: Drill, servers: Sequence[str]) -> list[str]:
    """The arguments of Python. Raises `ProblemError` 422 for a target that is no service, no instance of one and none
    of these servers."""
    service, _, number = drill.target.rpartition("-")
    name = service if number.isdecimal() and service in SERVICES else drill.target
    if name not in (*SERVICES, *servers):
        known = ", ".join((*SERVICES, *servers))
        raise ProblemError(problem.validation(FieldError("#/target", f"must be one of {known}, or payment-1")))
    if (drill.act == "scale") is not (drill.count is not None):
        raise ProblemError(problem.validation(FieldError("#/count", "is required to scale, and for nothing else")))
    if drill.act == "scale" and drill.target not in SERVICES:
        raise ProblemError(problem.validation(FieldError("#/target", f"must be one of {', '.join(SERVICES)}")))
    target = f"{drill.target}={drill.count}" if drill.act == "scale" else drill.target
    return ["-m", "dev", drill.act, target]


def check_allowed(settings: Settings) -> None:
    """Raises `ProblemError` 403 unless this is the native stack."""
    if settings.stack != "native":
        detail = "Break it works on the native stack that 'just up' starts, and nowhere else"
        raise ProblemError(Problem(NOT_ALLOWED, detail))


def start(jobs: Jobs, drill: Drill, servers: Sequence[str], actor: str) -> Job:
    """Do it in the background, in the name of a person. Raises `ProblemError`."""
    arguments = command(drill, servers)
    return jobs.start("drill", " ".join(arguments[2:]), _running(jobs, arguments, {ACTOR: actor}))


def start_load(jobs: Jobs, shape: str, order_api: Address, authority: Path | None, authorization: str) -> Job:
    """Run Locust with this shape against the order api, with these credentials, and by TLS if there is an authority.
    Raises `ProblemError`."""
    scheme = "http" if authority is None else "https"
    arguments = ["-m", "locust", "-f", "locustfile.py", "--headless", "--only-summary"]
    arguments += ["--host", f"{scheme}://{order_api.host}:{order_api.port}"]

    def work(job: Job) -> bool:
        with NamedTemporaryFile("w", prefix="load-") as token_file:  # which this user alone can read
            token_file.write(authorization.partition(" ")[2])
            token_file.flush()
            variables = {"TANDEM_SHAPE": shape} | ({"TANDEM_TOKEN_FILE": token_file.name} if authorization else {})
            return _running(jobs, arguments, variables)(job)

    return jobs.start("load", f"just {shape}", work, can_stop=True)


def _running(jobs: Jobs, arguments: list[str], variables: dict[str, str]) -> Callable[[Job], bool]:
    return lambda job: jobs.run_command(job, arguments, variables) == 0
