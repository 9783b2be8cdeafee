"""The command line behind the justfile: `python -m dev <command>`."""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from common.config import ignore_libpq
from common.errors import Fatal
from dev import doctor
from dev.compose import ComposeStack
from dev.environment import raise_limits
from dev.native.stack import NativeStack
from dev.output import outlive_reader
from dev.servers.jars import JarError
from dev.servers.server import StartError
from dev.settings import DATABASES, SERVICES, Settings, check_processes, dotenv, unknown_settings
from dev.stack import Stack, StackError
from dev.state import State, exclusive

RECIPES = {"dead_letters": "dlq"}
"""The recipes whose name is not that of their module in `ops`."""

Act = Callable[[Stack, argparse.Namespace], None]


def main() -> int:
    arguments = parser().parse_args()
    ignore_libpq()
    raise_limits()
    if arguments.changes:
        outlive_reader()  # a stack must not be left half started
    try:
        return run(arguments)
    except (Fatal, JarError, StackError, StartError) as error:
        module = arguments.arguments[0] if arguments.command == "ops" and arguments.arguments else ""
        print(f"{RECIPES.get(module, module) or arguments.command}: {error}", file=sys.stderr)
        # 1 would say that `verify` found lost money. Here it could prove nothing, which is 2.
        return 2 if module == "verify" else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # such as `just logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="just", description="Runs Tandem on this machine.")
    commands = root.add_subparsers(dest="command", required=True)

    def command(name: str, act: Act | None = None, *, changes: bool = False, **options: Any) -> argparse.ArgumentParser:
        """A command that acts on the chosen stack. Those that change it run one at a time."""
        added: argparse.ArgumentParser = commands.add_parser(name, **options)
        added.set_defaults(act=act, changes=changes)
        return added

    command("up", lambda stack, _: stack.up(), changes=True)
    command("down", lambda stack, _: stack.down(), changes=True)
    command("reset", reset, changes=True).add_argument("--yes", action="store_true", help="do not ask")
    for name in ("start", "stop", "restart"):
        command(name, act_on_services, changes=True).add_argument("services", nargs="+", metavar="service")
    scale = command("scale", lambda stack, chosen: stack.scale(dict(chosen.counts)), changes=True)
    scale.add_argument("counts", nargs="+", metavar="service=count", type=count)
    command("ps", lambda stack, _: stack.ps())
    log = command("logs", lambda stack, chosen: stack.logs(chosen.services, chosen.lines, not chosen.no_follow))
    log.add_argument("services", nargs="*", metavar="service")
    log.add_argument("--no-follow", action="store_true", help="print the last lines and return")
    log.add_argument("-n", "--lines", type=int, default=20, help="how many of the last lines of each")
    databases = dict(zip(DATABASES, DATABASES, strict=True)) | {s.name: s.database for s in SERVICES}
    psql = command("psql", lambda stack, chosen: stack.psql(databases[chosen.service], chosen.arguments))
    psql.add_argument("service", choices=databases)
    psql.add_argument("arguments", nargs=argparse.REMAINDER, help="options of psql")
    ops = command("ops", lambda stack, chosen: stack.ops(chosen.arguments), help="run a module of `ops` on the stack")
    ops.add_argument("arguments", nargs=argparse.REMAINDER)
    locust = command("locust", lambda stack, chosen: stack.locust(chosen.arguments), help="Locust's web UI against it")
    locust.add_argument("arguments", nargs=argparse.REMAINDER, help="options of locust")
    command("doctor")
    command("run", help="become a program of the stack; for supervisord").add_argument("program")
    return root


def count(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a service and a count, such as payment=3")
    return name, int(number)


def run(arguments: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    if arguments.command == "run":
        NativeStack(settings).become(arguments.program)
    if arguments.command == "up":
        check_processes(os.environ)
        for warning in unknown_settings(os.environ, dotenv(), kind=settings.stack or State.load(settings.home).stack):
            print(f"up: {warning}", file=sys.stderr)
    if arguments.command == "doctor":
        return 0 if doctor.examine(NativeStack(settings)) else 1
    with exclusive(settings.home) if arguments.changes else nullcontext():
        arguments.act(chosen_stack(settings), arguments)
    return 0


def chosen_stack(settings: Settings) -> Stack:
    """The stack that STACK names, or the one that was used last. Only one of them is up at a time."""
    state = State.load(settings.home)
    kind = settings.stack or state.stack
    if state.up and kind != state.stack:
        raise StackError(f"the {state.stack} stack is up; 'STACK={state.stack} just down' first")
    return ComposeStack(settings) if kind == "compose" else NativeStack(settings)


def act_on_services(stack: Stack, arguments: argparse.Namespace) -> None:
    """Start, stop or restart them, as the command's name says."""
    getattr(stack, arguments.command)(arguments.services)


def reset(stack: Stack, arguments: argparse.Namespace) -> None:
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise StackError("this is not a terminal, so it cannot ask; --yes deletes all data without asking")
        question = f"This deletes the databases, the topics and the logs in {stack.home}. Continue? [y/N] "
        if input(question).strip().lower() not in ("y", "yes"):
            raise StackError("nothing was deleted")
    stack.reset()


if __name__ == "__main__":
    sys.exit(main())
