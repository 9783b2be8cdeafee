-- What `just replay` enters again of what was entered over HTTP.

-- name: open
-- DO UPDATE, so that accounts that exist are locked and returned too.
INSERT INTO accounts (customer_id, balance, currency) SELECT customer_id, 0, currency
FROM unnest(%s::text[], %s::text[]) AS entered(customer_id, currency)
ON CONFLICT (customer_id) DO UPDATE SET balance = accounts.balance
RETURNING customer_id, currency

-- name: deposit
INSERT INTO ledger (customer_id, kind, amount, currency, recorded_at, idempotency_key)
SELECT customer_id, 'deposit', amount, currency, recorded_at, key
FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::timestamptz[], %s::text[])
  AS entered(customer_id, amount, currency, recorded_at, key)

-- name: credit
UPDATE accounts SET balance = balance + amount FROM (
  SELECT customer_id, sum(amount) AS amount FROM unnest(%s::text[], %s::bigint[]) AS one(customer_id, amount) GROUP BY 1
) AS entered WHERE accounts.customer_id = entered.customer_id

-- name: lock_products
SELECT product_id, buckets > 0 FROM products WHERE product_id = ANY(%s) ORDER BY product_id FOR UPDATE

-- name: restock
INSERT INTO movements (product_id, kind, quantity, recorded_at, idempotency_key)
SELECT product_id, 'restock', quantity, recorded_at, key
FROM unnest(%s::text[], %s::bigint[], %s::timestamptz[], %s::text[]) AS entered(product_id, quantity, recorded_at, key)

-- name: add_stock
UPDATE products SET on_hand = on_hand + %s WHERE product_id = %s
