-- The SQL of `just dlq`.

-- name: list
-- The service reads the topic as it is now; an event of an earlier one is listed with that topic's id.
SELECT topic, partition, "offset", nullif(row.topic_id, positions.topic_id), encode(key, 'escape'), root, state,
  attempts, to_char(parked_at, 'YYYY-MM-DD HH24:MI:SS'), error
FROM parked_events AS row LEFT JOIN positions USING (topic, partition)
WHERE state <> 'done' AND (%(customer)s::text IS NULL OR key = convert_to(%(customer)s, 'UTF8'))
ORDER BY row.record_time, topic, partition, "offset"

-- name: stops
SELECT reason, to_char(stopped_at, 'YYYY-MM-DD HH24:MI:SS') FROM stops WHERE resumed_at IS NULL

-- name: lock_positions
-- With the positions locked, no batch can park an event behind these while they are being marked.
SELECT FROM positions ORDER BY topic, partition FOR UPDATE

-- name: find
SELECT topic, partition, "offset", row.topic_id, value, nullif(row.topic_id, positions.topic_id)
FROM parked_events AS row LEFT JOIN positions USING (topic, partition)
WHERE state = 'parked' AND (%(all)s OR key = convert_to(%(customer)s, 'UTF8'))
  OR (topic, partition, "offset", row.topic_id) IN (
    SELECT id.topic, id.partition, id."offset", coalesce(id.topic_id, positions.topic_id, row.topic_id)
    FROM unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[], %(topic_ids)s::text[])
      AS id(topic, partition, "offset", topic_id))
ORDER BY row.record_time, topic, partition, "offset"

-- name: show
SELECT topic, partition, "offset", topic_id, key, value, record_time, root, error, state, parked_at, attempts
FROM parked_events WHERE topic = %s AND partition = %s AND "offset" = %s AND topic_id = %s

-- name: acts
SELECT act, actor, why, acted_at FROM dead_letter_acts
WHERE topic = %s AND partition = %s AND "offset" = %s AND coalesce(topic_id, %s) = %s ORDER BY act_id

-- name: redrive
-- All parked events of a customer are redriven together, or the later ones would wait for ever behind nothing.
WITH named AS (
  SELECT row.* FROM parked_events AS row
  JOIN unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[], %(topic_ids)s::text[])
    AS id(topic, partition, "offset", topic_id)
  USING (topic, partition, "offset", topic_id)
)
UPDATE parked_events AS row SET state = 'redrive'
WHERE state = 'parked' AND (key IN (SELECT key FROM named)
  OR (topic, partition, "offset", topic_id) IN (SELECT topic, partition, "offset", topic_id FROM named))
RETURNING topic, partition, "offset", topic_id

-- name: discard
UPDATE parked_events SET state = 'discard', given_up = true
WHERE state = 'parked' AND (topic, partition, "offset", topic_id) IN (
  SELECT * FROM unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[], %(topic_ids)s::text[])
    AS id(topic, partition, "offset", topic_id))
RETURNING topic, partition, "offset", topic_id

-- name: record
INSERT INTO dead_letter_acts (act, topic, partition, "offset", topic_id, actor, why)
SELECT %(act)s, id.*, %(actor)s, %(why)s
FROM unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[], %(topic_ids)s::text[])
  AS id(topic, partition, "offset", topic_id)

-- name: resume
UPDATE stops SET resumed_at = now() WHERE resumed_at IS NULL

-- name: record_resume
INSERT INTO dead_letter_acts (act, actor, why) VALUES ('resume', %s, %s)

-- name: positions
SELECT topic, partition, topic_id, next_offset FROM positions
