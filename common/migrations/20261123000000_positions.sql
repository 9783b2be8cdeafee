-- migrate:up

-- The next offset to decide in each partition. A batch moves it in the transaction that stores what it decided.
-- IF NOT EXISTS: databases made before this file existed have the table already.
CREATE TABLE IF NOT EXISTS positions (
    topic       text NOT NULL,
    partition   integer NOT NULL,
    topic_id    text NOT NULL,
    next_offset bigint NOT NULL CHECK (next_offset >= 0),
    record_time timestamptz,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 20);

-- migrate:down

DROP TABLE positions;
