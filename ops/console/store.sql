-- What the console reads from the databases, all but the story of an order. Every statement is bounded: by an index and
-- a limit, or by the size of a table that stays small.

-- name: positions
SELECT topic, partition, topic_id, next_offset, (extract(epoch FROM record_time) * 1000)::bigint AS record_time FROM positions

-- name: outcomes
SELECT status, reason, count(*) AS orders FROM (
  SELECT status, reason FROM orders
  WHERE placed_at > now() - make_interval(secs => %(window_s)s) ORDER BY placed_at DESC LIMIT %(most)s
) AS newest GROUP BY 1, 2

-- name: settle_times
-- Of the newest orders that had time to settle; one that has not is as old as it is.
SELECT extract(epoch FROM coalesce(settled_at, now()) - placed_at)::float8 AS seconds FROM orders
WHERE placed_at BETWEEN now() - make_interval(secs => %(oldest_s)s) AND now() - make_interval(secs => %(newest_s)s)
ORDER BY placed_at DESC LIMIT %(most)s

-- name: search
-- `searched` bounds the work, whatever the filters: they apply to what it has found.
WITH searched AS MATERIALIZED (
  SELECT order_id, customer_id, status, reason, amount, currency, payment, inventory, placed_at, decided_at, settled_at
  FROM orders
  WHERE order_id < %(below)s::uuid AND order_id >= %(from)s::uuid ORDER BY order_id DESC LIMIT %(depth)s
)
SELECT counted.*, row.* FROM (
  SELECT count(*) AS searched, (SELECT order_id FROM searched ORDER BY order_id LIMIT 1)::text AS last FROM searched
) AS counted LEFT JOIN LATERAL (
  SELECT {columns} FROM searched WHERE {filter} ORDER BY order_id DESC LIMIT %(limit)s
) AS row ON true

-- name: search_of_customer
WITH searched AS MATERIALIZED (
  SELECT order_id, customer_id, status, reason, amount, currency, payment, inventory, placed_at, decided_at, settled_at
  FROM orders WHERE customer_id = %(customer_id)s
    AND order_id < %(below)s::uuid AND order_id >= %(from)s::uuid ORDER BY order_id DESC LIMIT %(depth)s
)
SELECT counted.*, row.* FROM (
  SELECT count(*) AS searched, (SELECT order_id FROM searched ORDER BY order_id LIMIT 1)::text AS last FROM searched
) AS counted LEFT JOIN LATERAL (
  SELECT {columns} FROM searched WHERE {filter} ORDER BY order_id DESC LIMIT %(limit)s
) AS row ON true

-- name: columns
order_id::text, customer_id, status, reason, amount, currency, payment, inventory,
  (extract(epoch FROM placed_at) * 1000)::bigint AS placed_at,
  (extract(epoch FROM decided_at) * 1000)::bigint AS decided_at,
  (extract(epoch FROM settled_at) * 1000)::bigint AS settled_at

-- name: filter
status <> 'awaiting_placed'
  AND (%(status)s::text IS NULL OR status = %(status)s) AND (%(reason)s::text IS NULL OR reason = %(reason)s)
  AND (%(since)s::bigint IS NULL OR placed_at >= to_timestamp(%(since)s::bigint / 1000.0))
  AND (%(until)s::bigint IS NULL OR placed_at < to_timestamp(%(until)s::bigint / 1000.0))

-- name: parked_columns
topic, partition, "offset", row.topic_id, nullif(row.topic_id, positions.topic_id) AS earlier_topic,
  encode(key, 'escape') AS customer,
  (extract(epoch FROM row.record_time) * 1000000)::bigint AS sort_at, root, state, attempts, (extract(epoch FROM parked_at) * 1000)::bigint AS parked_at,
  (extract(epoch FROM row.record_time) * 1000)::bigint AS record_at, length(value) AS bytes, left(error, 2000) AS error,
  coalesce(substring(encode(substring(value FOR 4096), 'escape') FROM '"type":"([a-z_.]{1,64})"'), '') AS type

-- name: parked
SELECT {parked_columns} FROM parked_events AS row LEFT JOIN positions USING (topic, partition)
WHERE {parked_filter}
  AND (row.record_time, topic, partition, "offset", row.topic_id)
    > (to_timestamp(%(at)s::float8 / 1000000.0), %(after_topic)s, %(after_partition)s::integer, %(after_offset)s::bigint, %(after_id)s)
ORDER BY row.record_time, topic, partition, "offset", row.topic_id LIMIT %(limit)s

-- name: parked_count
SELECT count(*) AS total FROM parked_events AS row WHERE {parked_filter}

-- name: parked_filter
(CASE WHEN %(state)s::text = 'open' THEN state <> 'done' ELSE state = %(state)s END)
  AND (%(customer)s::text IS NULL OR encode(key, 'escape') = %(customer)s)
  AND (%(topic)s::text IS NULL OR topic = %(topic)s) AND (%(root)s::boolean IS NULL OR root = %(root)s)
  AND (%(error)s::text IS NULL OR position(lower(%(error)s) IN lower(error)) > 0)
  AND (%(since)s::bigint IS NULL OR parked_at >= to_timestamp(%(since)s::bigint / 1000.0))
  AND (%(until)s::bigint IS NULL OR parked_at < to_timestamp(%(until)s::bigint / 1000.0))

