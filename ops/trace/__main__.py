"""`python -m ops.trace ID`: prints the whole story of any order, sampled or not, and sends it as a trace if asked to.

The story is put together from the databases, the topics and the parked events, so nothing has to be switched on before.
ID is an order's id, or the id of a trace, which the order or its caller began. Exit code: 0, or 2 when the order is
nowhere or the tool failed.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from msgspec import json

from common.config.env import HTTP_URL, Env
from common.config.kafka import brokers
from common.errors import Fatal
from common.events import OrderId
from common.tracing import export
from ops import tool
from ops.databases import Database, Unreadable, databases
from ops.log import Log
from ops.trace import sources
from ops.trace.show import show, source_named
from ops.trace.spans import spans_of
from ops.trace.story import made_at, tell
from order.api.requests import order_id_in

TRACE_DIGITS: Final = 32
ORDERS_SHOWN: Final = 10
"""Of those that have one trace."""


class Named(NamedTuple):
    """The order that is meant; of a trace, an order that has its digits, if there is one."""

    order_id: OrderId
    is_trace: bool


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="trace", description=__doc__.splitlines()[0])
    described.add_argument("order", type=order_named, metavar="ID", help="an order's id, or that of its trace")
    described.add_argument("--json", action="store_true", help="print the story as JSON")
    described.add_argument(
        "--otlp", type=collector, metavar="URL", help="send the story as a trace to a collector: http://127.0.0.1:4318"
    )
    return described


def collector(text: str) -> str:
    """The URL of a collector. Raises `argparse.ArgumentTypeError`."""
    if not HTTP_URL.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be like http://HOST:PORT")
    return text


def order_named(text: str) -> Named:
    """What is meant. Raises `argparse.ArgumentTypeError`."""
    digits = text.strip()
    is_trace = len(digits) == TRACE_DIGITS and "-" not in digits
    if is_trace:
        digits = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    if (order_id := order_id_in(digits)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an order's id, such as 01a20698-5702-759d-bf21-11993ae5d7ab")
    return Named(order_id, is_trace)


def order_meant(named: Named, orders: Database) -> str:
    """The order to tell of. Raises `Fatal` for a trace that has several."""
    if not named.is_trace:
        return named.order_id
    try:
        found = sources.find_in_trace(named.order_id, orders, ORDERS_SHOWN + 1)
    except Unreadable:
        return named.order_id  # whose story names the database that is away
    if len(found) > 1:
        more = ", …" if len(found) > ORDERS_SHOWN else ""
        listed = ", ".join(found[:ORDERS_SHOWN])
        raise Fatal(f"trace: several orders have this trace; name one of them, newest first: {listed}{more}")
    return found[0] if found else named.order_id


def nowhere(order_id: str, unread: Mapping[str, str]) -> str:
    """Why there is nothing to tell. `unread` are the sources that could not be read."""
    made = ""
    if (made_at_ms := made_at(order_id)) is not None:
        made = f" (made at {datetime.fromtimestamp(made_at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC, if Tandem made it)"
    if unread:
        reasons = "; ".join(f"{source_named(source)} could not be read: {why}" for source, why in unread.items())
        return f"trace: order {order_id}{made} was not found, and may be where this could not look: {reasons}"
    return f"trace: order {order_id}{made} is nowhere: not in a database, not parked, and not in the log"


def main(arguments: Sequence[str]) -> int:
    chosen = parser().parse_args(arguments)
    env = Env("trace")
    if chosen.otlp is not None:
        export.check_installed("trace: --otlp")
    urls = {name: env.database_url(f"{name.upper()}_AUDITOR_URL") for name in tool.GROUP_OF}
    reading = databases(urls, "trace", statement_timeout_ms=0)
    order_id = order_meant(chosen.order, reading["order"])
    story = tell(order_id, sources.find(order_id, reading, Log(brokers(env), "trace")))
    if story.is_empty:
        raise Fatal(nowhere(order_id, story.unread))
    if chosen.json:
        sys.stdout.buffer.write(json.format(json.encode(story)) + b"\n")
    else:
        show(story)
    if chosen.otlp is not None:
        spans = spans_of(story)
        export.send(chosen.otlp, spans)
        print(f"trace: {len(spans)} spans of trace {story.trace_id} sent to {chosen.otlp}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    tool.run(main)
