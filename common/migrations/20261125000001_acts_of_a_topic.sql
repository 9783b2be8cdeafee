-- migrate:up

-- A topic that is deleted and made again numbers its records from 0 again, so an act also names the topic's id. Null in
-- older rows, and in acts that concern no event.
ALTER TABLE dead_letter_acts ADD COLUMN topic_id text;

-- migrate:down

ALTER TABLE dead_letter_acts DROP COLUMN topic_id;
