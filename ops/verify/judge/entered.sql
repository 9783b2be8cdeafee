-- What a database has of the entries with these subjects and keys.

-- name: deposits
SELECT customer_id AS subject, idempotency_key AS key, amount || ' ' || currency AS entered FROM ledger
WHERE (customer_id, idempotency_key) IN (SELECT * FROM unnest(%(subjects)s::text[], %(keys)s::text[]))

-- name: restocks
SELECT product_id AS subject, idempotency_key AS key, quantity || ' pieces' AS entered FROM movements
WHERE (product_id, idempotency_key) IN (SELECT * FROM unnest(%(subjects)s::text[], %(keys)s::text[]))
