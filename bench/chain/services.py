"""The synchronous chain that Tandem replaces: order calls payment, which calls its gateway; then order calls inventory.

`python -m bench.chain.services order|payment|inventory` runs one of its three services. It does the same work on the
same tables, and is built to be quick: bare ASGI on uvicorn and uvloop as on Tandem's hot path, kept-alive connections
with a minimal client between the services, one transaction a service in one round trip to PostgreSQL. What remains is
the chain itself: the customer waits for all of it, and each order pays for its own commits.
"""

import asyncio
import os
import sys
from collections import deque
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
from msgspec import Struct
from psycopg_pool import AsyncConnectionPool

from bench.load import wire
from bench.measure.servers import body_of, respond, serve
from dev.settings import HOST
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


def port_of(service: str) -> int:
    return int(os.environ[f"CHAIN_{service.upper()}_PORT"])


class Client:
    """Calls one service, over as many kept-alive connections as there are calls at a time."""

    def __init__(self, service: str) -> None:
        self._port = port_of(service)
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
    """A service of the chain, as a bare ASGI app. Its transaction is the statement in the file of its name."""

    def __init__(self, name: str) -> None:
        self._statement = Path(__file__).with_name(f"{name}.sql").read_bytes()
        url, options = os.environ[f"{name.upper()}_DATABASE_URL"], {"autocommit": True}
        self._pool = AsyncConnectionPool(url, min_size=POOL_SIZE, max_size=POOL_SIZE, kwargs=options, open=False)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await self._pool.open(wait=True)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._pool.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        answer = await self.answer(await body_of(receive))
        await respond(send, REFUSED if answer is None else CREATED, answer or b'{"status":"rejected"}')

    async def answer(self, body: bytes) -> bytes | None:
        """The body of the answer; None if the service refuses."""
        return b"{}" if await self.write(_decode(body)) else None

    async def write(self, job: Job, **columns: str) -> bool:
        """Run the transaction. Returns whether it wrote its row."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(self._statement, msgspec.structs.asdict(job) | columns)
            return await cursor.fetchone() == (1,)


class Payment(Service):
    """Simulates the gateway by waiting GATEWAY_MS before its transaction, without a connection or a lock."""

    gateway_s = int(os.environ.get("GATEWAY_MS", "0")) / 1_000

    async def answer(self, body: bytes) -> bytes | None:
        if self.gateway_s:
            await asyncio.sleep(self.gateway_s)
        return await super().answer(body)


class Order(Service):
    """Keeps the catalogue in memory, as Tandem does. The bench's orders have one line."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._payment, self._inventory = Client("payment"), Client("inventory")
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
        await self.write(job, items=_encode([item]).decode())
        return _encode({"order_id": order_id, "status": "confirmed", "amount": amount, "currency": currency})


SERVICES: Final = {"payment": Payment, "inventory": Service, "order": Order}

if __name__ == "__main__":
    [name] = sys.argv[1:]
    serve(SERVICES[name](name), port_of(name), lifespan="on")
