"""The console against the real log, databases and services."""

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Producer

from common.kafka.clients import client_config
from tests.console import Listener, RunningConsole
from tests.integration.conftest import draw
from tests.stack import Stack
from tests.waiting import eventually


@pytest.fixture(scope="module")
def console(stack: Stack) -> Iterator[RunningConsole]:
    running = RunningConsole(stack)
    running.start()
    yield running
    running.http.close()
    running.stop()


@pytest.fixture(scope="module")
def tab(console: RunningConsole) -> Iterator[Listener]:
    listener = Listener(console)
    yield listener
    listener.close()


def place(console: RunningConsole, customer: str, product: str, quantity: int = 1) -> str:
    body = {"customer_id": customer, "product_id": product, "quantity": quantity}
    answer = console.post("/api/orders", body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["order_id"])


def settled(console: RunningConsole, order_id: str) -> dict[str, Any]:
    """The story of an order once it is settled."""

    def told() -> dict[str, Any] | None:
        answer = console.http.get(f"/api/orders/{order_id}")
        story: dict[str, Any] = answer.json()
        return story if answer.status_code == 200 and story["settled_at"] else None

    return eventually(told, f"order {order_id} is settled")


def test_an_order_is_placed_found_and_told_from_all_sides(
    console: RunningConsole, stack: Stack, product: str, customer: str
) -> None:
    order_id = place(console, customer, product, 3)
    story = settled(console, order_id)
    assert story["status"] == "confirmed"
    assert story["payment"]["state"] == "completed"
    assert [(entry["kind"], entry["amount"]) for entry in story["ledger"]] == [("capture", 300)]
    assert story["payment"]["balance"] == stack.balance(customer)
    assert story["reservation"]["items"] == [{"product_id": product, "quantity": 3}]
    assert {(stage["event"], stage["topic"]) for stage in story["stages"]} == {
        ("order.placed", "orders"),
        ("payment.completed", "payments"),
        ("inventory.reserved", "inventory"),
        ("order.confirmed", "outcomes"),
    }
    assert (story["parked"], story["unread"]) == ([], {})
    for search in ({"customer_id": customer}, {"order_id": order_id}, {"order_id": order_id[:23]}):
        found = console.get("/api/orders", **search)
        assert order_id in [row["order_id"] for row in found["orders"]]
    placed_at = story["placed_at"]
    between = {"customer_id": customer, "status": "confirmed", "since": placed_at, "until": placed_at + 1}
    assert [row["order_id"] for row in console.get("/api/orders", **between)["orders"]] == [order_id]
    assert console.get("/api/orders", customer_id=customer, reason="deadline")["orders"] == []


def test_the_raw_events_of_an_order_come_from_the_log(console: RunningConsole, product: str, customer: str) -> None:
    order_id = place(console, customer, product)
    settled(console, order_id)
    told = console.get(f"/api/orders/{order_id}/events")
    types = {event["text"].split('"type":"')[1].split('"')[0] for event in told["events"]}
    assert types == {"order.placed", "payment.completed", "inventory.reserved", "order.confirmed"}
    assert all(stage["in_log"] and stage["offset"] is not None for stage in told["story"]["stages"])
    assert [movement["kind"] for movement in told["story"]["movements"]] == ["reserve"]
    assert all(event["key"] == customer and order_id in event["text"] for event in told["events"])


def test_pages_of_orders_follow_one_another(console: RunningConsole, product: str, customer: str) -> None:
    placed = [place(console, customer, product) for _ in range(5)]
    for order_id in placed:
        settled(console, order_id)
    found, after = [], None
    while True:
        page = console.get("/api/orders", customer_id=customer, limit=2, **({"after": after} if after else {}))
        found += [row["order_id"] for row in page["orders"]]
        after = page["next"]
        if after is None:
            break
    assert found == sorted(placed, reverse=True)


def test_what_the_order_api_refuses_is_answered_as_it_said_it(console: RunningConsole, customer: str) -> None:
    answer = console.post("/api/orders", {"customer_id": customer, "product_id": draw("sku"), "quantity": 0})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert "#/quantity" in answer.text
    assert console.http.get("/api/orders/nothing").status_code == 404
    assert console.http.get("/api/orders/01997c00-5a5a-7000-8000-00000000beef").status_code == 404


