"""Inventory's HTTP interface: products, their catalogue entries, and restocks."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.events import Currency, Identifier, UnitPrice
from common.http import problem
from common.http.problem import FieldError, ProblemError
from common.http.requests import REPLAYED, idempotency_key, idempotency_key_reused, path_identifier, read_body
from common.http.responses import json_response
from common.http.validation import decode_body, decode_query
from common.postgres import AsyncConn, AsyncPool
from inventory import store

Name = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,200}\Z",
        description="1 to 200 characters, none of them a control character",
    ),
]


class ProductRequest(Struct, forbid_unknown_fields=True):
    """A product's entry in the catalogue."""

    name: Name
    unit_price: UnitPrice
    currency: Currency
    active: bool


class RestockRequest(Struct, forbid_unknown_fields=True):
    quantity: Annotated[int, Meta(ge=1, le=10**9)]


class ProductsQuery(Struct, forbid_unknown_fields=True):
    """A page of products, in the order of their ids: those after `cursor`."""

    cursor: Identifier = ""
    limit: Annotated[int, Meta(ge=1, le=500)] = 50


_product_decoder = msgspec.json.Decoder(ProductRequest)
_restock_decoder = msgspec.json.Decoder(RestockRequest)


def routes(pool: AsyncPool) -> list[Route]:
    """The routes, served from connections of `pool`."""

    async def get_products(request: Request) -> Response:
        query = decode_query(request.query_params, ProductsQuery)
        async with pool.connection() as connection:
            page = await store.products(connection, after=query.cursor, limit=query.limit)
        cursor = page[-1].product_id if len(page) == query.limit else None
        return json_response({"products": page, "next_cursor": cursor})

    async def get_product(request: Request) -> Response:
        product_id = path_identifier(request, "product_id")
        async with pool.connection() as connection:
            return json_response(await _existing(connection, product_id))

    async def put_product(request: Request) -> Response:
        product_id = path_identifier(request, "product_id")
        body = decode_body(await read_body(request), _product_decoder)
        async with pool.connection() as connection:
            created = await store.put_product(
                connection, product_id, body.name, body.unit_price, body.currency, body.active
            )
            return json_response(await _existing(connection, product_id), 201 if created else 200)

    async def post_restock(request: Request) -> Response:
        product_id = path_identifier(request, "product_id")
        key = idempotency_key(request)
        body = decode_body(await read_body(request), _restock_decoder)
        async with pool.connection() as connection:
            try:
                product = await store.restock(connection, product_id, body.quantity, key)
            except store.KeyReused:
                raise ProblemError(idempotency_key_reused(str(key), "another restock of this product")) from None
            except store.UnknownProduct:
                raise ProblemError(problem.not_found("product", product_id)) from None
            except store.StockTooHigh:
                field = FieldError("#/quantity", f"would take the stock above {store.ON_HAND_MAX}")
                raise ProblemError(problem.validation(field)) from None
            if product is None:
                return json_response(await _existing(connection, product_id), 201, REPLAYED)
            return json_response(product, 201)

    base = "/api/v1/products"
    return [
        Route(base, get_products),
        Route(base + "/{product_id}", get_product),
        Route(base + "/{product_id}", put_product, methods=["PUT"]),
        Route(base + "/{product_id}/restocks", post_restock, methods=["POST"]),
    ]


async def _existing(connection: AsyncConn, product_id: str) -> store.ProductView:
    product = await store.product(connection, product_id)
    if product is None:
        raise ProblemError(problem.not_found("product", product_id))
    return product
