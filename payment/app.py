"""Payment's HTTP interface: accounts, deposits, and the customer's ledger."""

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from common.audit.entry import Entry
from common.auth.guard import confined_to
from common.database import Database
from common.events import DepositData, account_deposited, now
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
from payment import store
from payment.operations import ACCOUNT, DEPOSIT, LEDGER, DepositRequest, LedgerPage, LedgerQuery

_deposit_decoder: Final = msgspec.json.Decoder(DepositRequest)


def endpoints(database: Database, deposits: Outbox) -> dict[Operation, Endpoint]:
    """The endpoint of each operation, served from this database. Deposits go into the log."""

    async def get_account(request: Request) -> Response:
        customer_id = _customer(request)
        return json_response(await database.reads.read(lambda connection: _existing(connection, customer_id)))

    async def post_deposit(request: Request) -> Response:
        customer_id = _customer(request)
        author = author_of(request)

        async def deposit(connection: AsyncConn, body: DepositRequest, key: str | None) -> Change:
            deposit_key = key or new_key()
            try:
                account = await store.deposit(connection, customer_id, body.amount, body.currency, deposit_key)
            except store.CurrencyDiffers as error:
                field = FieldError("#/currency", f"must be {error.currency}, the currency of the account")
                raise ProblemError(problem.validation(field)) from None
            except store.BalanceTooHigh:
                field = FieldError("#/amount", f"would take the balance above {store.BALANCE_MAX}")
                raise ProblemError(problem.validation(field)) from None
            if account is None:
                # A deposit whose answer was not kept, as earlier versions did not: it is answered with today's balance.
                return Change(answered(await _existing(connection, customer_id), 201, replayed=True), None)
            detail = {"amount": body.amount, "currency": body.currency, "idempotency_key": key}
            entry = Entry("deposit", f"account {customer_id}", detail, f"balance {account.balance}")
            data = DepositData(
                customer_id=customer_id,
                amount=body.amount,
                currency=body.currency,
                key=deposit_key,
                by=author.principal,
                known_by=author.kind,
            )
            return Change(answered(account, 201), entry, account_deposited(data, at=now()))

        into = (deposits, customer_id)
        return await change_once(request, database, f"account {customer_id}", _deposit_decoder, deposit, into)

    async def get_ledger(request: Request) -> Response:
        customer_id = _customer(request)
        query = decode_query(request.query_params, LedgerQuery)

        async def read(connection: AsyncConn) -> list[store.EntryView]:
            await _existing(connection, customer_id)
            # One entry more than asked for shows whether there is a next page.
            return await store.entries(connection, customer_id, before=query.cursor, limit=query.limit + 1)

        entries = await database.reads.read(read)
        page = entries[: query.limit]
        cursor = str(page[-1].entry_id) if len(entries) > query.limit else None
        return json_response(LedgerPage(customer_id, page, cursor), headers=next_page(request, cursor))

    return {ACCOUNT: get_account, DEPOSIT: post_deposit, LEDGER: get_ledger}


async def _existing(connection: AsyncConn, customer_id: str) -> store.AccountView:
    account = await store.account(connection, customer_id)
    if account is None:
        raise ProblemError(problem.not_found("account", customer_id))
    return account


def _customer(request: Request) -> str:
    """The customer in the path. Raises `ProblemError` 404 for another than the one to whom the request is confined, as
    if there were no such account."""
    customer_id = path_identifier(request, "customer_id")
    if confined_to(request.scope) not in (None, customer_id):
        raise ProblemError(problem.not_found("account", customer_id))
    return customer_id
