"""Inventory's HTTP interface: products, their catalogue entries, and restocks."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.currencies import ActiveCurrency
from common.database import Database
from common.events import Identifier, UnitPrice
from common.http import problem
from common.http.once import answered, change_once
from common.http.problem import FieldError, ProblemError
from common.http.requests import path_identifier
from common.http.responses import json_response
from common.http.validation import decode_query
from common.keyed_answers import Answer
from common.postgres import AsyncConn
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
    currency: ActiveCurrency
    active: bool


class RestockRequest(Struct, forbid_unknown_fields=True):
    quantity: Annotated[int, Meta(ge=1, le=10**9)]


class ProductsQuery(Struct, forbid_unknown_fields=True):
    """A page of products, in the order of their ids: those after `cursor`."""

    cursor: Identifier = ""
    limit: Annotated[int, Meta(ge=1, le=500)] = 50


_product_decoder = msgspec.json.Decoder(ProductRequest)
_restock_decoder = msgspec.json.Decoder(RestockRequest)


def routes(database: Database) -> list[Route]:
    """The routes, served from this database."""

    async def get_products(request: Request) -> Response:
        query = decode_query(request.query_params, ProductsQuery)
        # One product more than asked for shows whether there is a next page.
        products = await database.reads.run(
            lambda connection: store.products(connection, after=query.cursor, limit=query.limit + 1)
        )
        page = products[: query.limit]
        cursor = page[-1].product_id if len(products) > query.limit else None
        return json_response({"products": page, "next_cursor": cursor})

    async def get_product(request: Request) -> Response:
        product_id = path_identifier(request, "product_id")
        return json_response(await database.reads.run(lambda connection: _existing(connection, product_id)))

    async def put_product(request: Request) -> Response:
        product_id = path_identifier(request, "product_id")

        async def put(connection: AsyncConn, body: ProductRequest, _: str | None) -> Answer:
            created = await store.put_product(
                connection, product_id, body.name, body.unit_price, body.currency, body.active
            )
            return answered(await _existing(connection, product_id), 201 if created else 200)

        return await change_once(request, database, f"product {product_id}", _product_decoder, put)

    async def post_restock(request: Request) -> Response:
        product_id = path_identifier(request, "product_id")

        async def restock(connection: AsyncConn, body: RestockRequest, key: str | None) -> Answer:
            try:
                product = await store.restock(connection, product_id, body.quantity, key)
            except store.UnknownProduct:
                raise ProblemError(problem.not_found("product", product_id)) from None
            except store.StockTooHigh:
                field = FieldError("#/quantity", f"would take the stock above {store.ON_HAND_MAX}")
                raise ProblemError(problem.validation(field)) from None
            # A restock whose answer was not kept, as earlier versions did not: it is answered with today's stock.
            return answered(product or await _existing(connection, product_id), 201, replayed=product is None)

        return await change_once(request, database, f"product {product_id}", _restock_decoder, restock)

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
