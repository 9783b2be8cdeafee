-- What the auditor reads of a database, besides the judgement's own statements.

-- The lines: what one holds is written at the row types of `evidence/lines.py`. The times of an order are needed only
-- while it is not settled. `concat`, because it drops nothing for being null.

-- name: line_of_orders
concat(order_id, '|O|', customer_id, '|', partition, '|',
  CASE WHEN status = 'rejected' AND reason = 'discarded' THEN reason ELSE status END, '|', payment, '|', inventory, '|',
  settled_at IS NOT NULL, '|',
  CASE WHEN settled_at IS NULL THEN (extract(epoch FROM placed_at) * 1000)::bigint END, '|',
  CASE WHEN settled_at IS NULL THEN (extract(epoch FROM decided_at) * 1000)::bigint END, '|',
  amount, '|', currency, '|', items)
-- name: line_of_payments
concat(order_id, '|P|', customer_id, '|', state, '|', amount, '|', currency)
-- name: line_of_ledger
concat(order_id, '|G|', kind, '|', customer_id, '|', amount, '|', currency)
-- name: line_of_reservations
concat(order_id, '|R|', customer_id, '|', state, '|', items)
-- name: line_of_movements
concat(order_id, '|M|', kind, '|', product_id, '|', quantity)

-- name: blocks
-- The lines of a table by bucket. A line break within a row would make two lines of it; no service writes one.
SELECT right(order_id::text, %(digits)s), string_agg(replace({line}, E'\n', '\n'), E'\n')
FROM {table} WHERE order_id IS NOT NULL AND ctid >= %(first)s::tid AND ctid < %(end)s::tid GROUP BY 1

-- name: rows_of
SELECT replace({line}, E'\n', '\n') FROM {table} WHERE order_id = ANY(%s::text[]::uuid[])

-- name: row
-- By primary key. The ledger and the movements have no index by order; the evidence has what they say.
SELECT row_to_json(t)::text AS row FROM {table} AS t WHERE order_id = %(order_id)s::uuid

-- name: settled
SELECT order_id::text FROM orders WHERE order_id = ANY(%(orders)s::text[]::uuid[]) AND settled_at IS NOT NULL

-- name: requests
SELECT customer_id, idempotency_key, request_hash, order_id::text, event FROM requests
WHERE ctid >= %(first)s::tid AND ctid < %(end)s::tid

-- name: claims
SELECT order_id::text FROM orders JOIN unnest(%(numbers)s::integer[], %(starts)s::bigint[])
  AS trimmed(partition, start) USING (partition)
WHERE orders.ctid >= %(first)s::tid AND orders.ctid < %(end)s::tid AND EXISTS (
  SELECT FROM jsonb_to_recordset(timeline) AS entry(event text, partition integer, "offset" bigint)
  WHERE event IN ('order.placed', 'order.discarded') AND entry.partition = trimmed.partition AND "offset" < start)

-- name: parked_ever
-- The last act on a parked event tells whether it was redriven or discarded. A row of an earlier topic of the same
-- name says nothing about this one.
SELECT topic, partition, "offset", state, md5(coalesce(key, '') || value) AS digest, given_up AND coalesce((
  SELECT act = 'discard' FROM dead_letter_acts AS a
  WHERE a.topic = p.topic AND a.partition = p.partition AND a."offset" = p."offset"
    AND coalesce(a.topic_id, p.topic_id) = p.topic_id
  ORDER BY act_id DESC LIMIT 1), false) AS discarded
FROM parked_events AS p JOIN positions USING (topic, partition, topic_id)

-- name: parked_open
SELECT topic, partition, "offset", encode(key, 'escape') AS customer, root, error, state, attempts,
  extract(epoch FROM now() - parked_at)::bigint AS parked_s
FROM parked_events WHERE state <> 'done' ORDER BY parked_at, topic, partition, "offset"

-- name: parked_of
SELECT topic, partition, "offset", root, error, state, attempts FROM parked_events
WHERE key = convert_to(%(customer_id)s, 'UTF8') ORDER BY topic, partition, "offset"

-- name: skipped
SELECT topic, partition, "offset" FROM dead_letter_acts JOIN positions USING (topic, partition, topic_id)
WHERE act = 'skip'
