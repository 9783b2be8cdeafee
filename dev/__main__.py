"""The command line behind the justfile: `python -m dev <command>`."""

import argparse
import os
import sys
from contextlib import nullcontext

from dev import doctor
from dev.compose import ComposeStack
from dev.native.stack import NativeStack
from dev.servers.jars import JarError
from dev.servers.server import StartError
from dev.settings import DATABASES, SERVICES, SettingError, Settings
from dev.stack import Stack, StackError
from dev.state import State, exclusive

RECIPES = {"dead_letters": "dlq"}
"""The recipes whose name is not that of their module in `ops`."""


CHANGES = ("up", "down", "reset", "start", "stop", "restart", "scale")
"""The commands that change a stack."""


def main() -> int:
    arguments = parser().parse_args()
    try:
        return run(arguments)
    except (JarError, SettingError, StackError, StartError) as error:
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
    for name in ("up", "down", "ps", "doctor"):
        commands.add_parser(name)
    commands.add_parser("reset").add_argument("--yes", action="store_true", help="do not ask")
    for name in ("start", "stop", "restart"):
        commands.add_parser(name).add_argument("services", nargs="+", metavar="service")
    commands.add_parser("scale").add_argument("counts", nargs="+", metavar="service=count", type=count)
    log = commands.add_parser("logs")
    log.add_argument("services", nargs="*", metavar="service")
    log.add_argument("--no-follow", action="store_true", help="print the last lines and return")
    log.add_argument("-n", "--lines", type=int, default=20, help="how many of the last lines of each")
    psql = commands.add_parser("psql")
    psql.add_argument("service", choices=(*DATABASES, *(s.name for s in SERVICES if s.name not in DATABASES)))
    psql.add_argument("arguments", nargs=argparse.REMAINDER, help="options of psql")
    ops = commands.add_parser("ops", help="run a module of ops in the stack's environment")
    ops.add_argument("arguments", nargs=argparse.REMAINDER)
    locust = commands.add_parser("locust", help="Locust's web UI against the running stack")
    locust.add_argument("arguments", nargs=argparse.REMAINDER, help="options of locust")
    commands.add_parser("run", help="become a program of the stack; for supervisord").add_argument("program")
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
    if arguments.command == "doctor":
        return 0 if doctor.examine(NativeStack(settings)) else 1
    with exclusive(settings.home) if arguments.command in CHANGES else nullcontext():
        execute(chosen_stack(settings), arguments)
    return 0


def chosen_stack(settings: Settings) -> Stack:
    """The stack that STACK names, or the one that was used last. Only one of them is up at a time."""
    state = State.load(settings.home)
    kind = settings.stack or state.stack
    if state.up and kind != state.stack:
        raise StackError(f"the {state.stack} stack is up; 'STACK={state.stack} just down' first")
    return ComposeStack(settings) if kind == "compose" else NativeStack(settings)


def execute(stack: Stack, arguments: argparse.Namespace) -> None:
    match arguments.command:
        case "up":
            stack.up()
        case "down":
            stack.down()
        case "reset":
            if not arguments.yes:
                confirm(f"This deletes the databases, the topics and the logs in {stack.home}. Continue?")
            stack.reset()
        case "start":
            stack.start(arguments.services)
        case "stop":
            stack.stop(arguments.services)
        case "restart":
            stack.restart(arguments.services)
        case "scale":
            stack.scale(dict(arguments.counts))
        case "ps":
            stack.ps()
        case "logs":
            stack.logs(arguments.services, arguments.lines, not arguments.no_follow)
        case "psql":
            database = next((s.database for s in SERVICES if s.name == arguments.service), arguments.service)
            stack.psql(database, arguments.arguments)
        case "ops":
            stack.ops(arguments.arguments)
        case "locust":
            stack.locust(arguments.arguments)


def confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise StackError("this is not a terminal, so it cannot ask; --yes deletes all data without asking")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise StackError("nothing was deleted")


if __name__ == "__main__":
    sys.exit(main())
