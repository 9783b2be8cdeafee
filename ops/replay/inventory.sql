-- What `just replay inventory` writes, besides the service's own statements.

-- name: stored
SELECT order_id, state FROM reservations WHERE order_id = ANY(%s::uuid[])

-- name: restock
INSERT INTO movements (product_id, kind, quantity, recorded_at, idempotency_key)
SELECT product_id, 'restock', quantity, now(), %s
FROM unnest(%s::text[], %s::bigint[]) AS missing(product_id, quantity)

-- name: catalogue
-- One version above what the log has: the relay publishes it once more, so that the newest entry is also the last one.
-- A row that someone has deleted gets the stock that its movements come to, less what its buckets have.
WITH published AS (
  SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::boolean[], %s::bigint[])
    AS published(product_id, name, unit_price, currency, active, version)
), moved AS (
  SELECT product_id, sum(CASE kind WHEN 'reserve' THEN -quantity ELSE quantity END) AS on_hand
  FROM movements
  WHERE product_id IN (SELECT product_id FROM published EXCEPT SELECT product_id FROM products)
  GROUP BY product_id
), split AS (
  SELECT product_id, sum(on_hand) AS in_buckets, count(*) AS buckets FROM stock_buckets
  WHERE product_id NOT IN (SELECT product_id FROM products)
  GROUP BY product_id
)
INSERT INTO products (product_id, name, unit_price, currency, active, version, on_hand, buckets)
SELECT product_id, name, unit_price, currency, active, version + 1, coalesce(on_hand, 0) - coalesce(in_buckets, 0),
  coalesce(buckets, 0)
FROM published LEFT JOIN moved USING (product_id) LEFT JOIN split USING (product_id) ORDER BY product_id
ON CONFLICT (product_id) DO UPDATE
  SET name = excluded.name, unit_price = excluded.unit_price, currency = excluded.currency,
    active = excluded.active, version = excluded.version, changed_at = now()
  WHERE products.version < excluded.version
