-- The people who buy.
CREATE TABLE customers (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    email      text        NOT NULL CHECK (char_length(email) BETWEEN 1 AND 500),
    name       text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT customers_email_key UNIQUE (email)
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

COMMENT ON TABLE customers IS 'Customers of the shop';
COMMENT ON COLUMN customers.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN customers.email IS 'Address for mail, unique';
COMMENT ON COLUMN customers.name IS 'Name to show; null if it is not known';
COMMENT ON COLUMN customers.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN customers.updated_at IS 'Time of the last UPDATE';
