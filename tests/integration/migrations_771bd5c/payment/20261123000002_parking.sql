-- migrate:up

-- The dead-letter queue: an event that cannot be processed (a root), and every later event of its customer (followers),
-- so that what happens to one customer stays in order. A row's way: parked -> redrive or discard (marked by an operator)
-- -> decided (stored, perhaps not yet published) -> done. A marked row that fails again is parked again.
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
    given_up    boolean NOT NULL DEFAULT false, -- discarded: it counts as the decision not to take it, to its end
    PRIMARY KEY (topic, partition, "offset", topic_id)
);
-- By as much of the key as a customer's can have: a foreign record's may be longer than an index takes.
CREATE INDEX parked_events_open ON parked_events (substring(key FOR 64), topic, partition, "offset")
    WHERE state <> 'done';

-- Who did what to parked events, when and why. Rows are only ever added.
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

-- A consumer that parks too much has met a bad deployment, not bad data: it stops until an operator resumes it.
CREATE TABLE stops (
    stop_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reason      text NOT NULL,
    stopped_at  timestamptz NOT NULL DEFAULT now(),
    resumed_at  timestamptz
);
CREATE UNIQUE INDEX stops_open ON stops ((true)) WHERE resumed_at IS NULL;

REVOKE UPDATE, DELETE, TRUNCATE ON dead_letter_acts FROM "payment";

-- migrate:down

DROP TABLE stops, dead_letter_acts, parked_events;
