"""The command line behind the justfile: `python -m dev <command>`.

Exit codes: 0 done; 2 not done, and the last line on stderr says why; 130 and 143 interrupted. Only `just verify` ends
with 1, for a violation, and `just psql` as psql does.
"""

import argparse
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn
from xmlrpc.client import Fault

from common.config.env import PORT_MAX, ignore_foreign_variables
from common.errors import Fatal
from common.files import raise_limit
from common.terminal import complain, flushed, open_streams
from dev import acts, doctor, logs
from dev import home as homes
from dev.compose.stack import ComposeStack
from dev.environment import OPEN_FILES_MAX
from dev.home import HomeError
from dev.native.stack import NativeStack
from dev.observe import PORTS
from dev.output import outlive_reader
from dev.servers.jars import JarError
from dev.servers.server import StartError
from dev.settings import DATABASES, SERVICES, SHARED_ROLES, Settings, check_processes, dotenv, unknown_settings
from dev.stack import Stack, StackError
from dev.state import State
from order.api.requests import order_id_in

RECIPES = {"dead_letters": "dlq", "people.keys": "keys", "people.token": "token"}
"""The recipes whose name is not that of their module in `ops`."""
FAILED: Final = 2
SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}
STARTING = ("up", "scale")
"""The commands that may make a home."""

Act = Callable[[Stack, argparse.Namespace], None]


class Terminated(BaseException):
    """SIGTERM has come."""


def main() -> int:
    signal.signal(signal.SIGTERM, terminate)
    open_streams()
    arguments = parser().parse_args()
    ignore_foreign_variables()
    raise_limit(OPEN_FILES_MAX)
    if arguments.changes:
        outlive_reader()  # a stack must not be left half started
    name = RECIPES.get(arguments.module, arguments.module) if arguments.command == "ops" else arguments.command
    status = FAILED
    try:
        done = run(arguments)
        sys.stdout.flush()  # what was printed may not fit on a disk
        status = done
    except BrokenPipeError:  # such as `just logs | head`
        status = 0
    except (EOFError, Fatal, Fault, HomeError, JarError, OSError, StackError, StartError) as error:
        complain(f"{name}: {error}")
    except (KeyboardInterrupt, Terminated) as error:
        if arguments.changes:
            complain(f"{name}: interrupted; 'just ps' shows what runs, 'just {name}' again completes it")
        status = 130 if isinstance(error, KeyboardInterrupt) else 143
    except Exception as error:
        traceback.print_exc()
        complain(f"{name}: this is a bug of Tandem: {type(error).__name__}: {error}")
    flushed()
    return status


def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


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
    command("upgrade", lambda stack, _: stack.upgrade(), changes=True)
    for name in SIGNALS:
        command(name, signal_services, changes=True).add_argument("services", nargs="+", metavar="service")
    databases = dict(zip(DATABASES, DATABASES, strict=True)) | {s.name: s.database for s in SERVICES}
    for name, act in (("failover", fail_over), ("rejoin", rejoin)):
        command(name, act, changes=True).add_argument("service", choices=databases, metavar="service")
    scale = command("scale", scale_services, changes=True)
    scale.add_argument("counts", nargs="+", metavar="service=count", type=count)
    command("ps", lambda stack, _: stack.ps())
    log = command("logs", show_logs)
    log.add_argument("services", nargs="*", metavar="service", help=f"by default all; {acts.NAME}: who ran commands")
    log.add_argument("--no-follow", action="store_true", help="print the last lines and return")
    log.add_argument("--order", type=order_named, metavar="ID", help="print all lines that name an order, and return")
    log.add_argument("-n", "--lines", type=natural, default=20, help="how many of the last lines of each")
    psql = command(
        "psql", lambda stack, chosen: stack.psql(databases.get(chosen.service, chosen.service), chosen.arguments)
    )
    psql.add_argument("service", help=f"one of {', '.join(databases)}, or a database that 'just migrate' has made")
    options = psql.add_argument("arguments", nargs=argparse.REMAINDER, help="options of psql")
    options.required = False  # else the message without a service asks for them too
    ops = command("ops", lambda stack, chosen: stack.ops(chosen.module, chosen.arguments))
    ops.add_argument("module", help="a module of `ops`, to be run on the stack")
    ops.add_argument("arguments", nargs=argparse.REMAINDER)
    migrate = command("migrate", lambda stack, chosen: stack.migrate(chosen.targets), changes=True)
    migrate.add_argument("targets", nargs="*", type=target, metavar="database=package")
    secrets = command("secrets", change_secrets, changes=True)
    secrets.add_argument("action", choices=["rotate", "certificate"], help="new ones of all, or one for a Kafka user")
    secrets.add_argument("user", nargs="?", type=kafka_user, help="whose certificate, as common/kafka/access.py has it")
    # Without a prefix of options, all that follows is passed on: REMAINDER does not take an option that comes first.
    passing: dict[str, Any] = {"prefix_chars": "\0", "add_help": False}
    env = command("env", lambda stack, chosen: stack.env(chosen.arguments), **passing)
    env.add_argument("arguments", nargs="+", help="as of env(1): settings, such as HTTP_PORT=8091, and a command")
    locust = command("locust", lambda stack, chosen: stack.locust(chosen.arguments), **passing)
    locust.add_argument("arguments", nargs="*", help="options of locust")
    observe = command("observe", lambda stack, chosen: stack.observe(chosen.ports))
    names = ("PROMETHEUS", "ALERTMANAGER")
    observe.add_argument(
        "--ports", type=port, nargs=2, default=list(PORTS), metavar=names, help="by default %(default)s"
    )
    command("doctor")
    command("run", help="become a program of the stack; for supervisord").add_argument("program")
    return root


