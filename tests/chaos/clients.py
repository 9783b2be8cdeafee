"""The customers of a chaos run: they order steadily, retry as the documents tell them to, and keep what they were told.

With a key a client repeats its request until it has an answer, and that is one order. Without one it sends an order
again only when it was told that nothing was placed; told that the outcome is unknown, it asks for the order later; not
told anything, it can't know, and that is counted.
"""

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from tests.chaos.arena import CUSTOMERS, PRODUCTS, SCARCE_PRODUCTS, Arena

TIMEOUT_S: Final = 15.0
RETRY_S: Final = (0.05, 0.5)
ASK_AFTER_S: Final = 11.0  # the order api says: ask for it after 10 s
GIVE_UP_S: Final = 120.0
NDJSON: Final = "application/x-ndjson"
SINGLES_PER_S: Final = 24
BATCHES_PER_S: Final = 4

Body = dict[str, Any]


class Told:
    """What the clients were told, by any of them. The ids go to a file at once: it outlives this process."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.accepted: set[str] = set()
        self.keyed: set[str] = set()
        self.denied: set[str] = set()
        """Orders with an unknown outcome, of which it was said later that they are not there."""
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        """Answers that break a promise."""
        self._lock = threading.Lock()
        self._lines = file.open("a", buffering=1)

    def accept(self, order_ids: Iterable[str], *, keyed: bool) -> None:
        with self._lock:
            fresh = [order_id for order_id in order_ids if order_id not in self.accepted]
            self.accepted.update(fresh)
            if keyed:
                self.keyed.update(fresh)
            self._lines.writelines(f"{order_id}\n" for order_id in fresh)

    def deny(self, order_id: str) -> None:
        with self._lock:
            self.denied.add(order_id)

    def count(self, what: str, times: int = 1) -> None:
        with self._lock:
            self.counts[what] += times

    def close(self) -> None:
        self._lines.close()

    def complain(self, what: str) -> None:
        with self._lock:
            self.wrong.append(what)


class Answer(NamedTuple):
    """The status, 0 for none at all, and what was said."""

    status: int
    said: Any

    @property
    def order_id(self) -> str:
        return str(self.said.get("order_id", ""))


class Client(threading.Thread):
    """One customer after another, at a rate, until told to stop; what is under way is then brought to its end."""

    def __init__(self, name: str, arena: Arena, told: Told, seed: int, per_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self.told = told
        self._url = arena.url("order-api", "/orders")
        self._every_s = 1 / per_s
        self._stopping = threading.Event()
        self._draw = random.Random(f"{seed}/{name}")
        self._numbers = itertools.count()
        self._http = httpx.Client(timeout=TIMEOUT_S)
        self.failure: BaseException | None = None

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        try:
            due = time.monotonic()
            while not self._stopping.wait(max(0.0, due - time.monotonic())):
                self.step()
                due = max(due + self._every_s, time.monotonic() - 1)  # what was missed is not made up for
            self.finish()
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self.close()

    def close(self) -> None:
        self._http.close()

    def step(self) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """What is still to be asked."""

    def body(self, prefix: str) -> Body:
        """Most orders can be filled; some are declined, out of stock, or from nobody."""
        draw = self._draw
        chance = draw.random()
        product = f"scarce-{draw.randrange(SCARCE_PRODUCTS)}" if chance < 0.05 else f"sku-{draw.randrange(PRODUCTS)}"
        customer = f"{prefix}-nobody" if 0.05 <= chance < 0.07 else f"{prefix}-{draw.randrange(CUSTOMERS)}"
        if chance < 0.8:
            return {"customer_id": customer, "product_id": product, "quantity": draw.randint(1, 3)}
        lines = [{"product_id": f"sku-{draw.randrange(PRODUCTS)}", "quantity": draw.randint(1, 3)} for _ in range(3)]
        return {"customer_id": customer, "items": lines}

    def key(self) -> str:
        return f"{self.name}-{next(self._numbers)}"

    def ask(self, method: str, path: str = "", **given: Any) -> Answer:
        try:
            answer = self._http.request(method, f"{self._url}{path}", **given)
        except httpx.HTTPError:
            self.told.count("requests without an answer")
            return Answer(0, {})
        lines = answer.headers.get("content-type") == NDJSON
        return Answer(answer.status_code, answer.text if lines else answer.json())

    def post(self, body: Body, key: str | None = None) -> Answer:
        return self.ask("POST", json=body, headers={"idempotency-key": key} if key else {})

    def rest(self) -> None:
        time.sleep(self._draw.uniform(*RETRY_S))

    def until_answered(self, body: Body, key: str) -> str:
        """The order that a key stands for, however often it takes."""
        known = ""
        for _ in self.tries(key):
            answer = self.post(body, key)
            if known and answer.order_id not in ("", known):
                self.told.complain(f"key {key} stands for {known}, then for {answer.order_id}")
            known = known or answer.order_id
            if answer.status == 202:
                return answer.order_id
            if answer.status not in (0, 503):
                self.told.complain(f"{answer.status} for an order with key {key}: {answer.said}")
                return ""
        return ""

    def tries(self, what: str) -> Iterator[None]:
        until = time.monotonic() + GIVE_UP_S
        while time.monotonic() < until:
            yield
            self.told.count("repeats")
            self.rest()
        self.told.complain(f"no answer within {GIVE_UP_S:.0f} s: {what}")

    def follow(self, order_id: str) -> None:
        """Some look their order up at once, some think better of it."""
        chance = self._draw.random()
        if chance < 0.05:
            self.look_up(order_id)
        elif chance < 0.1:
            self.cancel(order_id)

    def look_up(self, order_id: str) -> None:
        if self.ask("GET", f"/{order_id}").status == 404:
            self.told.complain(f"404 for {order_id} after it was acknowledged")

    def cancel(self, order_id: str) -> None:
        status = self.ask("POST", f"/{order_id}/cancel").status
        self.told.count("cancellations", status == 202)
        if status not in (0, 202, 409, 503):
            self.told.complain(f"{status} for the cancellation of {order_id}")


class Keyed(Client):
    """Orders with a key; now and then twice, as when a button is pressed again."""

    def step(self) -> None:
        body, key = self.body("keyed"), self.key()
        order_id = self.until_answered(body, key)
        if not order_id:
            return
        self.told.accept([order_id], keyed=True)
        if self._draw.random() < 0.05:
            again = self.until_answered(body, key)
            if again not in ("", order_id):
                self.told.complain(f"key {key} was {order_id}, and {again} when it came again")
        self.follow(order_id)


class Unkeyed(Client):
    """Orders without a key."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._unknown: list[tuple[float, str]] = []

    def step(self) -> None:
        self.resolve(time.monotonic())
        body = self.body("free")
        for _ in self.tries("an order without a key"):
            answer = self.post(body)
            if answer.status == 202:
                self.told.accept([answer.order_id], keyed=False)
                self.follow(answer.order_id)
                return
            if self.give_up(answer):
                return

    def give_up(self, answer: Answer) -> bool:
        """Whether the outcome is not known, so that the order must not be sent again."""
        if answer.status == 0:
            self.told.count("orders whose outcome nobody told")
        elif answer.order_id:
            self._unknown.append((time.monotonic() + ASK_AFTER_S, answer.order_id))
        elif answer.status != 503:
            self.told.complain(f"{answer.status} for an order: {answer.said}")
        else:
            return False
        return True

    def resolve(self, now_s: float) -> None:
        """Ask for the orders whose outcome was unknown."""
        while self._unknown and self._unknown[0][0] <= now_s:
            _, order_id = self._unknown.pop(0)
            status = self.ask("GET", f"/{order_id}").status
            if status == 200:
                self.told.accept([order_id], keyed=False)
            elif status == 404:
                self.told.deny(order_id)
            else:
                self._unknown.append((now_s + 1, order_id))
                return

    def finish(self) -> None:
        until = time.monotonic() + GIVE_UP_S
        while self._unknown and time.monotonic() < until:
            self.resolve(time.monotonic())
            self.rest()


