-- migrate:up

-- The first answer to each request under an Idempotency-Key, except to a single order (see `requests` of the order
-- database). A key belongs to its method and path. An answer to many orders has no body: each line has its own.
CREATE TABLE keyed_answers (
    resource        text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    request_hash    bytea NOT NULL,
    status          smallint NOT NULL,
    body            bytea NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (resource, idempotency_key)
);
CREATE INDEX keyed_answers_by_created_at ON keyed_answers (created_at);

-- migrate:down

DROP TABLE keyed_answers;
