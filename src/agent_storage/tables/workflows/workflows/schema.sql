CREATE TABLE workflows (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name       text        NOT NULL CHECK (name <> ''),
    version    text        NOT NULL DEFAULT '1',
    definition jsonb       NOT NULL,
    metadata   jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX workflows_name_idx ON workflows (name, version, id);      -- not unique: a version may be saved again
CREATE TRIGGER set_timestamp BEFORE UPDATE ON workflows FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