def test_the_stream_shows_rates_lag_and_every_instance(
    console: RunningConsole, tab: Listener, stack: Stack, product: str, customer: str
) -> None:
    tab.await_message("hello", lambda hello: hello["can_break"] is False, "a tab is told what it may do")
    for _ in range(20):
        place(console, customer, product)
    names = set(stack.instances)

    def complete(flow: dict[str, Any]) -> bool:
        consumers = [i for i in flow["instances"] if i["service"] != "order-api"]
        return (
            {i["name"] for i in flow["instances"] if i["state"] == "ready"} == names
            and all(i["partitions"] for i in consumers)
            and not flow["problems"]
            and all(arrow["lag_records"] == 0 for arrow in flow["arrows"])
            and sum(flow["outcomes"]["counts"].values()) > 0
            and flow["latency"]["accept"]["count"] > 0
        )

    tab.await_message("flow", complete, "the flow is complete and drained")
    assert len(tab.newest["flow"]["arrows"]) == 5


def test_lag_grows_while_payment_is_away_and_the_statements_stay_green(
    console: RunningConsole, tab: Listener, stack: Stack, product: str, customer: str
) -> None:
    settled(console, place(console, customer, product))
    tab.await_message("proof", lambda proof: proof["verdict"] == "proved", "the statements are proved")
    stack["payment-1"].stop()
    try:
        order_id = place(console, customer, product)

        def behind(flow: dict[str, Any]) -> bool:
            [arrow] = [a for a in flow["arrows"] if (a["group"], a["topic"]) == ("payment", "orders")]
            [instance] = [i for i in flow["instances"] if i["service"] == "payment"]
            return bool(arrow["lag_records"] and arrow["lag_s"] and instance["state"] == "down")

        tab.await_message("flow", behind, "payment's lag grows")
        rounds = tab.newest["proof"]["rounds"]
        proof = tab.await_message("proof", lambda p: p if p["rounds"] > rounds else None, "the proof goes on")
        assert proof["verdict"] == "proved"
        eventually(
            lambda: console.metrics()['tandem_group_members{group="payment"}'] == 0 and console.metrics(),
            "the broker says so too",
        )
        late = console.metrics()
        assert late['tandem_reader_lag_records{group="payment",topic="orders"}'] == 1
        assert late['tandem_reader_lag_seconds{group="payment",topic="orders"}'] > 0
        # The saga holds an order for a while before it is in its database.
        eventually(lambda: console.metrics()["tandem_oldest_unsettled_seconds"] > 0, "the order is unsettled")
    finally:
        stack["payment-1"].start()
        stack.await_ready("payment-1")
    assert settled(console, order_id)["status"] == "confirmed"
    tab.await_message("flow", lambda flow: all(a["lag_records"] == 0 for a in flow["arrows"]), "the lag drains")


def test_its_metrics_say_what_no_service_can_say_of_itself(console: RunningConsole) -> None:
    sources = [f'tandem_source_up{{source="{name}"}}' for name in ("kafka", "order", "payment", "inventory")]
    violations = [f'tandem_proof_violations{{statement="{number}"}}' for number in range(1, 7)]

    def calm(now: dict[str, float]) -> bool:
        return (
            all(now.get(source) for source in sources)
            and [now.get(name) for name in violations] == [0] * 6
            and now["tandem_proof_age_seconds"] < 60
            and now.get("tandem_oldest_unsettled_seconds") == 0
            and now["tandem_disk_free_bytes"] > 0
        )

    eventually(lambda: calm(console.metrics()), "all is well", last_words=console.metrics)


def test_a_position_past_the_end_of_an_idle_partition_is_seen(console: RunningConsole, stack: Stack) -> None:
    """Its consumer finds that out with the next record or assignment, and so must the alert before."""
    name = 'tandem_reader_past_end_records{group="inventory",topic="orders"}'
    move = "UPDATE positions SET next_offset = next_offset {} 1000 WHERE topic = 'orders' AND partition = 0"
    eventually(lambda: console.metrics().get(name) == 0, "it is at the end")
    with stack.postgres.connect("inventory") as owner:
        owner.execute(move.format("+").encode())
        try:
            eventually(lambda: console.metrics()[name] == 1000, "it is past the end")
        finally:
            owner.execute(move.format("-").encode())
    eventually(lambda: console.metrics()[name] == 0, "it is at the end again")


