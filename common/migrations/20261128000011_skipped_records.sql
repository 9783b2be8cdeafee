-- migrate:up

-- An operator may have a service skip a record that its consumer cannot get past, or an offset at which the log has no
-- record: `just dlq skip`. The consumer finds the acts when it is assigned the partition.
ALTER TABLE dead_letter_acts DROP CONSTRAINT dead_letter_acts_act_check;
ALTER TABLE dead_letter_acts ADD CONSTRAINT dead_letter_acts_act_check
    CHECK (act IN ('redrive', 'discard', 'resume', 'skip'));
-- Headers are not read any more. The column keeps those of older rows.
ALTER TABLE parked_events ALTER COLUMN headers SET DEFAULT '[]';

-- migrate:down

ALTER TABLE parked_events ALTER COLUMN headers DROP DEFAULT;
ALTER TABLE dead_letter_acts DROP CONSTRAINT dead_letter_acts_act_check;
ALTER TABLE dead_letter_acts ADD CONSTRAINT dead_letter_acts_act_check
    CHECK (act IN ('redrive', 'discard', 'resume')) NOT VALID;
