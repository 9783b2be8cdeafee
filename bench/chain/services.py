"""The synchronous chain that Tandem replaces: order calls payment, which calls its gateway; then order calls inventory.

`python -m bench.chain.services order|payment|inventory PORT` runs one of its three services. It does the same work on
the same tables, and is built to be quick: bare ASGI on uvicorn and uvloop as on Tandem's hot path, kept-alive
connections with a minimal client between the services, one transaction a service in one round trip to PostgreSQL. What
remains is the chain itself: the customer waits for all of it, and each order pays for its own commits.

The gateway is simulated by waiting GATEWAY_MS before the payment's transaction, without a connection or a lock.
"""

import asyncio
import os
import sys
from collections import deque
from typing import Any, Final

import msgspec
import psycopg
from msgspec import Struct
from psycopg_pool import AsyncConnectionPool

from bench.load import wire
from bench.measure.echo import HOST, body_of, respond, serve
from order.api.place.ids import new_order_id
from order.api.requests import order_request_decoder

POOL_SIZE: Final = 20
CREATED: Final = 201
REFUSED: Final = 409


class Job(Struct, frozen=True):
    """What order asks payment and inventory for. `amount` in minor units."""

    order_id: str
    customer_id: str
    product_id: str
    quantity: int
    amount: int
    currency: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Job).decode

_CHARGE: Final = """
    WITH charged AS (
      UPDATE accounts SET balance = balance - %(amount)s
      WHERE customer_id = %(customer_id)s AND currency = %(currency)s AND balance >= %(amount)s RETURNING customer_id
    ), payment AS (
      INSERT INTO payments (order_id, customer_id, state, amount, currency, decided_at)
      SELECT %(order_id)s::uuid, customer_id, 'completed', %(amount)s, %(currency)s, now() FROM charged
    ), entry AS (
      INSERT INTO ledger (customer_id, kind, order_id, amount, currency, recorded_at)
      SELECT customer_id, 'capture', %(order_id)s::uuid, %(amount)s, %(currency)s, now() FROM charged
    )
    SELECT count(*) FROM charged
"""
_RESERVE: Final = """
    WITH taken AS (
      UPDATE products SET on_hand = on_hand - %(quantity)s
      WHERE product_id = %(product_id)s AND active AND on_hand >= %(quantity)s RETURNING product_id
    ), reservation AS (
      INSERT INTO reservations (order_id, customer_id, state, items, decided_at)
      SELECT %(order_id)s::uuid, %(customer_id)s, 'reserved',
        json_build_array(json_build_object('product_id', product_id, 'quantity', %(quantity)s::bigint)), now()
      FROM taken
    ), movement AS (
      INSERT INTO movements (product_id, kind, order_id, quantity, recorded_at)
      SELECT product_id, 'reserve', %(order_id)s::uuid, %(quantity)s, now() FROM taken
    )
    SELECT count(*) FROM taken
"""
_ORDER: Final = """
    INSERT INTO orders (order_id, customer_id, partition, status, payment, inventory, amount, currency, items,
      placed_at, decided_at, settled_at, traceparent, timeline)
    VALUES (%(order_id)s, %(customer_id)s, 0, 'confirmed', 'completed', 'reserved', %(amount)s, %(currency)s, %(items)s,
      now(), now(), now(), '', '[]')
    RETURNING 1
"""


class Client:
    """Calls one service, over as many kept-alive connections as there are calls at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def post(self, job: Job) -> bool:
        """Whether the service agreed."""
        connection = self._idle.pop() if self._idle else await asyncio.open_connection(HOST, self._port)
        reader, writer = connection
        body = _encode(job)
        head = b"POST / HTTP/1.1\r\nhost: chain\r\ncontent-type: application/json\r\ncontent-length: "
        writer.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        answer = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(wire.length_of(answer) - len(answer))
        self._idle.append(connection)
        return wire.status_of(answer) == CREATED


class Service:
    """One service of the chain, as a bare ASGI app."""

    database: str

    def __init__(self) -> None:
        self.pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            os.environ[f"{self.database.upper()}_DATABASE_URL"],
            min_size=POOL_SIZE,
            max_size=POOL_SIZE,
            kwargs={"autocommit": True},
            open=False,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await self.pool.open(wait=True)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.pool.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        answer = await self.answer(await body_of(receive))
        await respond(send, REFUSED if answer is None else CREATED, answer or b'{"status":"rejected"}')

    async def answer(self, body: bytes) -> bytes | None:
        """The body of the answer; None if the service refuses."""
        raise NotImplementedError

    async def wrote(self, statement: str, job: Job, **more: str) -> bool:
        """Run a statement that is a transaction of its own. Returns whether it wrote its row."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(statement, msgspec.structs.asdict(job) | more)
            row: tuple[int] | None = await cursor.fetchone()
            return row == (1,)


class Payment(Service):
    database = "payment"
    gateway_s = int(os.environ.get("GATEWAY_MS", "0")) / 1_000

    async def answer(self, body: bytes) -> bytes | None:
        if self.gateway_s:
            await asyncio.sleep(self.gateway_s)
        return b"{}" if await self.wrote(_CHARGE, _decode(body)) else None


class Inventory(Service):
    database = "inventory"

    async def answer(self, body: bytes) -> bytes | None:
        return b"{}" if await self.wrote(_RESERVE, _decode(body)) else None


class Order(Service):
    """Keeps the catalogue in memory, as Tandem does. The bench's orders have one line."""

    database = "order"

    def __init__(self) -> None:
        super().__init__()
        self._payment = Client(int(os.environ["CHAIN_PAYMENT_PORT"]))
        self._inventory = Client(int(os.environ["CHAIN_INVENTORY_PORT"]))
        with psycopg.connect(os.environ["INVENTORY_DATABASE_URL"]) as connection:
            products = connection.execute("SELECT product_id, unit_price, currency FROM products")
            self._products = {product: (price, currency) for product, price, currency in products}

    async def answer(self, body: bytes) -> bytes | None:
        request = order_request_decoder.decode(body)
        [line] = request.lines
        price, currency = self._products[line.product_id]
        amount = price * line.quantity
        order_id = new_order_id()
        job = Job(order_id, request.customer_id, line.product_id, line.quantity, amount, currency)
        # When inventory refuses, the chain has no way to undo the charge, which is one reason why it is replaced.
        if not await self._payment.post(job) or not await self._inventory.post(job):
            return None
        item = {"product_id": line.product_id, "quantity": line.quantity, "unit_price": price}
        await self.wrote(_ORDER, job, items=_encode([item]).decode())
        return _encode({"order_id": order_id, "status": "confirmed", "amount": amount, "currency": currency})


if __name__ == "__main__":
    name, port = sys.argv[1:]
    service = next(service for service in (Payment, Inventory, Order) if service.database == name)
    serve(service(), int(port), lifespan="on")
