"""The crash points. A point is a place in the code, named from outside: before or after a call of some function.

So the code that is killed contains nothing of this, and a function that is renamed makes a unit test fail.
"""

from dataclasses import dataclass
from typing import Final, Literal

Scene = Literal[
    "fresh",  # a tool on a broker and a PostgreSQL where there is nothing yet
    "load",  # a service under load; if its point is at its start, unread orders wait in the log
    "join",  # the same, and another instance joins
    "stop",  # the same, and it is told to stop
    "poison",  # the same, and an event comes that can never be processed
    "redrive",  # the same, and an operator redrives the events behind a discarded one
    "outbox",  # the same, and what was entered over HTTP has to get into the log
    "overdue",  # the same, with payment away and a deadline of seconds
    "restored",  # a tool, when payment's database has been restored from a backup
    "rest",  # a tool, when nothing is under way
]


@dataclass(frozen=True, slots=True)
class Point:
    """Where a process dies: at the `passage`th call of `target`, before it or after it has returned.

    `target` is written `module:function`, `module:Class.method`. With `following`, a call counts only if it is the
    thread's first one since `following` returned. `pause_s` is how long the process stands still there before it
    dies, so that the records it has given to a client library reach the broker, and no process reads the answer.
    """

    name: str
    process: str
    """A service, or the arguments of `python -m` for a tool."""
    at: Literal["before", "after"]
    target: str
    passage: int = 1
    following: str = ""
    pause_s: float = 0
    scene: Scene = "load"


_SESSION: Final = "common.consume.loop:Session"
_ANSWERED: Final = "common.kafka.produce.producer:Producer._answered"
"""The log has what was sent, and nobody has seen that it says so."""
_PUBLISH: Final = "common.kafka.publisher:Publisher.publish"
_ASYNC_PUBLISHER: Final = "common.kafka.async_publisher:AsyncPublisher"
_OUTBOX: Final = "common.kafka.outbox:Outbox"
_DEADLINE_PASSED: Final = "order.saga.deadlines:DeadlineTimer._deadline_passed"
_SENT_S: Final = 0.05

