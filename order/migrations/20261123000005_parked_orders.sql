-- migrate:up

-- Finds a parked event of `orders` by its order id, for GET /orders/{id}. An expression, because a parked record may not
-- be an event at all; `encode` accepts any bytes. The index is empty while nothing is parked.
CREATE INDEX parked_events_by_order ON parked_events (substring(encode(value, 'escape') FROM '"subject":"([0-9a-f-]{36})"'))
    WHERE topic = 'orders' AND state IN ('parked', 'redrive', 'discard');

-- migrate:down

DROP INDEX parked_events_by_order;