class Batches(Client):
    """Batches in which every line has a key: whatever is not answered is sent again as it was."""

    def __init__(self, name: str, arena: Arena, told: Told, seed: int, per_s: float, lines: int) -> None:
        super().__init__(name, arena, told, seed, per_s)
        self._lines = lines

    def step(self) -> None:
        self.place([self.body("keyed") | {"idempotency_key": self.key()} for _ in range(self._lines)])

    def place(self, lines: Sequence[Mapping[str, Any]]) -> list[str]:
        """The orders that the lines stand for."""
        placed: list[str] = []
        for _ in self.tries(f"a batch of {len(lines)}"):
            answer = self.ask(
                "POST", "/batch", content="\n".join(map(json.dumps, lines)), headers={"content-type": NDJSON}
            )
            if answer.status == 200:
                results = [json.loads(line) for line in answer.said.splitlines()]
                accepted = [result["order_id"] for result in results if result["status"] == 202]
                self.told.accept(accepted, keyed=True)
                placed += accepted
                lines = [line for line, result in zip(lines, results, strict=True) if result["status"] == 503]
                for result in results:
                    if result["status"] not in (202, 503):
                        self.told.complain(f"a line of a batch was answered with {result}")
            elif answer.status not in (0, 503):
                self.told.complain(f"{answer.status} for a batch: {answer.said}")
            if not lines:
                break
        return placed


class Crowd:
    """All of them, offering so many orders a second."""

    def __init__(self, arena: Arena, told: Told, seed: int, per_s: int) -> None:
        lines = max(1, round((per_s - SINGLES_PER_S) / BATCHES_PER_S))
        self._clients: list[Client] = [
            *(Keyed(f"k{seed}-{n}", arena, told, seed, SINGLES_PER_S / 8) for n in range(4)),
            *(Unkeyed(f"u{seed}-{n}", arena, told, seed, SINGLES_PER_S / 8) for n in range(4)),
            *(Batches(f"b{seed}-{n}", arena, told, seed, BATCHES_PER_S / 4, lines) for n in range(4)),
        ]

    def start(self) -> None:
        for client in self._clients:
            client.start()

    def stop(self) -> None:
        """Place nothing new, and wait until all that was begun has its answer. Raises what a client has died of."""
        for client in self._clients:
            client.stop()
        for client in self._clients:
            client.join()
        for client in self._clients:
            if client.failure is not None:
                raise client.failure
