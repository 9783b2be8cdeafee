-- migrate:up

-- For the deadline timer, which walks along it. BRIN, here before, cost each sweep all that had been placed since the
-- last autovacuum. Only its own time of placing moves a row in it, so updates stay in their page.
DROP INDEX orders_by_placed_at;
CREATE INDEX orders_by_placed_at ON orders (placed_at);

-- migrate:down

DROP INDEX orders_by_placed_at;
CREATE INDEX orders_by_placed_at ON orders USING brin (placed_at) WITH (pages_per_range = 32, autosummarize = on);
