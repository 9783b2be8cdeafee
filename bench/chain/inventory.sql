-- Reserves an order's line: one transaction in one round trip. Returns 1, or 0 if the stock does not suffice.
WITH taken AS (
  UPDATE products SET on_hand = on_hand - %(quantity)s
  WHERE product_id = %(product_id)s AND active AND on_hand >= %(quantity)s RETURNING product_id
), reservation AS (
  INSERT INTO reservations (order_id, customer_id, state, items, decided_at)
  SELECT %(order_id)s::uuid, %(customer_id)s, 'reserved',
    json_build_array(json_build_object('product_id', product_id, 'quantity', %(quantity)s::bigint)), now()
  FROM taken
), movement AS (
  INSERT INTO movements (product_id, kind, order_id, quantity, recorded_at)
  SELECT product_id, 'reserve', %(order_id)s::uuid, %(quantity)s, now() FROM taken
)
SELECT count(*) FROM taken
