-- migrate:up

-- What is authorised on a customer's card for an order, and what the gateway has still to be told. It is in payment's
-- database, because a row is written in the transaction that decides the payment.
CREATE TABLE card_payments (
    order_id    uuid PRIMARY KEY,
    customer_id text NOT NULL,
    amount      bigint NOT NULL CHECK (amount > 0), -- minor units
    currency    text NOT NULL,
    wanted      text NOT NULL CHECK (wanted IN ('hold', 'capture', 'release')),
    done        text NOT NULL DEFAULT 'hold' CHECK (done IN ('hold', 'capture', 'release')),
    attempts    integer NOT NULL DEFAULT 0,
    next_at     timestamptz NOT NULL DEFAULT now(),
    problem     text
) WITH (fillfactor = 70);
CREATE INDEX card_payments_open ON card_payments (next_at) WHERE wanted <> done;

-- migrate:down

DROP TABLE card_payments;
