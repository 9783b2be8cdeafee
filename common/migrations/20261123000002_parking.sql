-- migrate:up

-- The dead-letter queue: each event that cannot be processed (a root) and every later event of its customer (followers),
-- so that a customer's events stay in order. The states of a row: parked -> redrive or discard (marked by an operator) ->
-- decided (stored, perhaps not yet published) -> done. A marked row that fails again is parked again.
CREATE TABLE parked_events (
    topic       text NOT NULL,
    partition   integer NOT NULL,
    "offset"    bigint NOT NULL,
    topic_id    text NOT NULL,
    key         bytea, -- without one, an event is parked alone
    value       bytea NOT NULL,
    headers     jsonb NOT NULL,
    record_time timestamptz NOT NULL,
    root        boolean NOT NULL,
    error       text NOT NULL,
    state       text NOT NULL DEFAULT 'parked' CHECK (state IN ('parked', 'redrive', 'discard', 'decided', 'done')),
    parked_at   timestamptz NOT NULL DEFAULT now(),
    attempts    integer NOT NULL DEFAULT 1,
    given_up    boolean NOT NULL DEFAULT false, -- discarded by an operator; stays true when the row is done
    PRIMARY KEY (topic, partition, "offset", topic_id)
);
-- A customer id has at most 64 characters. A foreign record's key may be too long for an index entry.
CREATE INDEX parked_events_open ON parked_events (substring(key FOR 64), topic, partition, "offset")
    WHERE state <> 'done';

-- Who did what to parked events, when and why. Rows are only ever added (see ops/migrate.py).
CREATE TABLE dead_letter_acts (
    act_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    act         text NOT NULL CHECK (act IN ('redrive', 'discard', 'resume')),
    topic       text,
    partition   integer,
    "offset"    bigint,
    actor       text NOT NULL,
    why         text NOT NULL,
    acted_at    timestamptz NOT NULL DEFAULT now()
);

-- Many parked events mean a bad deployment, not bad data: the consumer stops until an operator resumes it.
CREATE TABLE stops (
    stop_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reason      text NOT NULL,
    stopped_at  timestamptz NOT NULL DEFAULT now(),
    resumed_at  timestamptz
);
CREATE UNIQUE INDEX stops_open ON stops ((true)) WHERE resumed_at IS NULL;

-- migrate:down

DROP TABLE stops, dead_letter_acts, parked_events;
