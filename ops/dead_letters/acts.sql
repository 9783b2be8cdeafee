-- What `just dlq` does with parked events, and with records that are to be skipped.

-- name: lock_positions
-- With the positions locked, no batch can park an event behind these while they are being marked.
SELECT FROM positions ORDER BY topic, partition FOR UPDATE

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
