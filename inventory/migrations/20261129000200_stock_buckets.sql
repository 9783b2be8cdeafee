-- migrate:up

-- Instances that sell one product wait for one another at its row. Such a product's stock can be split: then it is in
-- `buckets` rows here, numbered from 0, of which a batch locks one, and on_hand of `products` stays 0.
ALTER TABLE products ADD COLUMN buckets smallint NOT NULL DEFAULT 0 CHECK (buckets BETWEEN 0 AND 64);

CREATE TABLE stock_buckets (
    product_id  text NOT NULL,
    bucket      smallint NOT NULL CHECK (bucket >= 0),
    on_hand     bigint NOT NULL CHECK (on_hand >= 0),
    PRIMARY KEY (product_id, bucket)
) WITH (fillfactor = 50);

-- migrate:down

DROP TABLE stock_buckets;
ALTER TABLE products DROP COLUMN buckets;
