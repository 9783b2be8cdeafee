-- What `just replay inventory` writes, besides the service's own statements.

-- name: stored
SELECT order_id, state FROM reservations WHERE order_id = ANY(%s::uuid[])

-- name: restock
INSERT INTO movements (product_id, kind, quantity, recorded_at, idempotency_key)
SELECT product_id, 'restock', quantity, now(), %s
FROM unnest(%s::text[], %s::bigint[]) AS missing(product_id, quantity)

-- name: catalogue
-- One version above what the log has: the relay publishes it once more, so that the newest entry is also the last one.
INSERT INTO products (product_id, name, unit_price, currency, active, version)
SELECT product_id, name, unit_price, currency, active, version + 1
FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::boolean[], %s::bigint[])
  AS published(product_id, name, unit_price, currency, active, version)
ON CONFLICT (product_id) DO UPDATE
  SET name = excluded.name, unit_price = excluded.unit_price, currency = excluded.currency,
    active = excluded.active, version = excluded.version, changed_at = now()
  WHERE products.version < excluded.version - 1
    OR (products.version = excluded.version - 1
      AND (products.name, products.unit_price, products.currency, products.active)
        IS DISTINCT FROM (excluded.name, excluded.unit_price, excluded.currency, excluded.active))
