CREATE TABLE project_files (
    id            uuid        PRIMARY KEY DEFAULT uuid_v7(),
    project_id    uuid        NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    path          text        NOT NULL CHECK (path <> ''),
    extension     text,
    size_bytes    bigint      NOT NULL DEFAULT 0 CHECK (size_bytes >= 0),
    checksum      text,
    content       text,
    summary       text,
    summarized_at timestamptz,
    imports       jsonb       NOT NULL DEFAULT '[]',
    exports       jsonb       NOT NULL DEFAULT '[]',
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, path)
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON project_files FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
