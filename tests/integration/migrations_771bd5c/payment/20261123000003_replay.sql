-- migrate:up

-- Who had the log taken in again after this database was restored from a backup, when and why; how many published
-- decisions came back from the log.
CREATE TABLE replays (
    replay_id   bigint PRIMARY KEY,
    actor       text NOT NULL,
    why         text NOT NULL,
    decisions   bigint NOT NULL,
    replayed_at timestamptz NOT NULL DEFAULT now()
);

REVOKE UPDATE, DELETE, TRUNCATE ON replays FROM "payment";

-- migrate:down

DROP TABLE replays;
