-- migrate:up

CREATE TABLE orders (
    order_id    uuid PRIMARY KEY,
    customer_id text NOT NULL,
    partition   integer NOT NULL,
    status      text NOT NULL CHECK (status IN ('awaiting_placed', 'pending', 'confirmed', 'rejected', 'cancelled')),
    reason      text,
    payment     text CHECK (payment IN ('completed', 'declined', 'refunded', 'void')),
    inventory   text CHECK (inventory IN ('reserved', 'rejected', 'released', 'void')),
    payment_reason   text,
    inventory_reason text,
    amount      bigint CHECK (amount >= 0),
    currency    text,
    items       json NOT NULL,
    placed_at   timestamptz,
    decided_at  timestamptz,
    settled_at  timestamptz,
    traceparent text NOT NULL,
    -- [{"event": .., "at": ms, "partition": .., "offset": ..}], in the order in which the saga took them in
    timeline    jsonb NOT NULL,
    CHECK (status = 'awaiting_placed' OR placed_at IS NOT NULL),
    -- of an order that could not be taken in, and was given up, nobody knows what was ordered
    CHECK (status = 'awaiting_placed' OR reason = 'discarded' OR (amount IS NOT NULL AND currency IS NOT NULL)),
    CHECK ((status IN ('awaiting_placed', 'pending')) = (decided_at IS NULL))
) WITH (fillfactor = 60); -- a row is written two or three times and never moves to another page (HOT)

-- UUIDv7 rises with time, so this is also newest first.
CREATE INDEX orders_by_customer ON orders (customer_id, order_id DESC);

-- For the deadline timer. Rows come in the order of this time, and BRIN does not take updates out of their page.
CREATE INDEX orders_by_placed_at ON orders USING brin (placed_at) WITH (pages_per_range = 32, autosummarize = on);

CREATE TABLE positions (
    topic       text NOT NULL,
    partition   integer NOT NULL,
    topic_id    text NOT NULL,
    next_offset bigint NOT NULL CHECK (next_offset >= 0),
    record_time timestamptz,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 20);

-- migrate:down

DROP TABLE positions, orders;
