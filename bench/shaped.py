"""Run one of Locust's shapes headless, judge it, and have `verify` prove what it left: `python -m bench.shaped SHAPE`.

Runs against the stack that `just up` has started, or with --own-stack on one of its own. Exit code 0 when p95 is below
50 ms, under 0.1 % of the requests failed, and nothing was lost.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.command import out_directory, parser, run, say, shown
from bench.load.shapes import SHAPES
from bench.measure import broker
from bench.stack.private import System
from common.files import write
from dev.environment import child
from dev.settings import HOST, ROOT, Settings
from dev.stack import LOAD_TOKEN, TOKEN_TOOL
from dev.state import State

SOAK_DEFAULT = "10m"


class Target(NamedTuple):
    """A stack: the address of its order api, and `verify` on it with the environment that it needs."""

    url: str
    verify: list[str]
    variables: Mapping[str, str]
    token_file: Path | None = None
    """It has the token of a merchant, if the stack wants one."""
    authority: Path | None = None
    """The certificate by which the server's is verified, if the stack is encrypted."""


@contextlib.contextmanager
def target(directory: Path, *, own_stack: bool) -> Iterator[Target]:
    """The running stack, or one of its own, on which nobody needs a token."""
    if own_stack:
        with System(directory / "stack") as system:
            say(str(broker.warm_up(system)))
            authority = Path(system.layout.authority) if system.layout.authority else None
            url = system.url("order-api", "").removesuffix("/api/v1")
            yield Target(url, ["-m", "ops.verify"], system.environment(), authority=authority)
    else:
        settings = Settings.from_environment()
        yield running(State.load(settings.home).remembered(settings), made_token(directory / "token"))


def running(settings: Settings, token_file: Path) -> Target:
    """The stack that was started with these settings."""
    scheme = "http" if settings.authority is None else "https"
    url = f"{scheme}://{HOST}:{settings.order_api_port}"
    return Target(url, ["-E", "-m", "dev", "ops", "verify"], os.environ, token_file, settings.authority)


def made_token(path: Path) -> Path:
    """A file with a token of the running stack. Raises `CalledProcessError`; the tool then says why."""
    command = [sys.executable, "-E", "-m", "dev", "ops", TOKEN_TOOL, *LOAD_TOKEN]
    # As from the caller's shell: what is in Compose is found by DOCKER_HOST and the like.
    token = subprocess.run(command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True, check=True).stdout
    write(path, token, 0o600)
    return path


def shaped(shape: str, run_time: str, directory: Path, *, own_stack: bool) -> int:
    report = out_directory() / f"locust-{shape}.html"
    accepted = directory / "accepted.txt"
    accepted.touch()
    with target(directory, own_stack=own_stack) as stack:
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfile.py"), "--headless", "--only-summary"]
        command += ["--host", stack.url, "--html", str(report)]
        if shape == "soak":
            command += ["--run-time", run_time]
        environment = child({"TANDEM_SHAPE": shape, "TANDEM_ACCEPTED_FILE": str(accepted)})
        if stack.token_file is not None:
            environment["TANDEM_TOKEN_FILE"] = str(stack.token_file)
        if stack.authority is not None:
            environment["TLS_CA_FILE"] = str(stack.authority)
        locust = subprocess.run(command, cwd=ROOT, env=environment)
        say(f"Locust's report: {shown(report)}")
        began = time.monotonic()
        command = [sys.executable, *stack.verify, "--accepted", str(accepted)]
        verified = subprocess.run(command, cwd=ROOT, env=stack.variables)
    orders = len(accepted.read_text().splitlines())
    proof = "NOT PROVED" if verified.returncode else "proved"
    say(f"verify of {orders} acknowledged orders: {proof}, in {time.monotonic() - began:.0f} s")
    return locust.returncode or verified.returncode


if __name__ == "__main__":
    options = parser("load", __doc__)
    options.add_argument("shape", choices=SHAPES)
    options.add_argument(
        "run_time", nargs="?", default=SOAK_DEFAULT, help="how long the soak runs, such as 2h (%(default)s)"
    )
    options.add_argument("--own-stack", action="store_true", help="start a stack of its own, and stop it afterwards")
    chosen = options.parse_args()
    sys.exit(run(lambda directory: shaped(chosen.shape, chosen.run_time, directory, own_stack=chosen.own_stack)))
