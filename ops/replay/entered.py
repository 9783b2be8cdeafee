"""Deposits and restocks that were entered over HTTP and are not in the database, brought back from their topics."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from common.audit import table as audit
from common.audit.entry import Author, Entry
from common.errors import Fatal
from common.events import DEPOSITS, RESTOCKS, AccountDeposited, ProductRestocked
from common.postgres import Conn, columns, timestamp
from inventory import buckets
from inventory.store import RESTOCKED
from ops.log import Log
from ops.replay.published import CHUNK_EVENTS, SHOWN_MAX, time_of
from ops.tool import chunks, statements
from payment.store import DEPOSITED

SQL: Final = statements(__file__)

EnteredEvent = TypeVar("EnteredEvent", AccountDeposited, ProductRestocked)
Known = Callable[[Conn, Sequence[tuple[str, str]]], set[tuple[str, str]]]


def missing(connection: Conn, entered: Iterable[EnteredEvent], known: Known) -> list[EnteredEvent]:
    """Those of the events that the database does not have, each once. `known` reads which of these subjects and keys
    it has."""
    lacking: dict[tuple[str, str], EnteredEvent] = {}
    for chunk in chunks(entered, CHUNK_EVENTS):
        keys: dict[tuple[str, str], EnteredEvent] = {}
        for event in chunk:
            keys.setdefault((event.data.subject, event.data.key), event)
        has = known(connection, list(keys))
        lacking |= {key: event for key, event in keys.items() if key not in has and key not in lacking}
    return list(lacking.values())


def restore_deposits(connection: Conn, log: Log) -> list[str]:
    """Within a transaction: enter the deposits that the database lacks. Returns what was done, line by line. Raises
    `Fatal` for an account that is kept in another currency."""
    lost = missing(connection, log.events(log.bounds([DEPOSITS])), DEPOSITED.known)
    if not lost:
        return []
    accounts = {event.data.customer_id: event.data.currency for event in lost}
    kept: dict[str, str] = dict(connection.execute(SQL["open"], columns(sorted(accounts.items()))).fetchall())
    for event in lost:
        data = event.data
        if kept[data.customer_id] != data.currency:
            raise Fatal(
                f"replay: {data.amount} {data.currency} were deposited in account {data.customer_id}, which is in "
                f"{kept[data.customer_id]}"
            )
    rows = [(d.customer_id, d.amount, d.currency, timestamp(time_of(e)), d.key) for e in lost for d in (e.data,)]
    connection.execute(SQL["deposit"], columns(rows))
    connection.execute(SQL["credit"], columns((e.data.customer_id, e.data.amount) for e in lost))
    lines = [f"  account {d.customer_id}: {d.amount} {d.currency}" for d in (event.data for event in lost)]
    for event in lost:
        data = event.data
        detail = {"amount": data.amount, "currency": data.currency, "idempotency_key": data.key}
        entry = Entry("deposit", f"account {data.customer_id}", detail, "brought back by a replay")
        audit.write(connection, Author(data.by, data.known_by), entry)
    return [f"{len(lost)} deposits brought back from topic {DEPOSITS!r}:", *shortened(lines)]


def restore_restocks(connection: Conn, log: Log) -> list[str]:
    """Within a transaction, after the catalogue: enter the restocks that the database lacks. Returns what was done,
    line by line. Raises `Fatal` for a product that is gone."""
    lost = missing(connection, log.events(log.bounds([RESTOCKS])), RESTOCKED.known)
    if not lost:
        return []
    pieces: dict[str, int] = {}
    for event in lost:
        pieces[event.data.product_id] = pieces.get(event.data.product_id, 0) + event.data.quantity
    split: dict[str, bool] = dict(connection.execute(SQL["lock_products"], (sorted(pieces),)).fetchall())
    if gone := sorted(pieces.keys() - split.keys()):
        raise Fatal(f"replay: {gone[0]} was restocked, and is not in the database: bring the catalogue back first")
    rows = [(d.product_id, d.quantity, timestamp(time_of(e)), d.key) for e in lost for d in (e.data,)]
    connection.execute(SQL["restock"], columns(rows))
    for product_id, quantity in sorted(pieces.items()):
        if split[product_id]:
            buckets.restock_in(connection, product_id, quantity)
        else:
            connection.execute(SQL["add_stock"], (quantity, product_id))
    for event in lost:
        data = event.data
        detail = {"quantity": data.quantity, "idempotency_key": data.key}
        entry = Entry("restock", f"product {data.product_id}", detail, "brought back by a replay")
        audit.write(connection, Author(data.by, data.known_by), entry)
    lines = [f"  product {event.data.product_id}: {event.data.quantity} pieces" for event in lost]
    return [f"{len(lost)} restocks brought back from topic {RESTOCKS!r}:", *shortened(lines)]


def shortened(lines: Sequence[str]) -> list[str]:
    more = [f"  … and {len(lines) - SHOWN_MAX} more"] if len(lines) > SHOWN_MAX else []
    return [*lines[:SHOWN_MAX], *more]