def test_a_full_proof_runs_in_the_background(console: RunningConsole, tab: Listener) -> None:
    answer = console.post("/api/verify", {})
    assert answer.status_code == 202
    job = console.await_job(answer.json())
    assert job["note"].partition(":")[0] in ("proved", "unproven")
    tab.await_message("proof", lambda proof: proof["full"], "the full proof is shown")
    tab.await_message("job", lambda job: job["state"] == "done", "its end is shown")


def test_dead_letters_are_listed_shown_and_discarded(console: RunningConsole, stack: Stack) -> None:
    customer = draw("cust")
    producer = Producer(client_config(stack.brokers, "test"))
    producer.produce("orders", b"not an event \x00<script>\xff", customer)
    producer.flush()

    def parked() -> list[dict[str, Any]] | None:
        listed = console.get("/api/dead-letters", customer=customer)
        return listed["events"] if listed["total"] == 3 else None

    events = eventually(parked, "all three services have parked it")
    assert {event["service"] for event in events} == {"order", "payment", "inventory"}
    pages = console.get("/api/dead-letters", customer=customer, limit=2)
    rest = console.get("/api/dead-letters", customer=customer, limit=2, after=pages["next"])
    assert pages["events"] + rest["events"] == events
    assert console.get("/api/dead-letters", customer=customer, error="no such error")["total"] == 0
    shown = console.get(f"/api/dead-letters/payment/{events[0]['record'].replace('/', '%2F')}")
    assert shown["text"] == "not an event \\x00<script>\\xff"

    named = [{"service": event["service"], "record": event["record"]} for event in events]
    act = {"act": "discard", "why": "written by a test", "events": named}
    would = console.post("/api/dead-letters/acts", act | {"dry_run": True}).json()
    assert (would["would_change"], would["refused"]) == (3, 0)
    redrive = {"act": "redrive", "dry_run": True, "filter": {"customer": customer}}
    would = console.post("/api/dead-letters/acts", redrive).json()
    assert (would["would_change"], [result["result"] for result in would["results"]]) == (3, ["marked"] * 3)
    assert console.get("/api/dead-letters", customer=customer, state="parked")["total"] == 3
    assert console.post("/api/dead-letters/acts", act | {"why": ""}).status_code == 422
    by_filter = {"act": "discard", "why": "written by a test", "filter": {"customer": customer}}
    job = console.await_job(console.post("/api/dead-letters/acts", by_filter).json())
    assert [result["result"] for result in job["results"]] == ["marked"] * 3
    eventually(lambda: console.get("/api/dead-letters", customer=customer)["total"] == 0, "they are done")
    [recorded] = console.get(f"/api/dead-letters/payment/{events[0]['record']}")["acts"]
    assert (recorded["act"], recorded["why"]) == ("discard", "written by a test")
    again = console.await_job(console.post("/api/dead-letters/acts", act).json())
    assert [result["result"] for result in again["results"]] == ["unchanged"] * 3


def test_no_page_of_another_site_can_do_anything(console: RunningConsole) -> None:
    foreign = {"origin": "http://evil.example"}
    assert console.post("/api/verify", {}, **foreign).status_code == 403
    assert console.post("/api/verify", {}, origin=f"http://127.0.0.1:{console.port + 1}").status_code == 403
    assert console.http.get("/api/jobs", headers={"host": "evil.example"}).status_code == 421
    plain = {"content-type": "text/plain"}
    assert console.http.post("/api/verify", content="{}", headers=plain).status_code == 415
    assert console.post("/api/jobs/none/stop", {}, origin=console.url).status_code == 404


def test_break_it_is_refused_on_a_stack_that_just_did_not_start(console: RunningConsole) -> None:
    assert console.post("/api/break", {"act": "stop", "target": "payment"}).status_code == 403
    assert console.post("/api/load", {"shape": "load"}).status_code == 403
