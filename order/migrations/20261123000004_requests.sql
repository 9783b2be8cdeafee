-- migrate:up

-- Orders placed with an idempotency key: the first request of each key, with its event as it was priced then. When the
-- request comes again, the stored event is published again. Rows are added, never changed, and deleted when they are older
-- than the retention of keys (order/api/place/keyed_requests.py).
CREATE TABLE requests (
    customer_id     text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    request_hash    bytea NOT NULL,
    order_id        uuid NOT NULL,
    event           bytea NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, idempotency_key)
);

-- For the deletion. Rows are inserted in the order of this time, so each insert appends to the index.
CREATE INDEX requests_by_created_at ON requests (created_at);

REVOKE UPDATE, TRUNCATE ON requests FROM "order";

-- migrate:down

DROP TABLE requests;
