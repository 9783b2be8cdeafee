-- migrate:up

-- A topic that was made anew has the same places again: an act is about a parked event of one of them. Null in rows from
-- before, and for what concerns no event.
ALTER TABLE dead_letter_acts ADD COLUMN topic_id text;

-- migrate:down

ALTER TABLE dead_letter_acts DROP COLUMN topic_id;
