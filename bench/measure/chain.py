"""The synchronous chain that Tandem replaces: order calls payment, which calls its gateway, then order calls inventory.

`python -m bench.measure.chain order|payment|inventory PORT` runs one of its three services. It does the same work on
the same tables, and is built to be quick: bare ASGI on uvicorn and uvloop as Tandem's hot path is, kept-alive
connections with a minimal client between the services, one transaction a service in one round trip to PostgreSQL. What
is left is what a chain is: the customer waits for all of it, and each order pays for its own commits.

The gateway is simulated by waiting GATEWAY_MS before the payment's transaction, without holding a connection or a lock.
"""

import asyncio
import os
import sys
from collections import deque
from typing import Any, Final, cast

import msgspec
import psycopg
import uvicorn
from msgspec import Struct
from psycopg_pool import AsyncConnectionPool

from bench.load import wire
from common.events import now
from order.api.place.ids import OrderIds
from order.api.requests import order_request_decoder

HOST: Final = "127.0.0.1"
POOL_SIZE: Final = 20
CREATED: Final = 201
REFUSED: Final = 409


class Charge(Struct, frozen=True):
    """What order asks of payment. `amount` in minor units."""

    order_id: str
    customer_id: str
    amount: int
    currency: str


class Reserve(Struct, frozen=True):
    """What order asks of inventory."""

    order_id: str
    customer_id: str
    product_id: str
    quantity: int


_encode = msgspec.json.Encoder().encode
_charge = msgspec.json.Decoder(Charge)
_reserve = msgspec.json.Decoder(Reserve)

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
"""


class Connection(asyncio.Protocol):
    """A kept-alive connection of the minimal client."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[int] | None = None
        self._partial = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    def data_received(self, data: bytes) -> None:
        self._partial += data
        length = wire.length_of(self._partial)
        if length and len(self._partial) >= length and self._answer is not None:
            self._answer.set_result(wire.status_of(self._partial))
            self._partial = b""

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())

    def ask(self, request: bytes) -> "asyncio.Future[int]":
        assert self.transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer


class Client:
    """Calls one service; as many connections as calls at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: deque[Connection] = deque()

    async def post(self, body: bytes) -> int:
        """The status of the answer."""
        connection = self._idle.pop() if self._idle else None
        if connection is None or connection.transport is None:
            _, connection = await asyncio.get_running_loop().create_connection(Connection, HOST, self._port)
        start = b"POST / HTTP/1.1\r\nhost: chain\r\ncontent-type: application/json\r\ncontent-length: "
        status = await connection.ask(b"%b%d\r\n\r\n%b" % (start, len(body), body))
        self._idle.append(connection)
        return status


class Service:
    """One service of the chain, as bare ASGI."""

    def __init__(self, database: str) -> None:
        url = os.environ[f"{database.upper()}_DATABASE_URL"]
        self.pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            url, min_size=POOL_SIZE, max_size=POOL_SIZE, kwargs={"autocommit": True}, open=False, timeout=30
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await self.pool.open(wait=True)
            await self.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.pool.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        message = await receive()
        body: bytes = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        status, answer = await self.answer(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def start(self) -> None:
        """What has to be there before the first request."""

    async def answer(self, body: bytes) -> tuple[int, bytes]:
        """Status and body."""
        raise NotImplementedError

    async def changed(self, statement: str, parameters: dict[str, Any]) -> bool:
        """Run a statement that is a transaction of its own; whether it found its row."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(statement, parameters)
            found: tuple[int] | None = await cursor.fetchone()
            return found == (1,)


class Payment(Service):
    def __init__(self) -> None:
        super().__init__("payment")
        self._gateway_s = int(os.environ.get("GATEWAY_MS", "0")) / 1_000

    async def answer(self, body: bytes) -> tuple[int, bytes]:
        charge = _charge.decode(body)
        if self._gateway_s:
            await asyncio.sleep(self._gateway_s)
        paid = await self.changed(_CHARGE, msgspec.structs.asdict(charge))
        return (CREATED if paid else REFUSED), b"{}"


class Inventory(Service):
    def __init__(self) -> None:
        super().__init__("inventory")

    async def answer(self, body: bytes) -> tuple[int, bytes]:
        taken = await self.changed(_RESERVE, msgspec.structs.asdict(_reserve.decode(body)))
        return (CREATED if taken else REFUSED), b"{}"


class Order(Service):
    """The catalogue is held in memory here as well; the orders of the bench have one line."""

    def __init__(self) -> None:
        super().__init__("order")
        self._payment = Client(int(os.environ["CHAIN_PAYMENT_PORT"]))
        self._inventory = Client(int(os.environ["CHAIN_INVENTORY_PORT"]))
        self._ids = OrderIds()
        self._products: dict[str, tuple[int, str]] = {}

    async def start(self) -> None:
        async with await psycopg.AsyncConnection.connect(os.environ["INVENTORY_DATABASE_URL"]) as connection:
            cursor = await connection.execute("SELECT product_id, unit_price, currency FROM products")
            self._products = {product: (price, currency) async for product, price, currency in cursor}

    async def answer(self, body: bytes) -> tuple[int, bytes]:
        request = order_request_decoder.decode(body)
        [line] = request.lines
        price, currency = self._products[line.product_id]
        order_id, amount = self._ids.draw(now()), price * line.quantity
        charge = Charge(order_id, request.customer_id, amount, currency)
        if await self._payment.post(_encode(charge)) != CREATED:
            return REFUSED, b'{"status":"rejected"}'
        reserve = Reserve(order_id, request.customer_id, line.product_id, line.quantity)
        if await self._inventory.post(_encode(reserve)) != CREATED:
            # The chain has no way to undo a charge when this call fails: what it is replaced for.
            return REFUSED, b'{"status":"rejected"}'
        item = {"product_id": line.product_id, "quantity": line.quantity, "unit_price": price}
        async with self.pool.connection() as connection:
            await connection.execute(_ORDER, {**msgspec.structs.asdict(charge), "items": _encode([item]).decode()})
        answer = {"order_id": order_id, "status": "confirmed", "amount": amount, "currency": currency}
        return CREATED, _encode(answer)


SERVICES: Final = {"payment": Payment, "inventory": Inventory, "order": Order}


if __name__ == "__main__":
    uvicorn.run(
        SERVICES[sys.argv[1]](),
        host=HOST,
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=2_048,
        timeout_keep_alive=60,
    )
