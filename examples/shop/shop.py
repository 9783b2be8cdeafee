"""A client of the order api: place, wait, stream, cancel, page. Copy it; it needs nothing but httpx.

    TOKEN=$(just token customer cust-000001) python examples/shop/shop.py http://127.0.0.1:8081 cust-000001 sku-0001

A request that gets no answer may still have had its effect. So each request that changes something has an idempotency
key, and is sent again with the same key until it is answered. Choose the key before the first attempt, and store it
with the basket: whoever sends the basket again, even after a crash of the shop, gets the order that was placed first.
"""

import itertools
import json
import os
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx

TIMEOUT_S = 15.0
"""For one attempt. Longer than the api waits for the log, so that it answers first."""
PATIENCE_S = 60.0
"""For all attempts of a request together."""
PAUSE_S, PAUSE_MAX_S = 0.1, 5.0
POLL_S, POLL_MAX_S = 0.05, 1.0
DOUBLINGS_MAX = 10
"""Pauses have stopped growing by then. After a thousand doublings the number would be too large for a float."""
AGAIN = (408, 429)
"""Refusals that another attempt may not get, like every 5xx: too slow, and too many."""

Order = dict[str, Any]


class Refused(Exception):
    """The api has refused the request: sending it again would change nothing. `problem` is the RFC 9457 document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('title')}: {problem.get('detail') or problem.get('errors')}")
        self.status = status
        self.problem = problem


class Unanswered(Exception):
    """Nothing but failures within the patience. The request may have had its effect: send it again with its key."""


class Shop:
    """May be used from several threads."""

    def __init__(self, url: str, token: Callable[[], str] | None = None, patience_s: float = PATIENCE_S) -> None:
        """`token` returns the customer's token. It is called for each attempt, since a token expires."""

        def authorised(request: httpx.Request) -> httpx.Request:
            if token is not None:
                request.headers["authorization"] = f"Bearer {token()}"
            return request

        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=TIMEOUT_S, auth=authorised)
        self._patience_s = patience_s

    def close(self) -> None:
        self._http.close()

    def place(self, order: Order, key: str) -> Order:
        """Place an order, once however often it is sent with this key. Raises `Refused` and `Unanswered`."""
        return self._json("POST", "/orders", json=order, headers={"idempotency-key": key})

    def cancel(self, order_id: str, key: str) -> bool:
        """Ask for an order to be cancelled. False if it is too late. Raises `Refused` and `Unanswered`."""
        try:
            self._json("POST", f"/orders/{order_id}/cancel", headers={"idempotency-key": key})
        except Refused as refused:
            if refused.status == 409:
                return False
            raise
        return True

    def order(self, order_id: str) -> Order:
        """The order as it stands. Raises `Refused` and `Unanswered`."""
        return self._json("GET", f"/orders/{order_id}")

    def wait(self, order_id: str, within_s: float = PATIENCE_S, *, undone: bool = False) -> Order:
        """The order once it is settled: decided, paid or refunded, reserved or released. Raises `TimeoutError`.

        With `undone`, after `cancel`: until the cancellation is decided, a confirmed order is still that, and settled.
        """
        until_s = time.monotonic() + within_s
        for attempt in itertools.count():
            order = self.order(order_id)
            if order["settled"] and not (undone and order["status"] == "confirmed"):
                return order
            if time.monotonic() > until_s:
                break
            time.sleep(_doubled_s(POLL_S, attempt, POLL_MAX_S))
        raise TimeoutError(f"order {order_id} is not settled after {within_s:g} s")

    def stream(self, order_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What happens to the order, as it happens: each event's name and data. The last is `settled`, with the order.

        A stream that breaks goes on where it ended. Raises `Refused` and `Unanswered`.
        """
        last = ""
        until_s, attempt = time.monotonic() + self._patience_s, 0
        while True:
            pause_s = _jitter_s(attempt)
            try:
                headers = {"accept": "text/event-stream", "last-event-id": last}
                with self._http.stream("GET", f"/orders/{order_id}/events", headers=headers) as answer:
                    if answer.status_code == 200:
                        for event_id, name, data in _server_sent(answer.iter_lines()):
                            last, until_s, attempt = event_id, time.monotonic() + self._patience_s, 0
                            yield name, json.loads(data)
                            if name == "settled":
                                return
                    else:
                        answer.read()
                        pause_s += _check(answer)
            except httpx.TransportError:
                pass  # the process has ended; another one goes on
            if time.monotonic() + pause_s > until_s:
                raise Unanswered(f"the stream of order {order_id} does not go on")
            time.sleep(pause_s)
            attempt += 1

    def orders(self, customer_id: str, page: int = 100) -> Iterator[Order]:
        """All orders of a customer, newest first, page by page. Raises `Refused` and `Unanswered`."""
        query: dict[str, str | int] = {"customer_id": customer_id, "limit": page}
        while True:
            answer = self._json("GET", "/orders", params=query)
            yield from answer["orders"]
            if answer["next_cursor"] is None:
                return
            query["cursor"] = answer["next_cursor"]

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Send a request that may be repeated, until it is answered."""
        until_s = time.monotonic() + self._patience_s
        for attempt in itertools.count():
            pause_s = _jitter_s(attempt)
            try:
                answer = self._http.request(method, path, **request)
            except httpx.TransportError as error:  # refused, cut, or too late
                problem = repr(error)
            else:
                if answer.is_success:
                    return dict(answer.json())
                pause_s += _check(answer)
                problem = f"{answer.status_code} {answer.text}"
            if time.monotonic() + pause_s > until_s:
                raise Unanswered(f"{method} {path}: {attempt + 1} attempts, the last one: {problem}")
            time.sleep(pause_s)
        raise AssertionError  # the loop has no end


def _doubled_s(first_s: float, attempt: int, most_s: float) -> float:
    return min(first_s * (1 << min(attempt, DOUBLINGS_MAX)), most_s)


def _jitter_s(attempt: int) -> float:
    """Full jitter: clients that failed together come back apart."""
    return random.uniform(0, _doubled_s(PAUSE_S, attempt, PAUSE_MAX_S))


def _check(answer: httpx.Response) -> float:
    """The seconds that the api asks to wait before the next attempt. Raises `Refused` if there should be none."""
    if answer.status_code < 500 and answer.status_code not in AGAIN:
        raise Refused(answer.status_code, answer.json())
    retry_after = answer.headers.get("retry-after", "")
    return float(retry_after) if retry_after.isdecimal() else 0.0


def _server_sent(lines: Iterator[str]) -> Iterator[tuple[str, str, str]]:
    """The events of a stream: id, name and data. One that is cut off is left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")  # a comment has no name
            continue
        if "data" in fields:
            yield fields.get("id", ""), fields.get("event", "message"), fields["data"]
        fields = {}


def main() -> None:
    url, customer_id, product_id = sys.argv[1:]
    token = os.environ.get("TOKEN", "")
    shop = Shop(url, (lambda: token) if token else None)
    order = {"customer_id": customer_id, "product_id": product_id, "quantity": 1}
    placed = shop.place(order, key=f"basket-{uuid.uuid4()}")
    print("placed", placed["order_id"], placed["amount"], placed["currency"])
    for name, event in shop.stream(placed["order_id"]):
        print(" ", name, event["status"] if name == "settled" else f"after {event['after_ms']} ms")
    print("waited:", shop.wait(placed["order_id"])["status"])
    if shop.cancel(placed["order_id"], key=f"cancel-{placed['order_id']}"):
        print("after the cancellation:", shop.wait(placed["order_id"], undone=True)["status"])
    print("orders of", customer_id, [entry["status"] for entry in shop.orders(customer_id)][:5])
    shop.close()


if __name__ == "__main__":
    main()
