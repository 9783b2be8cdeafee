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
    -- [{"event": .., "at": ms, "partition": .., "offset": ..}], in the order in which the saga read them
    timeline    jsonb NOT NULL,
    CHECK (status = 'awaiting_placed' OR placed_at IS NOT NULL),
    -- a discarded order could not be decoded, so its contents are not known
    CHECK (status = 'awaiting_placed' OR reason = 'discarded' OR (amount IS NOT NULL AND currency IS NOT NULL)),
    CHECK ((status IN ('awaiting_placed', 'pending')) = (decided_at IS NULL))
) WITH (fillfactor = 60); -- a row is written two or three times and never moves to another page (HOT)

-- A UUIDv7 rises with time, so this order is also newest first.
CREATE INDEX orders_by_customer ON orders (customer_id, order_id DESC);

-- For the deadline timer. Rows are inserted in the order of this time, and with BRIN an update can stay in its page.
CREATE INDEX orders_by_placed_at ON orders USING brin (placed_at) WITH (pages_per_range = 32, autosummarize = on);

-- migrate:down

DROP TABLE orders;
