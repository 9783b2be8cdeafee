-- Stores a settled order. Returns 1.
INSERT INTO orders (order_id, customer_id, partition, status, payment, inventory, amount, currency, items,
  placed_at, decided_at, settled_at, traceparent, timeline)
VALUES (%(order_id)s, %(customer_id)s, 0, 'confirmed', 'completed', 'reserved', %(amount)s, %(currency)s, %(items)s,
  now(), now(), now(), '', '[]')
RETURNING 1
