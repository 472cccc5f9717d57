CREATE TABLE boards (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name       text        NOT NULL CHECK (name <> ''),
    slug       text        NOT NULL UNIQUE CHECK (slug <> ''),
    data       jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON boards FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
