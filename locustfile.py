"""Locust users that behave like customers of Tandem: they order, look up, cancel and list.

`just locust` opens the web UI, where you choose the shape; `just load`, `stress`, `spike` and `soak` run one shape
without the UI and pass or fail. Locust is good for shapes of load; `just bench` measures what Tandem can do. The
difference is explained in docs/PERFORMANCE.md.
"""

import os
import random
from collections import deque
from pathlib import Path
from ssl import SSLContext, create_default_context
from typing import Any

from locust import FastHttpUser, LoadTestShape, between, events, run_single_user, task

from bench.load import shapes

ORDERS = "/api/v1/orders"
CUSTOMERS = 100_000
PRODUCTS = 1_000
REMEMBERED = 50
# The recipes set these: the shape to run, the file for the ids of accepted orders, and one with a merchant's token.
SHAPE = os.environ.get("TANDEM_SHAPE", "")
ACCEPTED_FILE = os.environ.get("TANDEM_ACCEPTED_FILE", "")
AUTHORITY = os.environ.get("TLS_CA_FILE", "")
TOKEN_FILE = os.environ.get("TANDEM_TOKEN_FILE", "")

_headers = {"authorization": f"Bearer {Path(TOKEN_FILE).read_text().strip()}"} if TOKEN_FILE else {}
_accepted = open(ACCEPTED_FILE, "a", buffering=1) if ACCEPTED_FILE else None  # noqa: SIM115 - open as long as Locust runs


def trusting(cafile: str | None = None) -> SSLContext:
    """What verifies the server. The client names the machine's authorities; the stack's own takes their place."""
    return create_default_context(cafile=AUTHORITY or cafile)


class Customer(FastHttpUser):
    """70 steps in 100 place an order, 20 look one up, 7 list orders and 3 cancel one."""

    wait_time = between(0.5, 1.5)
    ssl_context_factory = staticmethod(trusting)
    default_headers = _headers

    def on_start(self) -> None:
        self.customer_id = f"cust-{random.randrange(CUSTOMERS):06}"
        self.orders: deque[str] = deque(maxlen=REMEMBERED)

    @task(70)
    def order(self) -> None:
        product_id = f"sku-{random.randrange(PRODUCTS):04}"
        body = {"customer_id": self.customer_id, "product_id": product_id, "quantity": 1}
        with self.client.post(ORDERS, json=body, catch_response=True) as answer:
            if answer.status_code != 202:
                answer.failure(f"{answer.status_code}: {answer.text or answer.error}")
                return
            order_id = answer.json()["order_id"]
            self.orders.append(order_id)
            if _accepted is not None:
                _accepted.write(f"{order_id}\n")

    @task(20)
    def look_up(self) -> None:
        if not self.orders:
            return
        order_id = random.choice(self.orders)
        with self.client.get(f"{ORDERS}/{order_id}", name=f"{ORDERS}/[id]", catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code}: {answer.text}")
            elif answer.json()["order_id"] != order_id:
                answer.failure(f"asked for {order_id}, got {answer.text}")

    @task(7)
    def list_orders(self) -> None:
        self.client.get(f"{ORDERS}?customer_id={self.customer_id}&limit=20", name=f"{ORDERS}?customer_id=[id]")

    @task(3)
    def cancel(self) -> None:
        if not self.orders:
            return
        order_id = self.orders.popleft()
        url, name = f"{ORDERS}/{order_id}/cancel", f"{ORDERS}/[id]/cancel"
        with self.client.post(url, name=name, catch_response=True) as answer:
            # 409: the order was rejected before, say for lack of money. That is an answer, not a failure.
            if answer.status_code == 409:
                answer.success()


class Shape(LoadTestShape):
    """Runs the shape of `bench.load.shapes` that the class is named after. Locust offers all that are not abstract."""

    abstract = True
    shape: str

    def __init_subclass__(cls) -> None:
        cls.shape = cls.__name__.lower()
        cls.abstract = SHAPE not in ("", cls.shape)

    def tick(self) -> tuple[int, float] | None:
        return shapes.users_at(self.shape, self.get_run_time())  # type: ignore[no-untyped-call]


class Load(Shape):
    """10 users for a minute."""


class Stress(Shape):
    """From 0 to 100 users."""


class Spike(Shape):
    """First 0, 50 and 0 users, then 50, 500 and 50."""


class Soak(Shape):
    """10 users, until it is stopped."""

    def tick(self) -> tuple[int, float] | None:
        options = self.runner.environment.parsed_options if self.runner else None
        run_time = options.run_time if options else None
        return None if run_time and self.get_run_time() > run_time else super().tick()  # type: ignore[no-untyped-call]


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def judge(environment: Any, **_: Any) -> None:
    """Set the exit code of a run without the UI, and print its verdict below Locust's tables."""
    if not SHAPE:
        return
    total = environment.stats.total
    p95_ms = total.get_response_time_percentile(0.95) or 0.0
    why = shapes.verdict(total.num_requests, total.num_failures, p95_ms)
    p50_ms, p99_ms = total.median_response_time, total.get_response_time_percentile(0.99) or 0.0
    figures = (
        f"{SHAPE}: {total.num_requests} requests, {total.num_failures} failed; "
        f"p50 {p50_ms:.0f} ms, p95 {p95_ms:.0f} ms, p99 {p99_ms:.0f} ms"
    )
    if environment.runner.cpu_warning_emitted:
        figures += " (Locust used its whole core, so its own queue is in these latencies)"
    text = f"{figures}: {'FAILED, ' + why if why else 'passed'}"
    events.quit.add_listener(lambda **_: print(text, flush=True))
    environment.process_exit_code = 1 if why else 0


if __name__ == "__main__":
    run_single_user(Customer)
