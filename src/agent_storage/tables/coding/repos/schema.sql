CREATE TABLE repos (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    slug       text        NOT NULL UNIQUE CHECK (char_length(slug) BETWEEN 1 AND 500),
    data       jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON repos FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

COMMENT ON TABLE repos IS 'Code repositories that sessions work on, with their worktrees';
COMMENT ON COLUMN repos.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN repos.slug IS 'Unique name for URLs';
COMMENT ON COLUMN repos.data IS 'JSON object: remote URL, local path, default branch, worktrees';
COMMENT ON COLUMN repos.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN repos.updated_at IS 'Time of the last UPDATE';
