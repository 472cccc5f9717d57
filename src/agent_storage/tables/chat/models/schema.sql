CREATE TABLE models (
    id             uuid          PRIMARY KEY DEFAULT uuid_v7(),
    provider_id    uuid          NOT NULL REFERENCES providers (id) ON DELETE CASCADE,
    name           text          NOT NULL CHECK (char_length(name) BETWEEN 1 AND 500),
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

COMMENT ON TABLE models IS 'Language models of a provider, with context windows and prices';
COMMENT ON COLUMN models.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN models.provider_id IS 'Provider that serves the model';
COMMENT ON COLUMN models.name IS 'Name that the provider''s API expects; unique within the provider';
COMMENT ON COLUMN models.display_name IS 'Name to show to people';
COMMENT ON COLUMN models.context_window IS 'Largest number of tokens of a request and its answer';
COMMENT ON COLUMN models.input_price IS 'Price of a million input tokens';
COMMENT ON COLUMN models.output_price IS 'Price of a million output tokens';
COMMENT ON COLUMN models.capabilities IS 'JSON object of features, such as vision or tools';
COMMENT ON COLUMN models.enabled IS 'Whether the model is offered to users';
COMMENT ON COLUMN models.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN models.updated_at IS 'Time of the last UPDATE';
