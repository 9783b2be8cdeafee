"""What inventory offers over HTTP."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from common.auth.access import scopes
from common.auth.principal import MERCHANT, SCOPES
from common.currencies import ActiveCurrency
from common.events import Identifier, UnitPrice
from common.http import problem
from common.http.contract.operation import LINK_NEXT, Answer, Body, Operation
from common.http.contract.service import Contract
from inventory.store import ProductView

TAG: Final = "products"
PRODUCTS_PATH: Final = "/api/v1/products"
_PRODUCT_ID: Final = {"product_id": Identifier}

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
    active: Annotated[bool, Meta(description="whether it can be ordered")]


class RestockRequest(Struct, forbid_unknown_fields=True):
    """Pieces that come into stock."""

    quantity: Annotated[int, Meta(ge=1, le=10**9)]


class ProductsQuery(Struct, forbid_unknown_fields=True):
    """A page of products, in the order of their ids: those after `cursor`."""

    cursor: Identifier | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 50


class ProductPage(Struct, frozen=True):
    """Products in the order of their ids. `next_cursor` is null on the last page."""

    products: list[ProductView]
    next_cursor: str | None


_PRODUCT: Final = ProductView("sku-0001", "Oak tray, small", 1_999, "EUR", True, 999_998)

PRODUCTS: Final = Operation(
    method="GET", path=PRODUCTS_PATH, id="listProducts", tag=TAG, access=scopes(*SCOPES), conditional=True,
    summary="List products, in the order of their ids", query=ProductsQuery,
    answers=(
        Answer(status=200, kind=ProductPage, headers=(LINK_NEXT,), example=ProductPage([_PRODUCT], "sku-0001")),
    ),
    problems=(problem.UNAVAILABLE,),
)  # fmt: skip
PRODUCT: Final = Operation(
    method="GET", path=f"{PRODUCTS_PATH}/{{product_id}}", id="getProduct", tag=TAG, access=scopes(*SCOPES),
    conditional=True,
    summary="Look a product up", parameters=_PRODUCT_ID,
    answers=(Answer(status=200, kind=ProductView, example=_PRODUCT),),
    problems=(problem.NOT_FOUND, problem.UNAVAILABLE),
)  # fmt: skip
PUT_PRODUCT: Final = Operation(
    method="PUT", path=f"{PRODUCTS_PATH}/{{product_id}}", id="putProduct", tag=TAG, access=scopes(MERCHANT),
    summary="Make a product, or change its entry in the catalogue", parameters=_PRODUCT_ID,
    key="the same key and body are the same change. A key belongs to its path",
    body=Body(kind=ProductRequest, examples={"a tray": ProductRequest("Oak tray, small", 1_999, "EUR", True)}),
    answers=(
        Answer(status=200, kind=ProductView, description="the product was changed", example=_PRODUCT),
        Answer(status=201, kind=ProductView, description="the product was made", example=_PRODUCT),
    ),
    problems=(problem.NOT_FOUND, problem.UNAVAILABLE),
)  # fmt: skip
RESTOCK: Final = Operation(
    method="POST", path=f"{PRODUCTS_PATH}/{{product_id}}/restocks", id="restock", tag=TAG, access=scopes(MERCHANT),
    summary="Add pieces to a product's stock", parameters=_PRODUCT_ID,
    key="the same key and body are the same restock. A key belongs to its path",
    body=Body(kind=RestockRequest, examples={"10 pieces": RestockRequest(10)}),
    answers=(Answer(status=201, kind=ProductView, example=_PRODUCT),),
    problems=(problem.NOT_FOUND, problem.UNAVAILABLE),
)  # fmt: skip

CONTRACT: Final = Contract(
    "Tandem inventory",
    "Products with their prices and stock. Prices are whole numbers of minor units (cents).",
    (PRODUCTS, PRODUCT, PUT_PRODUCT, RESTOCK),
)
