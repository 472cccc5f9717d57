CREATE TABLE workflows (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name       text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 500),
    version    text        NOT NULL DEFAULT '1' CHECK (char_length(version) <= 100),
    owner      text        CHECK (char_length(owner) BETWEEN 1 AND 500),
    definition jsonb       NOT NULL,
    metadata   jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX workflows_name_idx ON workflows (name, version, id);      -- not unique: a version may be saved again
CREATE INDEX workflows_owner_idx ON workflows (owner, id) WHERE owner IS NOT NULL;
CREATE TRIGGER set_timestamp BEFORE UPDATE ON workflows FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

COMMENT ON TABLE workflows IS 'Workflow definitions: nodes and their connections';
COMMENT ON COLUMN workflows.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN workflows.name IS 'Name of the workflow; not unique';
COMMENT ON COLUMN workflows.version IS 'Version of the definition; may be saved more than once';
COMMENT ON COLUMN workflows.owner IS 'User or tenant to which the workflow belongs; null if not said';
COMMENT ON COLUMN workflows.definition IS 'JSON value of the nodes and their connections';
COMMENT ON COLUMN workflows.metadata IS 'JSON object of the platform''s own fields';
COMMENT ON COLUMN workflows.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN workflows.updated_at IS 'Time of the last UPDATE';
