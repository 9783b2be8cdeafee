"""Made-up documents of the console's contract."""

from typing import Any, Final

Json = dict[str, Any]

NOW: Final = 1_795_910_400_000
SERVICES: Final = ("order-api", "order-saga", "payment", "inventory")
ORDER: Final = "01a20698-5702-759d-bf21-11993ae5d7ab"
TEXTS: Final = (
    ("every order in the log has its row, its payment and its stock decision", "orders"),
    ("every balance is what its ledger says, and not below zero", "accounts"),
    ("every stock is what its movements say, and not below zero", "products"),
    ("confirmed means captured and reserved, all else no net money or stock", "settled orders"),
    ("nothing is decided twice", "decisions"),
    ("nothing waits for ever, and what is parked is listed", "unsettled orders and parked events"),
)
ARROWS: Final = (
    ("payment", "orders"), ("inventory", "orders"), ("order-saga", "orders"), ("order-saga", "payments"),
    ("order-saga", "inventory"),
)  # fmt: skip
EVIL: Final = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
"""A text that must be shown as it is."""


def hello(can_break: bool = True) -> Json:
    return {
        "stack": "native" if can_break else "compose", "can_break": can_break,
        "services": SERVICES, "targets": [*SERVICES, "kafka", "postgres"] if can_break else [], "instances_max": 9,
        "shapes": ["load", "stress", "spike"], "statuses": ["pending", "confirmed", "rejected", "cancelled"],
        "reasons": ["insufficient_funds", "out_of_stock", "deadline"],
        "statements": [{"statement": n, "text": text, "counted": of} for n, (text, of) in enumerate(TEXTS, 1)],
        "at": NOW,
    }  # fmt: skip


def session(actor: str = "ana (console)", by: str = "anonymous", may: tuple[str, ...] = ("act", "place")) -> Json:
    """Who uses the page."""
    return {"actor": actor, "by": by, "may": may, "ends_at": None}


def latency(p50_ms: float, count: int) -> Json:
    return {"p50_ms": p50_ms, "p95_ms": p50_ms * 1.8, "p99_ms": p50_ms * 2.9, "count": count}


