-- migrate:up

-- What was entered over HTTP and is not yet known to be in the log: events, each written in the transaction that did what
-- it says, and deleted when the log has it (common/kafka/outbox.py).
CREATE TABLE outbox (
    event_id   text COLLATE "C" PRIMARY KEY,
    topic      text NOT NULL,
    record_key text NOT NULL,
    value      bytea NOT NULL,
    stored_at  timestamptz NOT NULL DEFAULT now()
);

-- migrate:down

DROP TABLE outbox;
