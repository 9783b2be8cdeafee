"""Whatever creates value has an entry in the audit, in the same transaction, which the service cannot take back."""

import json
from typing import Any

import httpx
import psycopg
import pytest

from common.postgres import connect
from tests.guarded import Guarded
from tests.integration.conftest import BALANCE, PRICE, draw
from tests.stack import Stack
from tests.waiting import eventually

EURO = {"amount": 5, "currency": "EUR"}


def entries(stack: Stack, target: str) -> list[dict[str, Any]]:
    """What `just audit` lists of a target."""
    return [json.loads(line) for line in stack.run_tool("ops.audit", "--json", "--target", target).splitlines()]


def deposit(stack: Stack, customer: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return stack.http.post(stack.url("payment", f"/accounts/{customer}/deposits"), json=body, headers=named)


def test_a_deposit_has_one_entry_however_often_it_is_sent_and_a_refused_one_has_none(
    stack: Stack, customer: str
) -> None:
    for number in range(3):
        assert deposit(stack, customer, EURO, idempotency_key="k", x_request_id=f"r-{number}").status_code == 201
    assert deposit(stack, customer, {**EURO, "currency": "USD"}).status_code == 422
    assert deposit(stack, customer, {**EURO, "amount": 2**53 - 1}).status_code == 422
    first, second = entries(stack, customer)
    assert (first["act"], first["target"], first["result"]) == ("deposit", f"account {customer}", f"balance {BALANCE}")
    assert second.pop("acted_at") >= first["acted_at"]
    assert second.pop("entry_id") > first["entry_id"]
    assert second == {
        "service": "payment", "act": "deposit", "target": f"account {customer}",
        "principal": "anonymous", "kind": "anonymous", "request_id": "r-0", "credential": None,
        "detail": {**EURO, "idempotency_key": "k"}, "result": f"balance {BALANCE + 5}",
    }  # fmt: skip
    assert f"audit: deposit account {customer}" in stack["payment-1"].log.read_text()


def test_an_entry_names_the_principal_and_its_credential(guarded: Guarded, customer: str) -> None:
    token = guarded.issuer.token("ann", "merchant", claims={"jti": "t-7"})
    key = guarded.key("shop", "merchant")
    account = f"/api/v1/accounts/{customer}"
    eventually(lambda: guarded.ask("payment", "GET", account, key).is_success, "the key is known")
    path = f"{account}/deposits"
    for credentials in (token, key):
        assert guarded.ask("payment", "POST", path, credentials, body=EURO).status_code == 201
    assert guarded.ask("payment", "POST", path, guarded.issuer.token(customer), body=EURO).status_code == 403
    named = [(each["principal"], each["kind"], each["credential"]) for each in entries(guarded.stack, customer)]
    assert named == [("anonymous", "anonymous", None), ("ann", "token", "t-7"), ("shop", "key", key.split("_")[1])]


def test_a_product_and_its_stock_have_entries_for_what_changed(stack: Stack) -> None:
    product = draw("sku")
    stack.product(product, price=PRICE)
    stack.product(product, price=PRICE)  # the same again changes nothing
    stack.product(product, price=2 * PRICE, pieces=7)
    stack.product(product, price=2 * PRICE, active=False)
    restocks = stack.url("inventory", f"/products/{product}/restocks")
    assert stack.http.post(restocks, json={"quantity": 2**53 - 1}).status_code == 422
    assert [(entry["act"], entry["result"]) for entry in entries(stack, product)] == [
        ("create-product", "created"),
        ("change-price", f"was {PRICE} EUR"),
        ("restock", "on hand 7"),
        ("change-product", "changed"),
    ]


def test_what_cannot_be_recorded_is_not_done(stack: Stack, customer: str) -> None:
    with stack.postgres.connect("payment") as owner:
        owner.execute(f"ALTER TABLE audit ADD CONSTRAINT full_up CHECK (target <> 'account {customer}') NOT VALID")
        try:
            assert deposit(stack, customer, EURO, idempotency_key="k").status_code == 500
        finally:
            owner.execute("ALTER TABLE audit DROP CONSTRAINT full_up")
    assert stack.balance(customer) == BALANCE
    assert deposit(stack, customer, EURO, idempotency_key="k").status_code == 201


@pytest.mark.parametrize("service", ["order", "payment", "inventory"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET principal = 'somebody else'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "DROP TABLE audit",
        """INSERT INTO audit (acted_at, principal, kind, act, target, detail, result)
        VALUES ('2020-01-01', 'ann', 'user', 'deposit', 'account x', '{}', '')""",
    ],
    ids=["update", "delete", "truncate", "drop", "backdate"],
)
def test_a_service_cannot_change_or_backdate_the_audit(stack: Stack, service: str, statement: str) -> None:
    url = stack.variables[f"{service.upper()}_DATABASE_URL"]
    with connect(url, "test") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())
