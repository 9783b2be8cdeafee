-- migrate:up

-- Who did what that creates value, or that decides over an event: deposits, restocks, products and prices, acts on parked
-- events, replays, tokens and keys. A row is added in the transaction of its act. Rows are only ever added, and the service
-- cannot choose their times (see ops/migrate.py).
CREATE TABLE audit (
    entry_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    acted_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    principal   text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('token', 'key', 'user', 'anonymous')),
    request_id  text,
    act         text NOT NULL,
    target      text NOT NULL,
    detail      jsonb NOT NULL,
    result      text NOT NULL
);
CREATE INDEX audit_by_acted_at ON audit (acted_at);

-- migrate:down

DROP TABLE audit;
