-- The table of schema.sql in an SQLite file. Times are microseconds since 1970 in UTC, ids are text, and text is escaped
-- as in PostgreSQL. state comes last: a list does not read the pages of what comes after the columns that it returns.
-- Foreign keys hold on connections with PRAGMA foreign_keys = on, which those of the provider have.
CREATE TABLE checkpoints (
    id          TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 36),
    agent_id    TEXT    NOT NULL CHECK (length(agent_id) BETWEEN 1 AND 500),
    session_id  TEXT    CHECK (length(session_id) <= 500),
    agent_type  TEXT    CHECK (length(agent_type) <= 500),
    name        TEXT,
    owner       TEXT    CHECK (length(owner) BETWEEN 1 AND 500),
    captured_at INTEGER NOT NULL CHECK (captured_at BETWEEN -62135596800000000 AND 253402300799999999),
    parent_id   TEXT    REFERENCES checkpoints (id) ON DELETE SET NULL,
    created_at  INTEGER NOT NULL CHECK (created_at BETWEEN -62135596800000000 AND 253402300799999999),
    updated_at  INTEGER NOT NULL CHECK (updated_at BETWEEN -62135596800000000 AND 253402300799999999),
    size_bytes  INTEGER NOT NULL GENERATED ALWAYS AS (length(CAST(state AS BLOB))) STORED,
    state       TEXT    NOT NULL CHECK (json_valid(state))
) STRICT;

CREATE INDEX checkpoints_agent_id_idx ON checkpoints (agent_id, captured_at, id);
CREATE INDEX checkpoints_session_id_idx ON checkpoints (session_id, captured_at, id);
CREATE INDEX checkpoints_agent_type_idx ON checkpoints (agent_type, captured_at, id);
CREATE INDEX checkpoints_owner_idx ON checkpoints (owner, captured_at, id) WHERE owner IS NOT NULL;
CREATE INDEX checkpoints_captured_at_idx ON checkpoints (captured_at, id);
CREATE INDEX checkpoints_parent_id_idx ON checkpoints (parent_id);
