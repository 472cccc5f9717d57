CREATE TABLE providers (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name       text        NOT NULL UNIQUE CHECK (name <> ''),
    kind       text        NOT NULL,
    base_url   text,
    api_key    text,                                -- ciphertext, see the docs on secrets
    enabled    boolean     NOT NULL DEFAULT true,
    settings   jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON providers FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
