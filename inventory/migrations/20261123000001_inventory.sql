-- migrate:up

-- A batch of orders updates only on_hand. No index has it and pages have room, so the row stays in its page (HOT).
CREATE TABLE products (
    product_id  text PRIMARY KEY,
    name        text NOT NULL,
    unit_price  bigint NOT NULL CHECK (unit_price >= 0), -- minor units
    currency    text NOT NULL,
    active      boolean NOT NULL,
    on_hand     bigint NOT NULL DEFAULT 0 CHECK (on_hand >= 0),
    version     bigint NOT NULL DEFAULT 1 CHECK (version >= 1), -- of the catalogue entry, not of the stock
    published_version bigint NOT NULL DEFAULT 0 CHECK (published_version BETWEEN 0 AND version),
    changed_at  timestamptz NOT NULL DEFAULT now() -- when this version was made
) WITH (fillfactor = 50);
CREATE INDEX products_to_publish ON products (product_id) WHERE version > published_version;

CREATE TABLE reservations (
    order_id    uuid PRIMARY KEY, -- one decision per order
    customer_id text NOT NULL,
    state       text NOT NULL CHECK (state IN ('reserved', 'rejected', 'released', 'void')),
    reason      text,
    -- [{"product_id": .., "quantity": ..}], what was reserved, one entry per product; kept after the release
    items       json NOT NULL,
    decided_at  timestamptz NOT NULL,
    revoked_at  timestamptz,
    CHECK ((state IN ('reserved', 'released')) = (json_array_length(items) > 0)),
    CHECK ((state = 'released') = (revoked_at IS NOT NULL))
) WITH (fillfactor = 90);

-- All changes of stock: restocks + releases - reserves = on_hand. Rows are only ever added.
CREATE TABLE movements (
    movement_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id  text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('restock', 'reserve', 'release')),
    order_id    uuid,
    quantity    bigint NOT NULL CHECK (quantity > 0),
    recorded_at timestamptz NOT NULL,
    idempotency_key text,
    CHECK ((kind = 'restock') = (order_id IS NULL))
);
CREATE UNIQUE INDEX movements_by_idempotency_key ON movements (product_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

REVOKE UPDATE, DELETE, TRUNCATE ON movements FROM inventory;

-- migrate:down

DROP TABLE movements, reservations, products;
