CREATE TABLE projects (
    id          uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name        text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 500),
    path        text        NOT NULL UNIQUE CHECK (char_length(path) BETWEEN 1 AND 500),
    owner       text        CHECK (char_length(owner) BETWEEN 1 AND 500),
    description text,
    settings    jsonb       NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX projects_owner_idx ON projects (owner, id) WHERE owner IS NOT NULL;
CREATE TRIGGER set_timestamp BEFORE UPDATE ON projects FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

COMMENT ON TABLE projects IS 'Projects: a path with its files and tickets';
COMMENT ON COLUMN projects.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN projects.name IS 'Name to show to people';
COMMENT ON COLUMN projects.path IS 'Unique path of the project''s folder';
COMMENT ON COLUMN projects.owner IS 'User or tenant to which the project belongs; null if not said';
COMMENT ON COLUMN projects.description IS 'Description of the project';
COMMENT ON COLUMN projects.settings IS 'JSON object of the project''s settings';
COMMENT ON COLUMN projects.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN projects.updated_at IS 'Time of the last UPDATE';
