-- The SQL that tells an order's story. Times are milliseconds since the Unix epoch.

-- name: positions
SELECT topic, partition, next_offset FROM positions

-- name: order
SELECT customer_id, partition, status, reason, payment, inventory, payment_reason, inventory_reason, amount, currency,
  items, (extract(epoch FROM placed_at) * 1000)::bigint AS placed_at,
  (extract(epoch FROM decided_at) * 1000)::bigint AS decided_at,
  (extract(epoch FROM settled_at) * 1000)::bigint AS settled_at, traceparent, timeline
FROM orders WHERE order_id = %(order_id)s::uuid

-- name: orders_in_trace
-- The order that has this id, or else those whose requests came with this trace. There is no index by trace, so then the
-- table is read through.
WITH own AS (SELECT order_id FROM orders WHERE order_id = %(order_id)s::uuid)
SELECT order_id::text FROM own
UNION ALL (
  SELECT order_id::text FROM orders
  WHERE NOT EXISTS (SELECT FROM own) AND starts_with(traceparent, %(begins)s)
  ORDER BY order_id DESC LIMIT %(most)s
)

-- name: request
-- There is no index by order, so the table is read through. A deleted key is older than the retention of keys.
SELECT customer_id, idempotency_key, (extract(epoch FROM created_at) * 1000)::bigint AS created_at
FROM requests WHERE order_id = %(order_id)s::uuid

-- name: payment
SELECT customer_id, state, reason, amount, payments.currency, balance,
  (extract(epoch FROM decided_at) * 1000)::bigint AS decided_at,
  (extract(epoch FROM revoked_at) * 1000)::bigint AS revoked_at
FROM payments LEFT JOIN accounts USING (customer_id) WHERE order_id = %(order_id)s::uuid

-- name: ledger
-- By the index of customers: without the payment's customer, there is no entry either.
SELECT entry_id, kind, debit, credit, amount, currency, (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_at
FROM ledger WHERE order_id = %(order_id)s::uuid AND customer_id = %(customer_id)s ORDER BY entry_id

-- name: reservation
SELECT customer_id, state, reason, items, (extract(epoch FROM decided_at) * 1000)::bigint AS decided_at,
  (extract(epoch FROM revoked_at) * 1000)::bigint AS revoked_at
FROM reservations WHERE order_id = %(order_id)s::uuid

-- name: movements
-- There is no index by order, so the table is read through.
SELECT movement_id, kind, product_id, quantity, (extract(epoch FROM recorded_at) * 1000)::bigint AS recorded_at
FROM movements WHERE order_id = %(order_id)s::uuid ORDER BY movement_id

-- name: parked
SELECT topic, partition, "offset", row.topic_id, nullif(row.topic_id, positions.topic_id) AS earlier_topic, key, value,
  root, state, error, attempts, (extract(epoch FROM row.record_time) * 1000)::bigint AS record_time,
  (extract(epoch FROM parked_at) * 1000)::bigint AS parked_at
FROM parked_events AS row LEFT JOIN positions USING (topic, partition)
WHERE position(convert_to(%(order_id)s, 'UTF8') IN value) > 0
ORDER BY parked_at, topic, partition, "offset" LIMIT 50

-- name: blocked_by
SELECT topic, partition, "offset", error FROM parked_events
WHERE substring(key FOR 64) = substring(%(key)s::bytea FOR 64) AND key = %(key)s AND root AND state <> 'done'
ORDER BY topic, partition, "offset"

-- name: acts
SELECT act, actor, why, (extract(epoch FROM acted_at) * 1000)::bigint AS acted_at FROM dead_letter_acts
WHERE topic = %(topic)s AND partition = %(partition)s AND "offset" = %(offset)s
  AND coalesce(topic_id, %(topic_id)s) = %(topic_id)s ORDER BY act_id
