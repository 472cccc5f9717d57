CREATE TABLE models (
    id             uuid          PRIMARY KEY DEFAULT uuid_v7(),
    provider_id    uuid          NOT NULL REFERENCES providers (id) ON DELETE CASCADE,
    name           text          NOT NULL CHECK (name <> ''),
    display_name   text,
    context_window integer       CHECK (context_window > 0),
    input_price    numeric(20,6) CHECK (input_price >= 0),      -- per million tokens
    output_price   numeric(20,6) CHECK (output_price >= 0),
    capabilities   jsonb         NOT NULL DEFAULT '{}',
    enabled        boolean       NOT NULL DEFAULT true,
    created_at     timestamptz   NOT NULL DEFAULT now(),
    updated_at     timestamptz   NOT NULL DEFAULT now(),
    UNIQUE (provider_id, name)
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON models FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
