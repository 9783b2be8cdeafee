"""Inventory's HTTP interface: products, their catalogue entries, and restocks."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import to_builtins
from starlette.requests import Request
from starlette.responses import Response

from common.audit.entry import Entry
from common.database import Database
from common.events import RestockData, now, product_restocked
from common.http import problem
from common.http.caching import next_page
from common.http.contract.operation import Operation
from common.http.contract.service import Endpoint
from common.http.once import Change, answered, author_of, change_once, new_key
from common.http.problem import FieldError, ProblemError
from common.http.requests import path_identifier
from common.http.responses import json_response
from common.http.validation import decode_query
from common.kafka.outbox import Outbox
from common.postgres import AsyncConn
from inventory import store
from inventory.operations import (
    PRODUCT,
    PRODUCTS,
    PUT_PRODUCT,
    RESTOCK,
    ProductPage,
    ProductRequest,
    ProductsQuery,
    RestockRequest,
)

PUBLISHED_WITHIN_S: Final = 8.0
LOOK_EVERY_S: Final = 0.02
_product_decoder: Final = msgspec.json.Decoder(ProductRequest)
_restock_decoder: Final = msgspec.json.Decoder(RestockRequest)


def endpoints(database: Database, restocks: Outbox, wake_relay: Callable[[], None]) -> dict[Operation, Endpoint]:
    """The endpoint of each operation, served from this database. Restocks go into the log, and so do products, by the
    relay: `wake_relay` tells that of this process that there is something to publish."""

    async def get_products(request: Request) -> Response:
        query = decode_query(request.query_params, ProductsQuery)
        # One product more than asked for shows whether there is a next page.
        products = await database.reads.read(
            lambda connection: store.products(connection, after=query.cursor or "", limit=query.limit + 1)
        )
        page = products[: query.limit]
        cursor = page[-1].product_id if len(products) > query.limit else None
        return json_response(ProductPage(page, cursor), headers=next_page(request, cursor))

    async def get_product(request: Request) -> Response:
        product_id = path_identifier(request, "product_id")
        return json_response(await database.reads.read(lambda connection: _existing(connection, product_id)))

    async def put_product(request: Request) -> Response:
        product_id = path_identifier(request, "product_id")

        async def change(connection: AsyncConn, body: ProductRequest, _: str | None) -> Change:
            put = await store.put_product(
                connection, product_id, body.name, body.unit_price, body.currency, body.active
            )
            answer = answered(await _existing(connection, product_id), 201 if put == store.CREATED else 200)
            return Change(answer, put and entry_of(product_id, body, put))

        response = await change_once(request, database, f"product {product_id}", _product_decoder, change)
        wake_relay()
        await _published(database, product_id)
        return response

    async def post_restock(request: Request) -> Response:
        product_id = path_identifier(request, "product_id")
        author = author_of(request)

        async def restock(connection: AsyncConn, body: RestockRequest, key: str | None) -> Change:
            restock_key = key or new_key()
            try:
                product = await store.restock(connection, product_id, body.quantity, restock_key)
            except store.UnknownProduct:
                raise ProblemError(problem.not_found("product", product_id)) from None
            except store.StockTooHigh:
                field = FieldError("#/quantity", f"would take the stock above {store.ON_HAND_MAX}")
                raise ProblemError(problem.validation(field)) from None
            if product is None:
                # A restock whose answer was not kept, as earlier versions did not: it is answered with today's stock.
                return Change(answered(await _existing(connection, product_id), 201, replayed=True), None)
            detail = {"quantity": body.quantity, "idempotency_key": key}
            entry = Entry("restock", f"product {product_id}", detail, f"on hand {product.on_hand}")
            data = RestockData(
                product_id=product_id,
                quantity=body.quantity,
                key=restock_key,
                by=author.principal,
                known_by=author.kind,
            )
            return Change(answered(product, 201), entry, product_restocked(data, at=now()))

        into = (restocks, product_id)
        return await change_once(request, database, f"product {product_id}", _restock_decoder, restock, into)

    return {PRODUCTS: get_products, PRODUCT: get_product, PUT_PRODUCT: put_product, RESTOCK: post_restock}


def entry_of(product_id: str, body: ProductRequest, put: store.Put) -> Entry:
    """What the audit says of a product that was created or changed."""
    target, detail = f"product {product_id}", to_builtins(body)
    if put == store.CREATED:
        return Entry("create-product", target, detail, "created")
    if put != (body.unit_price, body.currency):
        return Entry("change-price", target, detail, f"was {put.price} {put.currency}")
    return Entry("change-product", target, detail, "changed")


async def _published(database: Database, product_id: str) -> None:
    """Return when the log has the product as it is. Raises `ProblemError` 503 and `DatabaseUnavailable`."""
    deadline = time.monotonic() + PUBLISHED_WITHIN_S
    while not await database.reads.read(lambda connection: store.is_published(connection, product_id)):
        if time.monotonic() > deadline:
            raise ProblemError(
                problem.unavailable(
                    "the product is stored, and the log does not have it yet: no order is priced by it. It gets there "
                    "when Kafka is back; sending it again changes nothing",
                    retry_after_s=5,
                )
            )
        await asyncio.sleep(LOOK_EVERY_S)


async def _existing(connection: AsyncConn, product_id: str) -> store.ProductView:
    product = await store.product(connection, product_id)
    if product is None:
        raise ProblemError(problem.not_found("product", product_id))
    return product
