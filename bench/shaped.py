"""`python -m bench.shaped SHAPE`: run one of Locust's shapes headless, judge it, and have `verify` prove what it left.

Runs against the stack that `just up` has started, or with --own-stack on one of its own. Exit code 0 when p95 is below
50 ms, under 0.1 % of the requests failed, and nothing was lost.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.load.shapes import SHAPES
from bench.stack import warm
from bench.stack.system import System, out_directory, run_directory
from dev.settings import HOST, ROOT, Settings
from dev.state import State

SOAK_DEFAULT = "10m"
WARM_S_MAX = 45.0


class Target(NamedTuple):
    """The stack to load: where its order api is, and how `verify` is called on it."""

    url: str
    verify: list[str]
    environment: Mapping[str, str]


@contextlib.contextmanager
def target(directory: Path, *, own_stack: bool) -> Iterator[Target]:
    """The running stack, or one of its own."""
    if own_stack:
        with System(directory / "stack", root=ROOT) as system:
            print(warm.line(warm.broker_of(system, WARM_S_MAX)), flush=True)
            url = f"http://{HOST}:{system.layout.ports['order-api']}"
            yield Target(url, [sys.executable, "-m", "ops.verify"], system.layout.variables)
    else:
        settings = Settings.from_environment()
        remembered = State.load(settings.home).remembered(settings)
        url = f"http://{HOST}:{remembered.order_api_port}"
        yield Target(url, [sys.executable, "-m", "dev", "ops", "verify"], {})


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="shaped", description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("run_time", nargs="?", default=SOAK_DEFAULT, help="of the soak, such as 2h (default: 10m)")
    parser.add_argument("--own-stack", action="store_true", help="on a stack of its own, stopped afterwards")
    chosen = parser.parse_args(arguments)
    out = out_directory()
    report = out / f"locust-{chosen.shape}.html"
    with (
        run_directory() as directory,
        target(directory, own_stack=chosen.own_stack) as on,
    ):
        accepted = directory / "accepted.txt"
        accepted.touch()
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "locustfile.py"), "--headless", "--only-summary"]
        command += ["--host", on.url, "--html", str(report)]
        if chosen.shape == "soak":
            command += ["--run-time", chosen.run_time]
        environment = {**os.environ, **on.environment}
        locust = subprocess.run(
            command,
            cwd=ROOT,
            env={**environment, "TANDEM_SHAPE": chosen.shape, "TANDEM_ACCEPTED_FILE": str(accepted)},
        )
        print(f"Locust's report: {report}", flush=True)
        began = time.monotonic()
        verified = subprocess.run([*on.verify, "--accepted", str(accepted)], cwd=ROOT, env=environment)
        orders = len(accepted.read_text().splitlines())
        proof = "proved" if verified.returncode == 0 else f"NOT PROVED (exit code {verified.returncode})"
        print(f"verify of {orders} acknowledged orders: {proof}, in {time.monotonic() - began:.0f} s", flush=True)
    return locust.returncode or verified.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
