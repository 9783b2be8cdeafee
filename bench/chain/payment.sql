-- Charges an account: one transaction in one round trip. Returns 1, or 0 if the money does not suffice.
WITH charged AS (
  UPDATE accounts SET balance = balance - %(amount)s
  WHERE customer_id = %(customer_id)s AND currency = %(currency)s AND balance >= %(amount)s RETURNING customer_id
), payment AS (
  INSERT INTO payments (order_id, customer_id, state, amount, currency, decided_at)
  SELECT %(order_id)s::uuid, customer_id, 'completed', %(amount)s, %(currency)s, now() FROM charged
), entry AS (
  INSERT INTO ledger (customer_id, kind, order_id, amount, currency, recorded_at)
  SELECT customer_id, 'capture', %(order_id)s::uuid, %(amount)s, %(currency)s, now() FROM charged
)
SELECT count(*) FROM charged
