CREATE TABLE providers (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name       text        NOT NULL UNIQUE CHECK (char_length(name) BETWEEN 1 AND 500),
    kind       text        NOT NULL CHECK (char_length(kind) BETWEEN 1 AND 500),
    base_url   text,
    api_key    text,                                -- ciphertext, see the docs on secrets
    enabled    boolean     NOT NULL DEFAULT true,
    settings   jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON providers FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

COMMENT ON TABLE providers IS 'Model providers: APIs and their keys';
COMMENT ON COLUMN providers.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN providers.name IS 'Unique name of the provider';
COMMENT ON COLUMN providers.kind IS 'Protocol that the API speaks, such as openai or anthropic';
COMMENT ON COLUMN providers.base_url IS 'URL of the API; null for the provider''s public one';
COMMENT ON COLUMN providers.api_key IS 'API key, as AES-256-GCM ciphertext';
COMMENT ON COLUMN providers.enabled IS 'Whether the provider is in use';
COMMENT ON COLUMN providers.settings IS 'JSON object of settings for the provider''s client';
COMMENT ON COLUMN providers.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN providers.updated_at IS 'Time of the last UPDATE';
