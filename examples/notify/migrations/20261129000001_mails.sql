-- migrate:up

-- A mail to send for each outcome of an order. Whoever sends them takes those without sent_at, and sets it.
CREATE TABLE mails (
    event_id    text PRIMARY KEY, -- an outcome that is published again has the same id
    order_id    uuid NOT NULL,
    customer_id text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('confirmed', 'rejected', 'cancelled')),
    reason      text,
    decided_at  timestamptz NOT NULL,
    sent_at     timestamptz
);
CREATE INDEX mails_to_send ON mails (decided_at) WHERE sent_at IS NULL;

-- migrate:down

DROP TABLE mails;
