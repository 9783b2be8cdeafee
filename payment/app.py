"""Payment's HTTP interface: accounts, deposits, the ledger as the customer sees it."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from psycopg_pool import AsyncConnectionPool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.events import AMOUNT_MAX, Currency
from common.http import problem
from common.http.bodies import read_body
from common.http.parameters import idempotency_key, idempotency_key_reused, path_identifier
from common.http.problem import FieldError, ProblemError
from common.http.responses import json_response
from common.http.validation import decode_body, decode_query
from payment import store

LEDGER_PAGE_DEFAULT = 50
LEDGER_PAGE_MAX = 500
ENTRY_ID_MAX = 2**63 - 1


class DepositRequest(Struct, forbid_unknown_fields=True):
    amount: Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]
    currency: Currency


class LedgerQuery(Struct, forbid_unknown_fields=True):
    """A page of the ledger, newest first: the entries before the one with the id `cursor`."""

    cursor: Annotated[int, Meta(ge=1, le=ENTRY_ID_MAX)] = ENTRY_ID_MAX
    limit: Annotated[int, Meta(ge=1, le=LEDGER_PAGE_MAX)] = LEDGER_PAGE_DEFAULT


_deposit_decoder = msgspec.json.Decoder(DepositRequest)


def routes(pool: "AsyncConnectionPool[Any]") -> list[Route]:
    """The routes, served from connections of `pool`."""

    async def get_account(request: Request) -> Response:
        customer_id = path_identifier(request, "customer_id")
        async with pool.connection() as connection:
            found = await store.account(connection, customer_id)
        if found is None:
            raise ProblemError(problem.not_found("account", customer_id))
        return json_response(found)

    async def post_deposit(request: Request) -> Response:
        customer_id = path_identifier(request, "customer_id")
        key = idempotency_key(request)
        wanted = decode_body(await read_body(request), _deposit_decoder)
        async with pool.connection() as connection:
            try:
                credited = await store.deposit(connection, customer_id, wanted.amount, wanted.currency, key)
            except store.CurrencyDiffers as differs:
                found = FieldError("#/currency", f"must be {differs.currency}, the currency of the account")
                raise ProblemError(problem.validation(found)) from None
            except store.BalanceTooHigh:
                found = FieldError("#/amount", f"would take the balance past {store.BALANCE_MAX}")
                raise ProblemError(problem.validation(found)) from None
            if credited is not None:
                return json_response(credited, 201)
            return await _replay(connection, customer_id, str(key), wanted)

    async def get_ledger(request: Request) -> Response:
        customer_id = path_identifier(request, "customer_id")
        query = decode_query(request.query_params, LedgerQuery)
        async with pool.connection() as connection:
            if await store.account(connection, customer_id) is None:
                raise ProblemError(problem.not_found("account", customer_id))
            page = await store.entries(connection, customer_id, before=query.cursor, limit=query.limit)
        cursor = str(page[-1].entry_id) if len(page) == query.limit else None
        return json_response({"customer_id": customer_id, "entries": page, "next_cursor": cursor})

    base = "/api/v1/accounts/{customer_id}"
    return [
        Route(base, get_account),
        Route(base + "/deposits", post_deposit, methods=["POST"]),
        Route(base + "/ledger", get_ledger),
    ]


async def _replay(connection: store.AsyncConn, customer_id: str, key: str, wanted: DepositRequest) -> Response:
    """The key was used before: the same deposit is answered again, another one is refused."""
    made = await store.deposited(connection, customer_id, key)
    if made != (wanted.amount, wanted.currency):
        raise ProblemError(idempotency_key_reused(key, "another deposit of this customer"))
    found = await store.account(connection, customer_id)
    return json_response(found, 201, {"idempotency-replayed": "true"})
