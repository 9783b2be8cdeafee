-- What `just dlq` shows of parked events, and how it finds them.

-- name: list
-- The service reads the topic as it is now; an event of an earlier one is listed with that topic's id.
SELECT topic, partition, "offset", nullif(row.topic_id, positions.topic_id), encode(key, 'escape'), root, state,
  attempts, to_char(parked_at, 'YYYY-MM-DD HH24:MI:SS'), error
FROM parked_events AS row LEFT JOIN positions USING (topic, partition)
WHERE state <> 'done' AND (%(customer)s::text IS NULL OR key = convert_to(%(customer)s, 'UTF8'))
ORDER BY row.record_time, topic, partition, "offset"

-- name: stops
SELECT reason, to_char(stopped_at, 'YYYY-MM-DD HH24:MI:SS') FROM stops WHERE resumed_at IS NULL

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
