-- migrate:up

-- Which token or API key was used, by its id: what a stolen one did can be found.
ALTER TABLE audit ADD COLUMN credential text;

-- migrate:down

ALTER TABLE audit DROP COLUMN credential;
