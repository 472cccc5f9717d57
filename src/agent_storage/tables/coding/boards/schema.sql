CREATE TABLE boards (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name       text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 500),
    slug       text        NOT NULL UNIQUE CHECK (char_length(slug) BETWEEN 1 AND 500),
    data       jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON boards FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

COMMENT ON TABLE boards IS 'Boards on which sessions are arranged';
COMMENT ON COLUMN boards.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN boards.name IS 'Name to show to people';
COMMENT ON COLUMN boards.slug IS 'Unique name for URLs';
COMMENT ON COLUMN boards.data IS 'JSON object: description, color, icon, ids of the sessions';
COMMENT ON COLUMN boards.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN boards.updated_at IS 'Time of the last UPDATE';