def flow(payment_lag: int = 0, payment_lag_s: float = 0.0, payment: str = "ready") -> Json:
    def arrow(group: str, topic: str) -> Json:
        lag, lag_s = (payment_lag, payment_lag_s) if group == "payment" else (0, 0.0)
        partitions = [
            {"partition": n, "position": 2000 - lag // 6, "end": 2000, "lag_records": lag // 6, "lag_s": lag_s}
            for n in range(6)
        ]
        return {
            "group": group, "topic": topic, "out_s": 0.0 if lag else 240.5, "lag_records": lag, "lag_s": lag_s,
            "partitions": partitions,
        }  # fmt: skip

    def instance(service: str) -> Json:
        state = payment if service == "payment" else "ready"
        busy = service != "order-api"
        return {
            "name": f"{service}-1", "service": service, "state": state,
            "missing": [] if state == "ready" else ["does not answer: connection refused"], "degraded": [],
            "partitions": [f"orders/{n}" for n in range(6)] if busy else None, "batches_s": 3.0 if busy else None,
            "records_s": 240.5 if busy else None, "records_per_batch": 80.2 if busy else None,
            "batch_ms": 6.1 if busy else None, "published_s": 120.0 if busy else None,
            "last_batch_s": 0.3 if busy else None,
        }  # fmt: skip

    return {
        "at": NOW, "problems": {},
        "api": {"accepted_s": 120.4, "refused_s": 0.0, "failed_s": 0.0, "in_flight": 3, "backlog": 12 + payment_lag,
                "wait_s": 0.2},
        "topics": [{"topic": topic, "in_s": 240.5, "end": 12345} for topic in ("orders", "payments", "inventory")],
        "arrows": [arrow(*each) for each in ARROWS],
        "outcomes": {"window_s": 60, "orders": 500,
                     "counts": {"confirmed": 480, "pending": 3, "rejected: out_of_stock": 17}},
        "parked": {"order": 0, "payment": 2, "inventory": 0}, "stopped": {},
        "instances": [instance(service) for service in SERVICES],
        "latency": {"accept": latency(4.1, 12345), "settle": latency(31.5, 12333)},
    }  # fmt: skip


def point(number: int) -> Json:
    return {
        "at": NOW - 900_000 + number * 10_000, "accept": latency(4 + number % 3, 1200),
        "settle": latency(30 + number % 7, 1200), "lag_records": number % 5, "lag_s": 0.1 * (number % 5),
        "accepted_s": 120.0,
    }  # fmt: skip


def proof(violations: int = 0) -> Json:
    return {
        "at": NOW, "rounds": 17, "verdict": "violated" if violations else "proved", "took_s": 0.12,
        "statements": [
            {"statement": n, "text": text, "counted": of, "checked": 1234, "violations": violations if n == 4 else 0,
             "unproven": 0, "proved_at": NOW, "reasons": [], "every_s": 30.0 if n in (2, 3, 6) else 5.0,
             "light": "The newest orders. The full proof also checks all others."}
            for n, (text, of) in enumerate(TEXTS, 1)
        ],
        "offenders": [{"statement": 4, "subject": f"order {ORDER}", "problem": EVIL}] if violations else [],
        "full": None,
    }  # fmt: skip


def full_proof() -> Json:
    statements = [{"statement": n, "checked": 5000, "violations": 0, "unproven": 0, "reasons": []} for n in range(1, 7)]
    return {
        "at": NOW, "verdict": "proved", "took_s": 2.5, "records": 16000, "statements": statements, "offenders": [],
        "notes": ["3 orders were still on their way"],
    }  # fmt: skip


def stream() -> dict[str, Json]:
    return {
        "hello": hello(),
        "history": {"every_s": 10, "points": [point(number) for number in range(90)]},
        "flow": flow(),
        "proof": proof(),
    }


def job(kind: str, state: str = "running", **more: Any) -> Json:
    return {
        "id": f"{kind}-1", "kind": kind, "title": f"a {kind}", "state": state, "started_at": NOW,
        "ended_at": None if state == "running" else NOW + 5000, "expected_s": None, "done": 3, "total": 10,
        "note": "a line of progress", "output": [], "can_stop": kind in ("verify", "load"), **more,
    }  # fmt: skip


def row(number: int = 0, **more: Any) -> Json:
    return {
        "order_id": ORDER[:-6] + f"{number:06x}", "customer_id": "cust-000001", "status": "confirmed", "reason": None,
        "amount": 3998, "currency": "EUR", "payment": "completed", "inventory": "reserved", "placed_at": NOW,
        "decided_at": NOW + 34, "settled_at": NOW + 34, **more,
    }  # fmt: skip


def orders(count: int = 40, *, first: int = 0) -> Json:
    return {
        "orders": [row(number) for number in range(first, first + count)],
        "next": None, "searched": count, "searched_to": NOW,
    }  # fmt: skip


STAGES: Final = (
    ("order.placed", "orders", 0, None, 0), ("inventory.reserved", "inventory", 32, 32, 7),
    ("payment.completed", "payments", 34, 34, 9), ("order.confirmed", "outcomes", 36, 2, None),
)  # fmt: skip


def story(stages: int = 4, log: bool = False) -> Json:
    """An order of which so many stages have happened, as the databases know it, or the `log` too."""
    settled = stages == len(STAGES)
    known = row(order_id=ORDER) if settled else row(order_id=ORDER, status="pending", decided_at=None, settled_at=None)
    decided = {"reason": None, "revoked_at": None}
    return {
        **{name: known[name] for name in ("order_id", "customer_id", "status", "reason", "amount", "currency",
                                          "placed_at", "decided_at", "settled_at")},
        "trace_id": ORDER.replace("-", ""), "caller_span_id": None, "idempotency_key": "basket-17" if log else None,
        "items": [{"product_id": "sku-0001", "quantity": 2, "unit_price": 1999}],
        "stages": [
            {"event": event, "topic": topic, "at": NOW + after, "after_ms": after, "took_ms": took, "partition": 5,
             "offset": 1 if log and offset is None else offset, "in_log": log or None, "repeat": False,
             "unread_by": ["payment"] if stages < 3 and event == "order.placed" else []}
            for event, topic, after, took, offset in STAGES[:stages]
        ],
        "payment": None if stages < 3 else {**decided, "state": "completed", "amount": 3998, "currency": "EUR",
                                            "balance": 996002, "decided_at": NOW + 34},
        "ledger": [] if stages < 3 else [{"entry_id": 100003, "kind": "capture", "amount": 3998, "currency": "EUR",
                                          "recorded_at": NOW + 34}],
        "reservation": None if stages < 2 else {**decided, "state": "reserved", "decided_at": NOW + 32,
                                                "items": [{"product_id": "sku-0001", "quantity": 2}]},
        "movements": [{"movement_id": 77, "kind": "reserve", "quantity": 2, "product_id": "sku-0001",
                       "recorded_at": NOW + 32}] if log else [],
        "parked": [], "unread": {},
    }  # fmt: skip


def raw_events() -> Json:
    text = f'{{"specversion":"1.0","id":"{ORDER}:order.placed:1","data":{{"note":"\\u003cb\\u003e"}}}}'
    event = {"topic": "orders", "partition": 5, "offset": 0, "at": NOW, "key": "cust-000001", "text": text,
             "bytes": 512, "truncated": False}  # fmt: skip
    return {"events": [event], "story": story(log=True)}


def parked(number: int) -> Json:
    return {
        "service": "payment", "record": f"orders/3@{number}", "topic": "orders", "partition": 3, "offset": number,
        "topic_id": "bE1lwQ7ITZa9kXn2gU0v5A", "customer": f"cust-{number:06}", "root": number % 2 == 0,
        "state": "parked", "attempts": 1, "parked_at": NOW, "record_at": NOW - 500, "type": "order.placed",
        "bytes": 512, "error": f"the amount is out of range; {EVIL}",
    }  # fmt: skip


def dead_letters(count: int = 12) -> Json:
    return {
        "events": [parked(number) for number in range(count)], "next": None, "total": count, "stops": [],
        "problems": {},
    }  # fmt: skip


def dead_letter(record: str) -> Json:
    return parked(17) | {
        "record": record, "key": "cust-000017", "text": f"{EVIL}\\xff\\x00", "truncated": False,
        "acts": [{"act": "redrive", "actor": "ana", "why": "the cause is removed", "acted_at": NOW}],
    }  # fmt: skip


def results(*numbers: int) -> list[Json]:
    return [
        {"service": "payment", "record": f"orders/3@{number}", "result": "marked", "count": 1, "detail": ""}
        for number in numbers
    ]
