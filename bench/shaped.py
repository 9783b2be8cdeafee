"""Run one of Locust's shapes headless, judge it, and have `verify` prove what it left: `python -m bench.shaped SHAPE`.

Runs against the stack that `just up` has started, or with --own-stack on one of its own. Exit code 0 when p95 is below
50 ms, under 0.1 % of the requests failed, and nothing was lost.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.command import out_directory, parser, run, say, shown
from bench.load.shapes import SHAPES
from bench.measure import broker
from bench.stack.private import System
from dev.environment import child
from dev.settings import HOST, ROOT, Settings
from dev.state import State

SOAK_DEFAULT = "10m"


@contextlib.contextmanager
def target(directory: Path, *, own_stack: bool) -> Iterator[tuple[int, list[str], Mapping[str, str]]]:
    """The running stack, or one of its own: the port of its order api, and `verify` on it with its environment."""
    if own_stack:
        with System(directory / "stack") as system:
            say(str(broker.warm_up(system)))
            yield system.api_port, ["ops.verify"], system.environment()
    else:
        settings = Settings.from_environment()
        port = State.load(settings.home).remembered(settings).order_api_port
        yield port, ["dev", "ops", "verify"], child()


def shaped(shape: str, run_time: str, directory: Path, *, own_stack: bool) -> int:
    report = out_directory() / f"locust-{shape}.html"
    accepted = directory / "accepted.txt"
    accepted.touch()
    with target(directory, own_stack=own_stack) as (port, verify, variables):
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfile.py"), "--headless", "--only-summary"]
        command += ["--host", f"http://{HOST}:{port}", "--html", str(report)]
        if shape == "soak":
            command += ["--run-time", run_time]
        environment = {**variables, "TANDEM_SHAPE": shape, "TANDEM_ACCEPTED_FILE": str(accepted)}
        locust = subprocess.run(command, cwd=ROOT, env=environment)
        say(f"Locust's report: {shown(report)}")
        began = time.monotonic()
        command = [sys.executable, "-m", *verify, "--accepted", str(accepted)]
        verified = subprocess.run(command, cwd=ROOT, env=variables)
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
