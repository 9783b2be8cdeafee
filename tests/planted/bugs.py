"""The bugs, by where they are planted. Each replaces a text that occurs once in its file.

`checks` are tests by their pytest ids, cheapest first; a file stands for all that is in it.
"""

from typing import Final, NamedTuple

_SAGA: Final = ("tests/unit/test_saga.py", "tests/model/test_model.py")
_PAYMENT: Final = ("tests/unit/test_payment_decide.py", "tests/model/test_model.py")
_STOCK: Final = ("tests/unit/test_inventory_decide.py", "tests/model/test_model.py")


def _delivery(test: str) -> tuple[str, ...]:
    return (f"tests/faults/test_delivery.py::{test}",)


class Bug(NamedTuple):
    """`old` in `file` becomes `new`."""

    name: str
    breaks: str
    file: str
    old: str
    new: str
    checks: tuple[str, ...]


BUGS: Final = (
    # The saga's rules
    Bug(
        "late-result-dropped",
        "a result that comes after the decision is dropped for ever: the order never settles",
        "order/saga/decide.py",
        "    if _PROGRESS[event.state] <= _PROGRESS[order.payment]:",
        '    if order.status in ("rejected", "cancelled") or _PROGRESS[event.state] <= _PROGRESS[order.payment]:',
        _SAGA,
    ),
    Bug(
        "early-result-dropped",
        "a result that comes before its order is dropped",
        "order/saga/decide.py",
        "        return rule(order or _awaiting(event), event, at)",
        "        return rule(order or _awaiting(event), event, at) if order or type(event) is OrderPlaced else None",
        _SAGA,
    ),
    Bug(
        "side-moves-backward",
        "an old result that is published again undoes a release",
        "order/saga/decide.py",
        "    if _PROGRESS[event.state] <= _PROGRESS[order.inventory]:",
        "    if event.state == order.inventory:",
        _SAGA,
    ),
    Bug(
        "confirmed-when-paid",
        "an order is confirmed before its stock is decided",
        "order/saga/decide.py",
        '    if order.payment == "completed" and order.inventory == "reserved":',
        '    if order.payment == "completed":',
        _SAGA,
    ),
    Bug(
        "cancelled-stays-settled",
        "a confirmed order that is cancelled counts as settled before its money is back",
        "order/saga/decide.py",
        "return order if order.settled_at is None else msgspec.structs.replace(order, settled_at=None)",
        "return order",
        _SAGA,
    ),
    Bug(
        "deadline-by-own-clock",
        "a process whose clock is wrong cancels orders that are in time",
        "order/saga/decide.py",
        "    return order.placed_at is not None and at - order.placed_at >= event.data.deadline_ms",
        "    from time import time\n\n"
        "    return order.placed_at is not None and time() * 1000 - order.placed_at >= event.data.deadline_ms",
        _SAGA,
    ),
    # Payment's rules
    Bug(
        "captured-again",
        "an order that is sent again is charged again: it is known within its batch only",
        "payment/decide.py",
        "                if before is not None:\n",
        "                if order_id in changed:\n",
        _PAYMENT,
    ),
    Bug(
        "refund-truncates-cents",
        "a refund is rounded down to whole units",
        "payment/decide.py",
        "            amount=payment.amount,",
        "            amount=payment.amount and payment.amount // 100 * 100,",
        _PAYMENT,
    ),
    Bug(
        "paid-never-refunded",
        "a paid order whose stock fails keeps the money",
        "payment/decide.py",
        "            case OrderRejected() | OrderCancelled():",
        "            case OrderCancelled():",
        _PAYMENT,
    ),
    Bug(
        "refunded-twice",
        "a revocation that comes again refunds again",
        "payment/decide.py",
        '    if payment.state == "completed":',
        '    if payment.state in ("completed", "refunded"):',
        _PAYMENT,
    ),
    Bug(
        "balance-read-once-a-batch",
        "two orders of one batch are both paid from the same money",
        "payment/decide.py",
        "balance = balances.get(customer_id, account.balance if account else 0)",
        "balance = account.balance if account else 0",
        _PAYMENT,
    ),
    # Inventory's rules
    Bug(
        "reserved-again",
        "an order that is sent again is reserved again: it is known within its batch only",
        "inventory/decide.py",
        "                if before is not None:\n",
        "                if order_id in changed:\n",
        _STOCK,
    ),
    Bug(
        "release-before-reserve-forgotten",
        "a revocation that comes before its order leaves no mark, and the later reservation leaks",
        "inventory/decide.py",
        "                if after is before:",
        "                if before is None or after is before:",
        _STOCK,
    ),
    Bug(
        "another-quantity-released",
        "only one piece comes back, however many were reserved",
        "inventory/decide.py",
        "on_hand[product_id] = level(product_id, products, on_hand) + line.quantity",
        "on_hand[product_id] = level(product_id, products, on_hand) + 1",
        _STOCK,
    ),
    Bug(
        "lines-judged-apart",
        "two lines of one product are each measured against the whole stock: oversold",
        "inventory/decide.py",
        "lines = per_product(data.items)",
        "lines = tuple(Line(item.product_id, item.quantity) for item in data.items)",
        _STOCK,
    ),
    Bug(
        "bucket-taken-for-the-stock",
        "an order is rejected although other buckets have the pieces",
        "inventory/decide.py",
        '                if reason == "out_of_stock" and not all(is_whole(line, products) for line in lines):\n',
        '                if reason == "out_of_stock" and not lines:\n',
        ("tests/unit/test_inventory_decide.py",),
    ),
    # The order api
    Bug(
        "float-money",
        "an amount that passes through a float loses a cent",
        "order/api/place/desk.py",
        "amount += line.quantity * product.unit_price",
        "amount += int(line.quantity * (product.unit_price / 100) * 100)",
        ("tests/unit/test_place.py",),
    ),
    Bug(
        "accepted-before-acknowledged",
        "202 is answered before the log has the order",
        "order/api/place/desk.py",
        "await self._log.acknowledged(OrderId(event.subject), event.partitionkey, sent)",
        "del sent",
        ("tests/unit/test_place.py",),
    ),
    Bug(
        "keyed-accepted-before-acknowledged",
        "202 is answered to an order with a key before the log has it",
        "order/api/place/fast_lane.py",
        "sent.add_done_callback(partial(self._acknowledged_with_key, kept, request_id, began))",
        "self._answer_kept(kept, request_id, began)",
        ("tests/unit/test_fast_lane.py",),
    ),
    Bug(
        "repriced-event-published",
        "a request that is sent again is published at today's price, under another id",
        "order/api/place/idempotency.py",
        "order_id, customer_id, value = first.order_id, begun.customer_id, first.event",
        "order_id, customer_id, value = first.order_id, begun.customer_id, encode(draft)",
        ("tests/unit/test_idempotency.py",),
    ),
    Bug(
        "key-scoped-globally",
        "one customer's key gives another one that customer's order",
        "order/api/place/idempotency.py",
        "KeyedRequest(request.customer_id, key, first)",
        'KeyedRequest("", key, first)',
        ("tests/unit/test_idempotency.py",),
    ),
    Bug(
        "any-version-taken",
        "a lower version of a product that is read later sets an old price",
        "order/api/log/catalogue.py",
        "product.version > earlier.version",
        "product.version != earlier.version",
        ("tests/unit/test_catalogue.py",),
    ),
    Bug(
        "refused-by-the-log-and-accepted",
        "an order that the log refused is answered with 202",
        "common/kafka/async_publisher.py",
        "            future.set_exception(KafkaException(error))",
        "            future.set_result(Acknowledged(-1, -1, 0))",
        _delivery("test_an_order_that_the_log_does_not_take_is_not_accepted"),
    ),
    # The producer
    Bug(
        "silence-taken-for-an-acknowledgement",
        "a batch counts as stored although the connection ended before the log said so",
        "common/kafka/produce/partition.py",
        "        self.batch.perhaps_stored = True\n        self._wait(now_s)",
        '        self.stored(Result(self.topic, self.number, 0, 0, 0, ""))',
        ("tests/unit/test_producer.py",),
    ),
    Bug(
        "sent-again-as-another-batch",
        "a batch that is sent again is a new one to the log, which then has it twice",
        "common/kafka/produce/producer.py",
        "            partition.unanswered(now_s)",
        "            partition._drop_identity()\n            partition._put_back(now_s)",
        ("tests/unit/test_producer.py",),
    ),
    # The deadline timer
    Bug(
        "deadline-not-gated",
        "a saga that was away cancels orders whose results are unread",
        "order/saga/deadlines.py",
        "seen = at if reading.next_offset >= end else reading.record_time or Milliseconds(0)",
        "seen = at",
        ("tests/unit/test_deadlines.py",),
    ),
    Bug(
        "position-by-time",
        "only the time of the last record says how far the saga has read: in a quiet partition no deadline passes",
        "order/saga/deadlines.py",
        "seen = at if reading.next_offset >= end else reading.record_time or Milliseconds(0)",
        "seen = reading.record_time or Milliseconds(0)",
        ("tests/unit/test_deadlines.py",),
    ),
    Bug(
        "deadline-while-parked",
        "an order whose payment is parked in the saga is cancelled",
        "order/saga/store.py",
        "AND state IN ('parked', 'redrive', 'discard'))\n    FROM orders JOIN",
        "AND false)\n    FROM orders JOIN",
        ("tests/faults/test_deadlines.py::test_no_deadline_passes_while_a_result_is_parked",),
    ),
    Bug(
        "deadline-of-another-partition",
        "an order of a partition that lags is cancelled while its result is unread",
        "order/saga/store.py",
        "placed_at <= until AND NOT EXISTS",
        "true AND NOT EXISTS",
        ("tests/faults/test_deadlines.py::test_an_order_is_due_by_the_cutoff_of_its_own_partition",),
    ),
    Bug(
        "slice-passed-before-published",
        "orders whose deadline did not reach the log are passed over",
        "order/saga/deadlines.py",
        "        orders = {order.order_id: order for order in pending}.values()",
        "        self._walked, self._watched = slice_end or upto, set()\n"
        "        orders = {order.order_id: order for order in pending}.values()",
        ("tests/faults/test_deadlines.py::test_a_slice_whose_events_did_not_reach_the_log_is_walked_again",),
    ),
    # What every consumer shares, without I/O
    Bug(
        "unique-violation-as-poison",
        "an order that another instance stored first is parked as poison",
        "common/errors.py",
        "    if state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT_STATES or is_session_stale(error):",
        '    if state[:2] == "23":\n        return Failure.POISON\n'
        "    if state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT_STATES or is_session_stale(error):",
        ("tests/unit/test_errors.py",),
    ),
    Bug(
        "follower-let-through",
        "the next event of a customer overtakes the parked one",
        "common/consume/parking.py",
        "        elif record.key is not None and record.key in blocked:",
        "        elif received is None and record.key is not None and record.key in blocked:",
        ("tests/unit/test_parking.py",),
    ),
    Bug(
        "repeat-parked",
        "an event that was decided is parked when it comes again, and decided once more",
        "common/consume/parking.py",
        "        if record.offset < positions[record.partition]:",
        "        if record.offset < positions[record.partition] and record.key not in blocked:",
        ("tests/unit/test_parking.py",),
    ),
    Bug(
        "start-at-the-position",
        "results that were stored, and not published before a crash, are never published",
        "common/consume/positions.py",
        "return max(log_start, min(stored.next_offset, committed or 0))",
        "return max(log_start, stored.next_offset)",
        ("tests/unit/test_positions.py",),
    ),
    # The batch: the order of its steps
    Bug(
        "published-before-stored",
        "a result is published although the database rolls back",
        "common/consume/loop.py",
        "decide(self._handler, locked, outcome.fresh, outcome.repeats)",
        "decide(self._handler, locked, outcome.fresh, outcome.repeats)\n            self._publish(decided)",
        _delivery("test_a_batch_that_the_database_refuses_leaves_no_trace"),
    ),
    Bug(
        "offset-before-database",
        "a crash before the transaction skips the batch",
        "common/consume/loop.py",
        "            decided, outcome = self._store(batch, first, last)",
        "            self._inbox.commit_soon({partition: record.offset + 1 for partition, record in last.items()})\n"
        "            decided, outcome = self._store(batch, first, last)",
        _delivery("test_a_batch_that_the_database_refuses_leaves_no_trace"),
    ),
    Bug(
        "acknowledged-on-exception",
        "a batch that failed is acknowledged and dropped",
        "common/consume/loop.py",
        "                self._inbox.wait(STOPPED_POLL_S if isinstance(error, Stopped) else delay)",
        "                self._inbox.commit_soon({a.record.partition: a.record.offset + 1 for a in batch})\n"
        "                return",
        _delivery("test_a_batch_that_the_database_refuses_leaves_no_trace"),
    ),
    Bug(
        "effect-without-position",
        "effect and position are two transactions: a crash between them leaves money that nothing accounts for",
        "common/consume/loop.py",
        "                    decided.update(statements)",
        "                    decided.update(statements)\n                    queue_commit(statements)",
        _delivery("test_a_batch_that_the_database_refuses_leaves_no_trace"),
    ),
    Bug(
        "offset-before-result",
        "a crash between offsets and publishing loses the result: the order waits for ever",
        "common/consume/loop.py",
        "        published = self._publish(decided)",
        "        self._inbox.commit_soon({partition: record.offset + 1 for partition, record in last.items()})\n"
        "        published = self._publish(decided)",
        _delivery("test_offsets_are_committed_when_the_results_are_in_the_log"),
    ),
    Bug(
        "only-the-last-offset",
        "only the partition of a batch's last record is committed",
        "common/consume/loop.py",
        "self._inbox.commit_soon({partition: record.offset + 1 for partition, record in last.items()})",
        "self._inbox.commit_soon({batch[-1].record.partition: batch[-1].record.offset + 1})",
        _delivery("test_every_partition_of_a_batch_is_committed"),
    ),
    Bug(
        "result-to-its-keys-partition",
        "a result goes to its key's partition, while its order is in another one",
        "common/consume/loop.py",
        "Outgoing(topic, partition, ",
        "Outgoing(topic, -1, ",
        _delivery("test_a_result_goes_to_the_partition_of_its_order_with_its_key"),
    ),
    Bug(
        "position-not-checked",
        "a zombie decides what another instance has decided",
        "common/consume/loop.py",
        "positions.check_not_superseded(known, positions.fetch(locked_positions), last)",
        "positions.fetch(locked_positions)",
        _delivery("test_a_late_consumer_drops_its_batch_when_its_position_has_moved"),
    ),
    Bug(
        "database-went-back-not-noticed",
        "a standby that lacked transactions takes over, and records are decided anew",
        "common/consume/positions.py",
        "if stored.get(partition, offset) < offset}",
        "if stored.get(partition, offset) < 0}",
        ("tests/unit/test_positions.py::test_a_position_behind_the_one_that_was_stored_is_a_database_that_went_back",),
    ),
    Bug(
        "published-decision-lost-in-silence",
        "primary and service died together, and what the standby lacked is decided anew",
        "common/consume/published.py",
        "< event.rank]",
        "> event.rank]",
        ("tests/unit/test_outbox.py::test_a_published_decision_that_goes_further_than_the_stored_one_shows_a_loss",),
    ),
    Bug(
        "deposit-entered-twice-by-a-replay",
        "a replay enters a deposit again that a client has repeated meanwhile",
        "ops/replay/entered.py",
        "if key not in has and key not in lacking}",
        "if key not in lacking}",
        ("tests/unit/test_outbox.py::test_what_a_replay_enters_is_what_the_database_lacks_once_by_its_key",),
    ),
    Bug(
        "deposit-left-behind-in-the-outbox",
        "a deposit whose request ended before the log had it never gets there",
        "common/kafka/outbox.py",
        "            await self.publish(left)",
        "            pass",
        ("tests/unit/test_outbox.py::test_without_the_log_it_is_said_that_it_is_entered_and_then_nothing_is",),
    ),
    Bug(
        "gap-not-noticed",
        "records that are missing from the log are skipped in silence",
        "common/consume/inbox.py",
        "if offset != expected and not expected <= offset <= max(expected, self.positions[partition]):",
        "if offset < expected:",
        ("tests/unit/test_inbox.py::test_missing_records_are_a_loss",),
    ),
    # Redriving
    Bug(
        "redrive-done-before-published",
        "a crash after redriving loses the result",
        "common/consume/redrive.py",
        'set_state(statements, rows, "decided")',
        'set_state(statements, rows, "done")',
        _delivery("test_a_redriven_event_is_done_when_its_result_is_in_the_log"),
    ),
    Bug(
        "redrive-loses-the-key",
        "a redriven event has lost its key, and with it its place in the sequence",
        "common/consume/redrive.py",
        "row[5] and bytes(row[5]), bytes(row[6]))",
        "None, bytes(row[6]))",
        _delivery("test_a_redriven_event_is_done_when_its_result_is_in_the_log"),
    ),
    # The services' consumers and their SQL
    Bug(
        "saga-answers-everything",
        "the saga answers the answers of the others, and the three publish for ever",
        "order/saga/consumer.py",
        "        for record in repeats:",
        "        for record in [*repeats, *fresh]:",
        _delivery("test_the_services_stop_publishing_when_every_order_is_settled"),
    ),
    Bug(
        "saga-answers-no-repeats",
        "an outcome that was stored, and not published before a crash, is never published",
        "order/saga/consumer.py",
        "        for record in repeats:",
        "        for record in repeats[:0]:",
        _delivery("test_the_saga_publishes_an_outcome_that_it_had_only_stored"),
    ),
    Bug(
        "balance-not-locked",
        "a deposit that is made meanwhile is overwritten",
        "payment/store.py",
        "WHERE customer_id = ANY(%s) ORDER BY customer_id FOR UPDATE",
        "WHERE customer_id = ANY(%s) ORDER BY customer_id",
        _delivery("test_a_concurrent_change_is_not_overwritten"),
    ),
    Bug(
        "stock-read-before-lock",
        "two instances both sell the last piece",
        "inventory/store.py",
        "    ))\n    ORDER BY product_id FOR UPDATE",
        "    ))\n    ORDER BY product_id",
        _delivery("test_a_concurrent_change_is_not_overwritten"),
    ),
    Bug(
        "locks-in-any-order",
        "two batches that lock the same products crosswise deadlock",
        "inventory/store.py",
        "    ))\n    ORDER BY product_id FOR UPDATE",
        "    ))\n    FOR UPDATE",
        ("tests/integration/test_locks.py",),
    ),
    Bug(
        "bucket-kept-while-all-are-locked",
        "two batches that both run short deadlock: each keeps the bucket that the other wants",
        "inventory/buckets.py",
        '            statements.execute("ROLLBACK TO SAVEPOINT no_bucket")\n',
        "",
        ("tests/integration/test_buckets.py",),
    ),
    Bug(
        "refund-not-in-the-ledger",
        "a refund changes the balance and leaves no entry",
        "payment/consumer.py",
        "        if self.decisions.transfers:",
        "        if new and self.decisions.transfers:",
        _delivery("test_one_order_of_each_outcome_is_proved"),
    ),
    Bug(
        "relay-marks-before-publishing",
        "a price that was changed while the broker was away is never published",
        "inventory/relay.py",
        "                publish(producer, changes)\n                relay_store.mark_published(connection, changes)",
        "                relay_store.mark_published(connection, changes)\n                publish(producer, changes)",
        _delivery("test_a_change_of_the_catalogue_is_published_when_the_log_has_it"),
    ),
)
