CREATE TABLE project_files (
    id            uuid        PRIMARY KEY DEFAULT uuid_v7(),
    project_id    uuid        NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    path          text        NOT NULL CHECK (char_length(path) BETWEEN 1 AND 500),
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

COMMENT ON TABLE project_files IS 'Files of projects: contents, summaries, imports and exports';
COMMENT ON COLUMN project_files.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN project_files.project_id IS 'Project that the file belongs to';
COMMENT ON COLUMN project_files.path IS 'Path of the file within the project; unique there';
COMMENT ON COLUMN project_files.extension IS 'Extension of the file name';
COMMENT ON COLUMN project_files.size_bytes IS 'Size of the file in bytes';
COMMENT ON COLUMN project_files.checksum IS 'Checksum of the content; a change marks the file as changed';
COMMENT ON COLUMN project_files.content IS 'Text of the file';
COMMENT ON COLUMN project_files.summary IS 'Summary of the content';
COMMENT ON COLUMN project_files.summarized_at IS 'Time at which the summary was written';
COMMENT ON COLUMN project_files.imports IS 'JSON array of what the file imports';
COMMENT ON COLUMN project_files.exports IS 'JSON array of what the file exports';
COMMENT ON COLUMN project_files.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN project_files.updated_at IS 'Time of the last UPDATE';
