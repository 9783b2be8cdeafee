-- migrate:up

CREATE TABLE accounts (
    customer_id text PRIMARY KEY,
    balance     bigint NOT NULL CHECK (balance >= 0), -- minor units
    currency    text NOT NULL,
    opened_at   timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

CREATE TABLE payments (
    order_id    uuid PRIMARY KEY, -- one decision per order
    customer_id text NOT NULL,
    state       text NOT NULL CHECK (state IN ('completed', 'declined', 'refunded', 'void')),
    reason      text,
    amount      bigint CHECK (amount >= 0), -- minor units; null if the order itself was never read
    currency    text,
    decided_at  timestamptz NOT NULL,
    revoked_at  timestamptz,
    CHECK (state = 'void' OR (state = 'declined' AND reason = 'discarded') OR (amount IS NOT NULL AND currency IS NOT NULL)),
    CHECK ((state = 'refunded') = (revoked_at IS NOT NULL))
) WITH (fillfactor = 90);

-- The double-entry ledger: each row moves an amount from one account to another, so the sum over all accounts is zero. The
-- accounts are cash, the merchant's and, by customer_id, the customers'. The merchant's balance is not stored: all
-- consumers would wait for each other at that one row. Rows are only ever added.
CREATE TABLE ledger (
    entry_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('deposit', 'capture', 'refund')),
    debit       text GENERATED ALWAYS AS (
        CASE kind WHEN 'deposit' THEN 'cash' WHEN 'capture' THEN 'customer' ELSE 'merchant' END) STORED,
    credit      text GENERATED ALWAYS AS (CASE kind WHEN 'capture' THEN 'merchant' ELSE 'customer' END) STORED,
    order_id    uuid,
    amount      bigint NOT NULL CHECK (amount > 0), -- minor units
    currency    text NOT NULL,
    recorded_at timestamptz NOT NULL,
    idempotency_key text,
    CHECK ((kind = 'deposit') = (order_id IS NULL))
);
CREATE INDEX ledger_by_customer ON ledger (customer_id, entry_id DESC);
CREATE UNIQUE INDEX ledger_by_idempotency_key ON ledger (customer_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

REVOKE UPDATE, DELETE, TRUNCATE ON ledger FROM payment;

-- migrate:down

DROP TABLE ledger, payments, accounts;
