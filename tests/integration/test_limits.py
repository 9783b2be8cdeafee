"""One greedy customer and many modest ones at an api that asks for credentials."""

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httpx

from tests.guarded import Guarded
from tests.integration.conftest import draw

CONNECTIONS: Final = 8
GREEDY_REQUESTS: Final = 640
MODEST: Final = 100
PER_S: Final = 50
AT_ONCE: Final = 200


def place(guarded: Guarded, customer: str, product: str, times: int) -> list[httpx.Response]:
    """Orders of a customer, one after the other on one connection."""
    headers = {"authorization": f"Bearer {guarded.issuer.token(customer)}"}
    order = {"customer_id": customer, "product_id": product, "quantity": 1}
    with httpx.Client(timeout=30, trust_env=False) as client:
        url = guarded.url("order-api", "/api/v1/orders")
        return [client.post(url, json=order, headers=headers) for _ in range(times)]


def statuses(answers: Sequence[Sequence[httpx.Response]]) -> Counter[int]:
    return Counter(answer.status_code for each in answers for answer in each)


def test_one_greedy_customer_keeps_no_modest_one_out(guarded: Guarded, product: str) -> None:
    greedy, began = draw("greedy"), time.monotonic()
    with ThreadPoolExecutor(2 * CONNECTIONS) as pool:
        share = GREEDY_REQUESTS // CONNECTIONS
        greedily = [pool.submit(place, guarded, greedy, product, share) for _ in range(CONNECTIONS)]
        modestly = [pool.submit(place, guarded, draw("modest"), product, 1) for _ in range(MODEST)]
        modest_answers = [each.result() for each in modestly]
        greedy_answers = [each.result() for each in greedily]
    took_s = time.monotonic() - began
    assert statuses(modest_answers) == {202: MODEST}
    counts = statuses(greedy_answers)
    assert set(counts) <= {202, 429}
    assert AT_ONCE <= counts[202] <= AT_ONCE + PER_S * took_s + 1
    for answer in (answer for each in greedy_answers for answer in each if answer.status_code == 429):
        assert answer.json()["type"] == "/problems/rate-limited"
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["ratelimit-policy"] == f'"customer";q={AT_ONCE};w=4'


def test_lines_of_many_orders_count_and_the_rest_can_be_sent_later(guarded: Guarded, product: str) -> None:
    customer = draw("lines")
    line = f'{{"customer_id":"{customer}","product_id":"{product}","quantity":1}}\n'
    headers = {"authorization": f"Bearer {guarded.issuer.token(customer)}", "content-type": "application/x-ndjson"}
    url = guarded.url("order-api", "/api/v1/orders/batch")
    answer = guarded.http.post(url, content=line * (AT_ONCE + 100), headers=headers)
    assert answer.status_code == 200
    results = [result.split('"status":')[1][:3] for result in answer.text.splitlines()]
    accepted = results.count("202")
    assert AT_ONCE <= accepted < AT_ONCE + 100, "the bucket fills meanwhile"
    assert results == ["202"] * accepted + ["429"] * (AT_ONCE + 100 - accepted)
