"""What the parts could do alone, measured in the same run with the same generator: the figures that ratios refer to.

Echo: a bare uvicorn that answers the same body. COPY: the same rows as the services write for an order, in
transactions of 500 orders. Log: the same event bytes through the broker, by a client that does nothing else.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from psycopg import sql

from bench.load import runner
from bench.load.generator import Spec
from bench.load.latency import Latency, summary
from bench.load.wire import Population
from bench.stack import processes
from bench.stack.broker import BrokerRates
from bench.stack.system import System
from dev.settings import HOST, free_ports

ECHO_CONNECTIONS: Final = 64
START_S: Final = 20.0
COPY_ORDERS_MAX: Final = 20_000
COPY_ORDERS_A_TRANSACTION: Final = 500
_ROWS: Final = {"order": ("orders",), "payment": ("payments", "ledger"), "inventory": ("reservations", "movements")}


class Echo(Struct, frozen=True, kw_only=True):
    """The bare uvicorn, closed loop, as fast as it goes."""

    per_s: float
    cpu_us: float
    """The server's CPU a request."""
    generator_cpu_us: float
    latency: Latency


class Copy(Struct, frozen=True, kw_only=True):
    """The rows of an order, five of them in three databases, over one connection a database, one after the other."""

    orders: int
    orders_per_s: float
    postgres_cpu_us: float
    """PostgreSQL's CPU an order."""


def echo(directory: Path, duration_s: float) -> Echo:
    """Drive a bare uvicorn with the generator's closed loop."""
    [port] = free_ports(1)
    server = subprocess.Popen([sys.executable, "-m", "bench.measure.echo", str(port)])
    try:
        files = str(directory / "echo")
        given: dict[str, Any] = {"port": port, "mode": "closed", "connections": ECHO_CONNECTIONS, "files": files}
        await_listening(port)
        runner.run(Spec(**given, population=Population(bodies=100), duration_s=0.3))
        before_s = processes.tree_cpu_s(server.pid)
        records = runner.run(Spec(**given, population=Population(), duration_s=duration_s))
        cpu_s = processes.tree_cpu_s(server.pid) - before_s
    finally:
        server.terminate()
        server.wait()
    count = records.result.requests
    return Echo(
        per_s=count / records.result.elapsed_s,
        cpu_us=cpu_s / count * 1e6,
        generator_cpu_us=records.result.cpu_s / count * 1e6,
        latency=summary(records.accept_us()),
    )


def await_listening(port: int) -> None:
    """Wait until something listens there. Raises `OSError` when nothing does in time."""
    until = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def copy(stack: System) -> Copy:
    """COPY rows that the services have written into tables of the same form, and drop them again."""
    with stack.connect("order") as connection:
        ids = [
            row[0]
            for row in connection.execute(
                "SELECT order_id FROM orders WHERE status = 'confirmed' ORDER BY order_id LIMIT %s", (COPY_ORDERS_MAX,)
            )
        ]
    elapsed_s = 0.0
    postgres = stack.layout.pids["postgres"]
    cpu_s = 0.0
    for service, tables in _ROWS.items():
        with stack.connect(service) as connection:
            copied = []
            for table in tables:
                columns = _columns(connection, table)
                chunks = [
                    _rows(connection, table, columns, ids[at : at + COPY_ORDERS_A_TRANSACTION])
                    for at in range(0, len(ids), COPY_ORDERS_A_TRANSACTION)
                ]
                name = sql.Identifier(f"bench_{table}")
                connection.execute(
                    sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(name, sql.Identifier(table))
                )
                copied.append((name, columns, chunks))
            cpu_s -= processes.tree_cpu_s(postgres)
            began = time.perf_counter()
            for number in range(len(copied[0][2])):
                with connection.transaction():
                    for name, columns, chunks in copied:
                        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(name, columns)
                        with connection.cursor().copy(statement) as into:
                            into.write(chunks[number])
            elapsed_s += time.perf_counter() - began
            cpu_s += processes.tree_cpu_s(postgres)
            for name, _, _ in copied:
                connection.execute(sql.SQL("DROP TABLE {}").format(name))
    return Copy(orders=len(ids), orders_per_s=len(ids) / elapsed_s, postgres_cpu_us=cpu_s / len(ids) * 1e6)


def _columns(connection: Any, table: str) -> sql.Composed:
    """The columns that a client writes: not what PostgreSQL derives, not the identity."""
    rows = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped "
        "AND attgenerated = '' AND attidentity = '' ORDER BY attnum",
        (table,),
    )
    return sql.SQL(", ").join(sql.Identifier(name) for (name,) in rows)


def _rows(connection: Any, table: str, columns: sql.Composed, ids: Sequence[Any]) -> bytes:
    statement = sql.SQL("COPY (SELECT {} FROM {} WHERE order_id = ANY({})) TO STDOUT").format(
        columns, sql.Identifier(table), sql.Literal(list(ids))
    )
    with connection.cursor().copy(statement) as out:
        return b"".join(bytes(block) for block in out)


def broker(stack: System, messages: int) -> BrokerRates:
    """Produce and consume by a process of its own, at the size of a placed order's event."""
    servers = stack.layout.variables["KAFKA_BOOTSTRAP_SERVERS"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.stack.broker", servers, str(stack.layout.pids["kafka"]), str(messages)],
        check=True,
        capture_output=True,
    )
    return msgspec.json.decode(done.stdout, type=BrokerRates)
