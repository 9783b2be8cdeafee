-- migrate:up

-- Who replayed the log after this database was restored from a backup, when and why, and how many published decisions
-- came back from the log. Rows are only ever added (see ops/migrate.py).
CREATE TABLE replays (
    replay_id   bigint PRIMARY KEY,
    actor       text NOT NULL,
    why         text NOT NULL,
    decisions   bigint NOT NULL,
    replayed_at timestamptz NOT NULL DEFAULT now()
);

-- migrate:down

DROP TABLE replays;
