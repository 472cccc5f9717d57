CREATE TABLE repos (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    slug       text        NOT NULL UNIQUE CHECK (slug <> ''),
    data       jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON repos FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
