"""What the parts can do alone, measured in the same run: the figures that ratios refer to.

Echo: a bare uvicorn that answers the same body, driven by the same generator. COPY: the rows that the services write
for an order, in transactions of 500 orders. The log: see `bench.measure.broker`.
"""

import time
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from psycopg import sql

from bench.load.spec import Spec
from bench.measure import servers
from bench.stack import processes
from bench.stack.private import System
from bench.stack.stored import TABLES
from dev.settings import free_ports

ECHO_CONNECTIONS: Final = 64
WARM_UP_S: Final = 0.3
COPY_ORDERS_MAX: Final = 20_000
COPY_ORDERS_A_TRANSACTION: Final = 500


class Echo(Struct, frozen=True, kw_only=True):
    """The bare uvicorn in a closed loop."""

    per_s: float
    cpu_us: float
    """The server's CPU a request."""
    generator_cpu_us: float


class Copy(Struct, frozen=True, kw_only=True):
    """The rows of an order, five of them in three databases, over one connection to each database in turn."""

    orders_per_s: float
    postgres_cpu_us: float
    """PostgreSQL's CPU an order."""


def echo(duration_s: float) -> Echo:
    """Drive a bare uvicorn with the generator's closed loop."""
    [port] = free_ports(1)
    warm_up = Spec(port=port, mode="closed", connections=ECHO_CONNECTIONS, duration_s=WARM_UP_S)
    with servers.running({"echo": ["bench.measure.servers", str(port)]}, [port]) as pids:
        servers.drive(warm_up, pids)
        records, cpu_us = servers.drive(replace(warm_up, duration_s=duration_s), pids)
    return Echo(per_s=records.per_s, cpu_us=cpu_us["echo"], generator_cpu_us=cpu_us["generator"])


def copy(system: System) -> Copy:
    """COPY rows that the services have written into tables of the same form, then drop those."""
    with system.connect("order") as connection:
        query = "SELECT order_id FROM orders WHERE status = 'confirmed' ORDER BY order_id LIMIT %s"
        ids = [row[0] for row in connection.execute(query, (COPY_ORDERS_MAX,))]
    chunks = [ids[first : first + COPY_ORDERS_A_TRANSACTION] for first in range(0, len(ids), COPY_ORDERS_A_TRANSACTION)]
    postgres = system.layout.pids["postgres"]
    elapsed_s = cpu_s = 0.0
    for service, tables in TABLES.items():
        with system.connect(service) as connection:
            connection.execute("CREATE SCHEMA bench")
            for table in tables:
                connection.execute(f"CREATE TABLE bench.{table} (LIKE {table} INCLUDING INDEXES)")
            transactions = [[(table, _rows(connection, table, chunk)) for table in tables] for chunk in chunks]
            cpu_s -= processes.tree_cpu_s(postgres)
            began = time.perf_counter()
            for transaction in transactions:
                with connection.transaction():
                    for table, rows in transaction:
                        with connection.cursor().copy(f"COPY bench.{table} FROM STDIN") as into:
                            into.write(rows)
            elapsed_s += time.perf_counter() - began
            cpu_s += processes.tree_cpu_s(postgres)
            connection.execute("DROP SCHEMA bench CASCADE")
    return Copy(orders_per_s=len(ids) / elapsed_s, postgres_cpu_us=cpu_s / len(ids) * 1e6)


def _rows(connection: Any, table: str, ids: list[Any]) -> bytes:
    query = sql.SQL("COPY (SELECT * FROM {} WHERE order_id = ANY({})) TO STDOUT").format(sql.Identifier(table), ids)
    with connection.cursor().copy(query) as out:
        return b"".join(bytes(block) for block in out)