def port(text: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text) <= PORT_MAX:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port, from 1 to {PORT_MAX}")


def target(text: str) -> str:
    name, _, package = text.partition("=")
    if re.fullmatch("[a-z][a-z0-9_]{0,62}", name) and name not in SHARED_ROLES and package:
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not a database and a package, such as notify=examples.notify")


def kafka_user(text: str) -> str:
    if re.fullmatch("[a-z][a-z0-9-]{0,62}", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not a user at Kafka, such as payment")


def change_secrets(stack: Stack, chosen: argparse.Namespace) -> None:
    if (chosen.action == "certificate") is not (chosen.user is not None):
        raise StackError("'just secrets certificate USER' needs the user, and 'just secrets rotate' takes none")
    if chosen.user is None:
        stack.rotate_secrets()
    else:
        stack.make_certificate(chosen.user)


def show_logs(stack: Stack, chosen: argparse.Namespace) -> None:
    if chosen.services == [acts.NAME]:
        logs.show([stack.home / acts.FILE], lines=chosen.lines, follow=not chosen.no_follow)
    elif chosen.order is not None:
        stack.logs_of_order(chosen.order, chosen.services)
    else:
        stack.logs(chosen.services, chosen.lines, not chosen.no_follow)


def order_named(text: str) -> str:
    if (order_id := order_id_in(text.strip())) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an order's id, such as 01a20698-5702-759d-bf21-11993ae5d7ab")
    return order_id


def natural(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines, such as 100")
    return int(text)


def count(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not (number.isascii() and number.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a service and a count, such as payment=3")
    return name, int(number)


def run(arguments: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    if arguments.command == "run":
        NativeStack(settings).become(arguments.program)
    if arguments.command == "up":
        check_processes(os.environ)
        kind = settings.stack or State.load(settings.home).stack
        for warning in (*unknown_settings(os.environ, dotenv(), kind=kind), *settings.risky_ports()):
            print(f"up: {warning}", file=sys.stderr)
    if arguments.command == "doctor":
        return 0 if doctor.examine(NativeStack(settings)) else FAILED
    if not arguments.changes:
        arguments.act(chosen_stack(settings), arguments)
        return 0
    if arguments.command in STARTING:
        homes.claim(settings.home)
    elif not homes.has_stack(settings.home):
        return without_stack(settings, arguments.command)
    with homes.exclusive(settings.home):
        acts.record(settings.home, arguments.command, sys.argv[2:])
        arguments.act(chosen_stack(settings, ending=arguments.command in ("down", "reset")), arguments)
    return 0


def without_stack(settings: Settings, command: str) -> int:
    """What to do for a home in which nothing was ever started: nothing in it is Tandem's."""
    nothing = f"no stack was ever started in {settings.home}"
    if command not in ("down", "reset"):
        raise StackError(f"{nothing}; 'just up' starts one")
    if command == "reset" and settings.home.exists():
        homes.delete_data(settings.home)  # which says that it is not Tandem's
    print(f"{nothing}; 'just doctor' names what listens on its ports")
    return 0


def chosen_stack(settings: Settings, *, ending: bool = False) -> Stack:
    """The stack that STACK names, or the one that was used last. Only one of them is up at a time."""
    state = State.load_to_stop(settings.home) if ending else State.load(settings.home)
    kind = settings.stack or state.stack
    if state.up and kind != state.stack:
        raise StackError(f"the {state.stack} stack is up; 'STACK={state.stack} just down' first")
    return ComposeStack(settings) if kind == "compose" else NativeStack(settings)


def act_on_services(stack: Stack, arguments: argparse.Namespace) -> None:
    """Start, stop or restart them, as the command's name says."""
    getattr(stack, arguments.command)(arguments.services)


def signal_services(stack: Stack, arguments: argparse.Namespace) -> None:
    """Kill, freeze or thaw them, as the command's name says."""
    stack.send_signal(arguments.services, SIGNALS[arguments.command])


def database_of(service: str) -> str:
    return next((s.database for s in SERVICES if s.name == service), service)


def fail_over(stack: Stack, arguments: argparse.Namespace) -> None:
    stack.fail_over(database_of(arguments.service))


def rejoin(stack: Stack, arguments: argparse.Namespace) -> None:
    stack.rejoin(database_of(arguments.service))


def scale_services(stack: Stack, arguments: argparse.Namespace) -> None:
    names = [name for name, _ in arguments.counts]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise StackError(f"{', '.join(repeated)} is named twice; give each service one count")
    stack.scale(dict(arguments.counts))


def reset(stack: Stack, arguments: argparse.Namespace) -> None:
    if not arguments.yes:
        if not sys.stdin or not sys.stdin.isatty():
            raise StackError("this is not a terminal, so it cannot ask; --yes deletes all data without asking")
        question = f"This deletes the databases, the topics and the logs in {stack.home}. Continue? [y/N] "
        try:
            answer = input(question)
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise StackError("nothing was deleted")
    stack.reset()


if __name__ == "__main__":
    sys.exit(main())
