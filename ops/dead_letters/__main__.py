"""`python -m ops.dead_letters list|show|redrive|discard|resume|skip`: shows parked events, and decides what
becomes of them.

    list      show all parked events, oldest first
    show      show all that is known of an event, which is named topic/partition@offset, as `list` prints it
    redrive   process events again, in order: by record, by customer, or all; always with all events parked behind them
    discard   drop events for good: an order is then decided (declined, rejected) with the reason `discarded`
    resume    let a service continue that has stopped because too many events were parked
    skip      park a record unread that a consumer cannot pass, or pass an offset at which the log has no record

A topic that was created anew has the same offsets again. Events parked from the earlier topic are listed with its id:
orders/3@17#bE1lwQ7ITZa9kXn2gU0v5A.

An act marks rows; the service itself does the rest within a second, in its batch loop (a skip: when it starts to read).
Every act is recorded with who, when and why. `--dry-run` only shows what would be marked. When the tool is killed, an
act is either done or not begun.
"""

import argparse
from collections.abc import Sequence

from common.audit.entry import user_author
from common.config.env import Env
from common.errors import Fatal
from ops import tool
from ops.dead_letters.acts import mark, resume, skip
from ops.dead_letters.parked import connected, counted, record_id, show, show_list


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dlq", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    everywhere, by_record, required = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    for service, text in (
        (everywhere, "only this service (default: all)"),
        (by_record, "only this service (default: all); required when records are named"),
        (required, "the service whose events these are (required)"),
    ):
        service.add_argument("--service", choices=tool.services(), help=text)
    consent = argparse.ArgumentParser(add_help=False)
    tool.add_consent(consent)
    naming = argparse.ArgumentParser(add_help=False)
    naming.add_argument(
        "records", type=record_id, nargs="*", metavar="record",
        help="topic/partition@offset, as 'list' prints it: orders/3@17",
    )  # fmt: skip
    naming.add_argument("--customer", help="all parked events of a customer")
    commands.add_parser("list", parents=[everywhere]).add_argument("--customer")
    commands.add_parser("show", parents=[by_record, naming])
    redriving = commands.add_parser("redrive", parents=[by_record, naming, consent])
    redriving.add_argument("--all", action="store_true", help="all parked events")
    commands.add_parser("discard", parents=[required, naming, consent])
    commands.add_parser("resume", parents=[everywhere, consent])
    commands.add_parser("skip", parents=[required, consent]).add_argument(
        "records", type=record_id, nargs="+", metavar="record", help="topic/partition@offset, as the log line names it"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    chosen = parse(arguments)
    env = Env("dlq")
    if chosen.service is None and (chosen.command in ("discard", "skip") or getattr(chosen, "records", None)):
        raise Fatal(f"dlq: the service is not named; add --service {'|'.join(tool.services())}")
    note = tool.DRY_RUN_NOTE if getattr(chosen, "dry_run", False) else ""
    for service in [chosen.service] if chosen.service else tool.services():
        with connected(service, env) as connection:
            match chosen.command:
                case "list":
                    show_list(service, connection, chosen.customer)
                case "show":
                    show(service, connection, chosen)
                case "redrive" | "discard":
                    count = mark(connection, chosen, user_author(chosen.actor))
                    marked = "marked for redrive" if chosen.command == "redrive" else "marked as discarded"
                    print(f"{service}: {counted(count, 'event')} {marked}{note}")
                case "resume":
                    count = resume(connection, chosen, user_author(chosen.actor))
                    ended = f"{counted(count, 'stop')} ended" if count else "was not stopped"
                    print(f"{service}: {ended}{note}")
                case "skip":
                    count = skip(service, connection, chosen, user_author(chosen.actor))
                    print(f"{service}: {counted(count, 'record')} will be skipped when it starts to read{note}")
                    if not chosen.dry_run:
                        print(
                            f"'just restart {tool.services()[service]}' has it start now; it then parks what is there"
                        )
    return 0


if __name__ == "__main__":
    tool.run(main)
