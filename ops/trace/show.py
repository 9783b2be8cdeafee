"""Prints the story of an order."""

from collections.abc import Iterator, Sequence
from typing import Any

from common.events import Milliseconds, rfc3339
from common.terminal import printable
from ops.tool import print_table
from ops.trace.story import ParkedEvent, Row, Stage, Story


def show(story: Story) -> None:
    """Print the story for a person."""
    for name, text in _head(story):
        print(f"{name:<12}{printable(text)}")
    if story.stages:
        print()
        print_table(
            ("stage", "at (UTC)", "after ms", "took ms", "record", "by", ""),
            [_stage_row(stage) for stage in story.stages],
        )
    print()
    for name, text in _rows(story):
        print(f"{name:<12}{printable(text)}")
    for parked in story.parked:
        for line in _parked(parked):
            print(printable(line))
    for source, why in story.unread.items():
        print(printable(f"{'not read':<12}{source_named(source)}: {why}"))


def source_named(source: str) -> str:
    """`the log`, `the payment database`."""
    return "the log" if source == "log" else f"the {source} database"


def _head(story: Story) -> Iterator[tuple[str, str]]:
    yield "order", f"{story.order_id}  {status_of(story)}"
    if story.customer_id is not None:
        yield "customer", story.customer_id
    if story.amount is not None:
        yield "amount", f"{story.amount} {story.currency} (minor units)"
    for item in story.items:
        yield "item", f"{item['quantity']} x {item['product_id']} at {item['unit_price']}"
    if story.idempotency_key is not None:
        yield "key", story.idempotency_key
    caller = f", begun by the caller's span {story.caller_span_id}" if story.caller_span_id else ""
    yield "trace", story.trace_id + caller


def status_of(story: Story) -> str:
    """How the order stands, in words."""
    if story.status is None:
        if "order" in story.unread:
            return "its status is unknown: the order database could not be read"
        if story.stages:
            return "in the log, and not yet stored by the saga"
        if story.parked:
            return "parked, and not stored by the saga"
        if story.idempotency_key is not None:
            return "stored under its key, and not in the log: its request got no answer, and a repeat places it"
        return "not known to the saga"
    if story.status == "awaiting_placed":
        return "its results are known, and it was not placed yet"
    reason = f" ({story.reason})" if story.reason else ""
    if story.settled_at is None:
        return f"{story.status}{reason}, not settled yet"
    took = "" if story.placed_at is None else f" after {story.settled_at - story.placed_at} ms"
    return f"{story.status}{reason}, settled{took}"


def _stage_row(stage: Stage) -> Sequence[Any]:
    remarks = []
    if stage.repeat:
        remarks.append("published again")
    if stage.in_log is False:
        remarks.append("stored, not found in the log" if stage.offset is None else "not in the log any more")
    if stage.unread_by:
        remarks.append(f"not yet read by {', '.join(stage.unread_by)}")
    return (
        stage.event, rfc3339(Milliseconds(stage.at)), "" if stage.after_ms is None else stage.after_ms,
        "" if stage.took_ms is None else stage.took_ms, stage.record, stage.by, "; ".join(remarks),
    )  # fmt: skip


def _rows(story: Story) -> Iterator[tuple[str, str]]:
    decisions: tuple[tuple[str, Row | None], ...] = (("payment", story.payment), ("reservation", story.reservation))
    for name, row in decisions:
        if row is None:
            unread = ("payment" if name == "payment" else "inventory") in story.unread
            yield name, "unknown" if unread else "none"
            continue
        reason = f" ({row['reason']})" if row["reason"] else ""
        lines = ", ".join(f"{line['quantity']} x {line['product_id']}" for line in row.get("items") or ())
        amount = f" {row['amount']} {row['currency']}" if row.get("amount") is not None else ""
        revoked = f", undone by that of {rfc3339(row['revoked_at'])}" if row["revoked_at"] else ""
        contents = f"{amount}{lines and ' ' + lines}"
        yield name, f"{row['state']}{reason}{contents}, by the event of {rfc3339(row['decided_at'])}{revoked}"
        if name == "payment":
            for entry in story.ledger:
                moved = f"{entry['amount']} {entry['currency']} from {entry['debit']} to {entry['credit']}"
                yield "  ledger", f"{entry['entry_id']}: {entry['kind']} {moved} at {rfc3339(entry['recorded_at'])}"
        else:
            for m in story.movements:
                moved = f"{m['kind']} {m['quantity']} x {m['product_id']}"
                yield "  movement", f"{m['movement_id']}: {moved} at {rfc3339(m['recorded_at'])}"
    if not story.parked:
        yield "parked", "nothing"


def _parked(parked: ParkedEvent) -> Iterator[str]:
    role = "root" if parked.root else "follower"
    at = rfc3339(Milliseconds(parked.parked_at))
    yield f"{'parked':<12}{parked.event} {parked.record} in {parked.service} since {at}: {role}, {parked.state}"
    yield f"{'':<12}{parked.error} (attempts: {parked.attempts})"
    if parked.blocked_by:
        yield f"{'':<12}waits for {', '.join(parked.blocked_by)}; 'just dlq show' tells more"
    for act in parked.acts:
        yield f"{'':<12}{act}"
