"""What payment offers over HTTP."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from common.auth.access import own, scopes
from common.auth.principal import AUDITOR, MERCHANT, OPERATOR
from common.currencies import ActiveCurrency
from common.events import AMOUNT_MAX, Identifier
from common.http import problem
from common.http.contract.operation import LINK_NEXT, Answer, Body, Operation
from common.http.contract.service import Contract
from payment.store import AccountView, EntryView

ENTRY_ID_MAX: Final = 2**63 - 1
TAG: Final = "accounts"
ACCOUNTS_PATH: Final = "/api/v1/accounts/{customer_id}"
READ: Final = own(MERCHANT, OPERATOR, AUDITOR)
_CUSTOMER_ID: Final = {"customer_id": Identifier}


class DepositRequest(Struct, forbid_unknown_fields=True):
    """Money for a customer's account; the first deposit opens it. `amount` is in minor units."""

    amount: Annotated[int, Meta(ge=1, le=AMOUNT_MAX, description="minor units")]
    currency: ActiveCurrency


class LedgerQuery(Struct, forbid_unknown_fields=True):
    """A page of the ledger, newest first: the entries before the one with the id `cursor`."""

    cursor: Annotated[int, Meta(ge=1, le=ENTRY_ID_MAX, description="the next_cursor of the page before")] = ENTRY_ID_MAX
    limit: Annotated[int, Meta(ge=1, le=500)] = 50


class LedgerPage(Struct, frozen=True):
    """A customer's ledger, newest first. `next_cursor` is null on the last page."""

    customer_id: str
    entries: list[EntryView]
    next_cursor: str | None


_ACCOUNT: Final = AccountView("cust-000001", 996_002, "EUR")
_ENTRY: Final = EntryView(
    100_003, "capture", -3_998, "EUR", "019ab7a2-5c1e-7d60-8f00-2b1f6c0a9e11", "2026-11-23T04:09:36.809Z"
)

ACCOUNT: Final = Operation(
    method="GET", path=ACCOUNTS_PATH, id="getAccount", tag=TAG, access=READ, conditional=True,
    summary="Look an account up", parameters=_CUSTOMER_ID,
    answers=(Answer(status=200, kind=AccountView, example=_ACCOUNT),),
    problems=(problem.NOT_FOUND, problem.UNAVAILABLE),
)  # fmt: skip
DEPOSIT: Final = Operation(
    method="POST", path=f"{ACCOUNTS_PATH}/deposits", id="deposit", tag=TAG, access=scopes(MERCHANT),
    summary="Deposit money; the first deposit opens the account", parameters=_CUSTOMER_ID,
    key="the same key and body are the same deposit. A key belongs to its path",
    body=Body(kind=DepositRequest, examples={"10 EUR": DepositRequest(1_000, "EUR")}),
    answers=(Answer(status=201, kind=AccountView, example=_ACCOUNT),),
    problems=(problem.NOT_FOUND, problem.UNAVAILABLE),
)  # fmt: skip
LEDGER: Final = Operation(
    method="GET", path=f"{ACCOUNTS_PATH}/ledger", id="listLedger", tag=TAG, access=READ, conditional=True,
    summary="List what changed an account's balance, newest first", parameters=_CUSTOMER_ID, query=LedgerQuery,
    answers=(
        Answer(
            status=200, kind=LedgerPage, headers=(LINK_NEXT,), example=LedgerPage("cust-000001", [_ENTRY], None),
        ),
    ),
    problems=(problem.NOT_FOUND, problem.UNAVAILABLE),
)  # fmt: skip

CONTRACT: Final = Contract(
    "Tandem payment",
    "Accounts of customers, deposits, and the ledger. Amounts are whole numbers of minor units (cents).",
    (ACCOUNT, DEPOSIT, LEDGER),
)
