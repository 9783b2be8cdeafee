-- What `just replay payment` writes, besides the service's own statements.

-- name: stored
SELECT order_id, state FROM payments WHERE order_id = ANY(%s::uuid[])

-- name: open
INSERT INTO accounts (customer_id, balance, currency) SELECT customer_id, 0, currency
FROM unnest(%s::text[], %s::text[]) AS missing(customer_id, currency) ON CONFLICT DO NOTHING

-- name: deposit
INSERT INTO ledger (customer_id, kind, amount, currency, recorded_at, idempotency_key)
SELECT customer_id, 'deposit', amount, currency, now(), %s
FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS missing(customer_id, currency, amount) WHERE amount > 0
