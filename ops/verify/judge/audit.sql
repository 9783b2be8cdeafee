-- What one database alone must fulfil. Every statement returns offenders only, or sums.

-- name: claimed_twice
-- A record is about one order, so only one order's row can have it in its timeline.
SELECT split_part(event, '.', 1) AS source, entry.partition, "offset", count(*) AS orders,
  min(order_id::text) AS order_id, max(order_id::text) AS other
FROM orders, jsonb_to_recordset(timeline) AS entry(event text, partition integer, "offset" bigint)
WHERE "offset" IS NOT NULL GROUP BY 1, 2, 3 HAVING count(*) > 1 LIMIT %(most)s

-- name: accounts
-- A customer's balance must be what the ledger credits to the account less what it debits.
-- The condition says what is right, so that a null is an offender.
SELECT customer_id, balance, currency, entered, deposits, captures, refunds
FROM (SELECT *, count(*) OVER (PARTITION BY customer_id) AS rows FROM accounts) AS a FULL JOIN (
  SELECT customer_id, sum(CASE kind WHEN 'capture' THEN -amount ELSE amount END) AS entered,
    sum(amount) FILTER (WHERE kind = 'deposit') AS deposits,
    sum(amount) FILTER (WHERE kind = 'capture') AS captures,
    sum(amount) FILTER (WHERE kind = 'refund') AS refunds,
    min(currency) AS lowest, max(currency) AS highest
  FROM ledger GROUP BY customer_id) AS entries USING (customer_id)
WHERE (balance = coalesce(entered, 0) AND balance >= 0 AND rows = 1
  AND coalesce(lowest, currency) = currency AND coalesce(highest, currency) = currency) IS NOT TRUE
ORDER BY customer_id LIMIT %(most)s

-- name: ledger
-- Double entry: the accounts of the customers, the merchant and cash add up to zero. The last two exist only in the
-- ledger.
SELECT coalesce(l.currency, a.currency) AS currency, coalesce(l.entries, 0) AS entries,
  coalesce(accounts, 0) AS accounts, coalesce(wrong, 0) AS wrong,
  coalesce(cash, 0) + coalesce(merchant, 0) + coalesce(customers, 0) AS sum_of_entries,
  coalesce(cash, 0) + coalesce(merchant, 0) + coalesce(balances, 0) AS sum_of_accounts
FROM (
  SELECT currency, count(*) AS entries,
    sum(amount * ((credit = 'cash')::int - (debit = 'cash')::int)) AS cash,
    sum(amount * ((credit = 'merchant')::int - (debit = 'merchant')::int)) AS merchant,
    sum(amount * ((credit = 'customer')::int - (debit = 'customer')::int)) AS customers,
    count(*) FILTER (WHERE (amount > 0 AND customer_id <> '' AND currency <> ''
      AND (kind = 'deposit') = (order_id IS NULL) AND (kind, debit, credit) IN (
      ('deposit', 'cash', 'customer'), ('capture', 'customer', 'merchant'), ('refund', 'merchant', 'customer')
    )) IS NOT TRUE) AS wrong
  FROM ledger GROUP BY currency
) AS l FULL JOIN (
  SELECT currency, count(*) AS accounts, sum(balance) AS balances FROM accounts GROUP BY currency
) AS a USING (currency)

-- name: products
-- The stock of a product that is split is what its buckets have together. `lowest` is the least of them. They are
-- numbered from 0 without a gap: one of another number is found by no order.
SELECT product_id, on_hand, moved, restocks, reserves, releases, coalesce(wrong, 0) AS wrong,
  buckets, coalesce(split, 0) AS split, highest, lowest
FROM (
  SELECT product_id, on_hand + coalesce(in_buckets, 0) AS on_hand, least(on_hand, lowest) AS lowest, buckets, split,
    highest, count(*) OVER (PARTITION BY product_id) AS rows
  FROM products FULL JOIN (
    SELECT product_id, sum(on_hand) AS in_buckets, min(on_hand) AS lowest,
      count(*) AS split, max(bucket) AS highest
    FROM stock_buckets GROUP BY product_id) AS b USING (product_id)
) AS p FULL JOIN (
  SELECT product_id, sum(CASE kind WHEN 'reserve' THEN -quantity ELSE quantity END) AS moved,
    sum(quantity) FILTER (WHERE kind = 'restock') AS restocks,
    sum(quantity) FILTER (WHERE kind = 'reserve') AS reserves,
    sum(quantity) FILTER (WHERE kind = 'release') AS releases,
    count(*) FILTER (WHERE (quantity > 0 AND kind IN ('restock', 'reserve', 'release')
      AND (kind = 'restock') = (order_id IS NULL)) IS NOT TRUE) AS wrong
  FROM movements GROUP BY product_id) AS entries USING (product_id)
WHERE (on_hand = coalesce(moved, 0) AND lowest >= 0 AND coalesce(split, 0) = buckets
  AND coalesce(highest, -1) = buckets - 1 AND rows = 1
  AND coalesce(wrong, 0) = 0) IS NOT TRUE
ORDER BY product_id LIMIT %(most)s

-- name: product_count
SELECT count(*) AS products FROM products

-- name: unsettled
SELECT count(*) AS orders, coalesce(extract(epoch FROM now() - min(
  coalesce(placed_at, to_timestamp((timeline -> 0 ->> 'at')::bigint / 1000.0)))), 0)::float8 AS oldest_s
FROM orders WHERE settled_at IS NULL

-- name: overdue
-- A pending order waits for its decision until its deadline, a decided one for its compensations. A row that awaits the
-- order itself waits for a record that is already in the log. A time that is missing or in the future is wrong too.
-- Orders of customers with parked events come last, so that they hide no others.
SELECT order_id::text, customer_id, status, payment, inventory, waited_s FROM (
  SELECT order_id, customer_id, status, payment, inventory,
    extract(epoch FROM now() - CASE status
      WHEN 'pending' THEN placed_at
      WHEN 'awaiting_placed' THEN to_timestamp((timeline -> 0 ->> 'at')::bigint / 1000.0)
      ELSE decided_at END)::float8 AS waited_s,
    CASE status WHEN 'pending' THEN %(pending_s)s ELSE %(compensation_s)s END AS allowed_s
  FROM orders WHERE settled_at IS NULL
) AS waiting
WHERE (waited_s BETWEEN -%(clocks_s)s AND allowed_s) IS NOT TRUE
ORDER BY customer_id = ANY(%(blocked)s::text[]), waited_s DESC LIMIT %(most)s
