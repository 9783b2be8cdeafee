-- migrate:up

-- For the deadline timer, which reads along it. With the BRIN index before it, each sweep read all orders placed since the
-- last autovacuum. An update does not change placed_at, so it can stay in its page.
DROP INDEX orders_by_placed_at;
CREATE INDEX orders_by_placed_at ON orders (placed_at);

-- migrate:down

DROP INDEX orders_by_placed_at;
CREATE INDEX orders_by_placed_at ON orders USING brin (placed_at) WITH (pages_per_range = 32, autosummarize = on);
