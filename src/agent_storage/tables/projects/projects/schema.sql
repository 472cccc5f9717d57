CREATE TABLE projects (
    id          uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name        text        NOT NULL CHECK (name <> ''),
    path        text        NOT NULL UNIQUE CHECK (path <> ''),
    description text,
    settings    jsonb       NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON projects FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