-- name: parked_event
SELECT {parked_columns}, substring(value FOR %(most)s) AS value FROM parked_events AS row
LEFT JOIN positions USING (topic, partition)
WHERE topic = %(topic)s AND partition = %(partition)s AND "offset" = %(offset)s
  AND row.topic_id = coalesce(%(topic_id)s, positions.topic_id, row.topic_id)

-- name: customers
SELECT topic, partition, "offset", id.topic_id AS named_id, encode(key, 'escape') AS customer
FROM parked_events AS row JOIN unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[], %(topic_ids)s::text[])
  AS id(topic, partition, "offset", topic_id) USING (topic, partition, "offset")
LEFT JOIN positions USING (topic, partition)
WHERE row.topic_id = coalesce(id.topic_id, positions.topic_id, row.topic_id)

-- name: acts
SELECT act, actor, why, (extract(epoch FROM acted_at) * 1000)::bigint AS acted_at FROM dead_letter_acts
WHERE topic = %(topic)s AND partition = %(partition)s AND "offset" = %(offset)s
  AND coalesce(topic_id, %(topic_id)s) = %(topic_id)s ORDER BY act_id LIMIT 100

-- name: stops
SELECT reason, (extract(epoch FROM stopped_at) * 1000)::bigint AS stopped_at FROM stops WHERE resumed_at IS NULL

-- name: proof_orders
SELECT order_id::text, customer_id, partition, status, settled_at IS NOT NULL AS settled, amount, currency FROM orders WHERE order_id = ANY(%(orders)s::uuid[])

-- name: proof_payments
SELECT order_id::text, customer_id, state, amount, currency FROM payments WHERE order_id = ANY(%(orders)s::uuid[])

-- name: proof_entries
SELECT order_id::text, kind, count(*) AS entries, sum(amount)::bigint AS amount FROM ledger
WHERE customer_id = ANY(%(customers)s::text[]) AND order_id = ANY(%(orders)s::uuid[]) GROUP BY 1, 2

-- name: proof_reservations
SELECT order_id::text, customer_id, state FROM reservations WHERE order_id = ANY(%(orders)s::uuid[])

-- name: proof_parked
-- Events of this `orders`, and of none before it, that were parked at these places, in whatever state they are now.
SELECT partition, "offset" FROM parked_events JOIN positions USING (topic, partition, topic_id) JOIN unnest(%(partitions)s::integer[], %(offsets)s::bigint[])
  AS named(partition, "offset") USING (partition, "offset") WHERE topic = 'orders'

-- name: proof_ledger_sums
-- Over all orders: a capture for each payment that was completed, and a refund for each that was given back.
WITH entered AS (
  SELECT kind, count(*) AS entries, sum(amount) AS amount FROM ledger WHERE kind <> 'deposit' GROUP BY kind
), demanded AS (
  SELECT kind, count(*) AS due, sum(amount) AS due_amount FROM payments,
    unnest(CASE state WHEN 'completed' THEN ARRAY['capture'] ELSE ARRAY['capture', 'refund'] END) AS kind
  WHERE state IN ('completed', 'refunded') AND amount > 0 GROUP BY kind
)
SELECT kind, coalesce(entries, 0) AS entries, coalesce(amount, 0)::bigint AS amount, coalesce(due, 0) AS due,
  coalesce(due_amount, 0)::bigint AS due_amount
FROM entered FULL JOIN demanded USING (kind) WHERE (entries, amount) IS DISTINCT FROM (due, due_amount)

-- name: proof_movement_sums
-- Over all orders: a movement for each line that was reserved, and one for each that was released again.
WITH entered AS (
  SELECT kind, count(*) AS entries, sum(quantity) AS amount FROM movements WHERE kind <> 'restock' GROUP BY kind
), demanded AS (
  SELECT kind, count(*) AS due, sum((line ->> 'quantity')::bigint) AS due_amount
  FROM reservations, json_array_elements(items) AS line,
    unnest(CASE state WHEN 'reserved' THEN ARRAY['reserve'] ELSE ARRAY['reserve', 'release'] END) AS kind
  WHERE state IN ('reserved', 'released') GROUP BY kind
)
SELECT kind, coalesce(entries, 0) AS entries, coalesce(amount, 0)::bigint AS amount, coalesce(due, 0) AS due,
  coalesce(due_amount, 0)::bigint AS due_amount
FROM entered FULL JOIN demanded USING (kind) WHERE (entries, amount) IS DISTINCT FROM (due, due_amount)

-- name: proof_pending
SELECT order_id::text, customer_id, payment, inventory FROM orders WHERE settled_at IS NULL AND status = 'pending'
  AND placed_at < now() - make_interval(secs => %(older_s)s) ORDER BY placed_at LIMIT 100