_ALL: Final = (
    # Tools on nothing
    Point("migrate-roles-made", "ops.migrate", "after", "psycopg:Connection.execute", 8, scene="fresh"),
    Point("migrate-one-of-three", "ops.migrate", "after", "subprocess:run", scene="fresh"),
    Point(
        "topics-requested", "ops.topics create", "after", "confluent_kafka.admin:AdminClient.create_topics",
        pause_s=0.2, scene="fresh",
    ),
    Point("demo-accounts-uncommitted", "payment load-demo", "after", "psycopg:Connection.execute", scene="fresh"),
    Point("demo-products-committed", "inventory load-demo", "after", "inventory.store:load_demo", scene="fresh"),
    # Payment
    Point("payment-connected", "payment", "before", f"{_SESSION}._describe"),
    Point("payment-polled", "payment", "before", f"{_SESSION}._process_batch", 5),
    Point("payment-copied", "payment", "after", "payment.consumer:Batch.store", 9),
    Point(
        "payment-commit-sent", "payment", "before", "common.pipeline:_results", 6,
        following="common.pipeline:queue_commit", pause_s=_SENT_S,
    ),
    Point("payment-committed", "payment", "after", f"{_SESSION}._store", 8),
    Point("payment-results-sent", "payment", "before", _ANSWERED, 7),
    Point("payment-offsets-committed", "payment", "after", "common.consume.inbox:Consumer.commit", 4, pause_s=_SENT_S),
    Point("payment-revoked", "payment", "before", "common.consume.inbox:Inbox._revoked", scene="join"),
    Point("payment-parking", "payment", "after", "common.consume.parking:park", scene="poison"),
    Point(
        "payment-redrive-decided", "payment", "before", f"{_SESSION}._publish", 2,
        following="common.consume.redrive:decode_again", scene="redrive",
    ),
    Point("payment-deposit-committed", "payment", "after", "payment.store:deposit", 2),
    Point("outbox-committed", "payment", "before", f"{_OUTBOX}.publish", 2, scene="outbox"),
    # Inventory and its relay
    Point("inventory-starts-found", "inventory", "after", "common.consume.positions:starts"),
    Point("inventory-half-copied", "inventory", "after", "inventory.store:insert_reservations", 6),
    Point("inventory-results-buffered", "inventory", "before", "common.kafka.produce.producer:Producer._ask", 7),
    Point(
        "inventory-redrive-published", "inventory", "after", f"{_SESSION}._publish", 2,
        following="common.consume.redrive:decode_again", scene="redrive",
    ),
    Point("inventory-restock-committed", "inventory", "after", "inventory.store:restock", 2),
    Point("outbox-acknowledged", "inventory", "after", f"{_OUTBOX}.publish", 2, scene="outbox"),
    Point("relay-fenced", "inventory", "after", "inventory.relay:fence"),
    Point("relay-transaction-open", "inventory", "before", "inventory.relay:Producer.commit_transaction", 2,
          pause_s=_SENT_S),
    Point("relay-published", "inventory", "after", "inventory.relay:publish", 2),
    Point("relay-marked", "inventory", "after", "inventory.relay_store:mark_published", 2),
    # The saga and its timer
    Point("saga-assigned", "order-saga", "after", "common.consume.inbox:Inbox._assigned"),
    Point("saga-decided", "order-saga", "after", "order.saga.consumer:SagaHandler.decide", 12),
    Point("saga-copied", "order-saga", "after", "order.saga.consumer:Batch.store", 10),
    Point("saga-committed", "order-saga", "after", f"{_SESSION}._store", 14),
    Point("saga-outcomes-sent", "order-saga", "before", _ANSWERED, 11),
    Point("saga-outcomes-acknowledged", "order-saga", "after", _PUBLISH, 13),
    Point("saga-leaving", "order-saga", "before", "common.consume.inbox:Inbox.close", scene="stop"),
    Point("saga-redrive-undecided", "order-saga", "after", "common.consume.redrive:set_state", 2,
          following="common.consume.redrive:decode_again", scene="redrive"),
    Point("deadline-unpublished", "order-saga", "after", _DEADLINE_PASSED, 3, scene="overdue"),
    Point("deadline-published", "order-saga", "after", _PUBLISH, following=_DEADLINE_PASSED, scene="overdue"),
    # The api
    Point("api-catalogue-half-read", "order-api", "after", "order.api.log.catalogue:Edition.apply", 500),
    Point("api-key-stored", "order-api", "after", "order.api.place.keyed_requests:_insert", 20),
    Point("api-order-lingering", "order-api", "after", "order.api.log.orders_log:OrdersLog.send", 30),
    Point("api-order-sent", "order-api", "before", _ANSWERED, 30),
    Point("api-order-acknowledged", "order-api", "after", "order.api.log.orders_log:OrdersLog.fate", 31),
    # The loop sends what was written to a connection when it comes round again.
    Point("api-order-answered", "order-api", "before", f"{_ASYNC_PUBLISHER}._send_lingering", 32,
          following="order.api.place.fast_lane:FastLane._answer_accepted"),
    Point("api-cancel-acknowledged", "order-api", "after", "order.api.log.orders_log:OrdersLog.request_cancel", 3),
    Point("api-batch-half-sent", "order-api", "after", "order.api.place.many:PlaceMany._place_chunk"),
    Point("api-draining", "order-api", "before", "order.api.log.orders_log:OrdersLog.close", scene="stop"),
    # Tools on a stack that has a history
    Point("replay-undecided", "ops.replay payment --why restored", "after", "ops.replay.payment:restore",
          scene="restored"),
    Point("replay-not-moved-back", "ops.replay payment --why restored", "before",
          "confluent_kafka.admin:AdminClient.alter_consumer_group_offsets", scene="restored"),
    Point("topics-trimmed", "ops.topics trim", "after", "confluent_kafka.admin:AdminClient.delete_records",
          pause_s=0.2, scene="rest"),
)  # fmt: skip
POINTS: Final = {point.name: point for point in _ALL}
