-- fillfactor 70: a running session's data changes with every tool use; room on the page keeps 98 % of those updates HOT,
-- where 90 kept 82 %, and the table swells less (measured, see benchmarks/growth.py).
CREATE TABLE sessions (
    id                     uuid        PRIMARY KEY DEFAULT uuid_v7(),
    agent                  text        NOT NULL CHECK (char_length(agent) BETWEEN 1 AND 500),
    status                 text        NOT NULL DEFAULT 'idle'
                                       CHECK (status IN ('idle', 'running', 'completed', 'failed')),
    owner                  text        CHECK (char_length(owner) BETWEEN 1 AND 500),
    board_id               uuid        REFERENCES boards (id) ON DELETE SET NULL,
    repo_id                uuid        REFERENCES repos (id) ON DELETE SET NULL,
    parent_session_id      uuid        REFERENCES sessions (id) ON DELETE SET NULL,
    forked_from_session_id uuid        REFERENCES sessions (id) ON DELETE SET NULL,
    data                   jsonb       NOT NULL DEFAULT '{}',
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
CREATE INDEX sessions_status_idx ON sessions (status, id);
CREATE INDEX sessions_owner_idx ON sessions (owner, id) WHERE owner IS NOT NULL;
CREATE INDEX sessions_board_id_idx ON sessions (board_id, id);
CREATE INDEX sessions_repo_id_idx ON sessions (repo_id, id);
CREATE INDEX sessions_parent_session_id_idx ON sessions (parent_session_id, id);
CREATE INDEX sessions_forked_from_session_id_idx ON sessions (forked_from_session_id, id);
CREATE INDEX sessions_roots_idx ON sessions (id) WHERE parent_session_id IS NULL AND forked_from_session_id IS NULL;
CREATE TRIGGER set_timestamp BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
CREATE TRIGGER check_transition BEFORE UPDATE ON sessions
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION trigger_check_transition(
        'idle -> running failed',
        'running -> completed failed');

-- No session is its own ancestor. A cycle of new rows has a least id, whose row refers to a greater one: only such rows are
-- examined after an INSERT, and only their ancestors of greater ids. An UPDATE could close a cycle together with another one
-- that cannot see it yet, so updates take turns, after their statement has locked its rows. Above READ COMMITTED the
-- snapshot is older than the turn: there the ancestors are locked, and PostgreSQL ends one of the two as a serialization
-- failure or a deadlock, which may be retried.
-- Each ancestor is one look-up by the primary key, whatever the statistics say: LIMIT keeps the planner from a join, and
-- the setting from a scan of the table while it is small, in a plan that is kept when it has grown.
CREATE FUNCTION trigger_refuse_genealogy_cycle() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    ancestors uuid[];
BEGIN
    IF TG_OP = 'UPDATE' THEN
        PERFORM pg_advisory_xact_lock('sessions'::regclass::oid::integer, 0);
    END IF;
    WITH RECURSIVE above (id) AS (
        SELECT unnest(ARRAY[NEW.parent_session_id, NEW.forked_from_session_id])
         UNION
        SELECT unnest(ARRAY[origin.parent_session_id, origin.forked_from_session_id])
          FROM above
         CROSS JOIN LATERAL (SELECT s.parent_session_id, s.forked_from_session_id
                               FROM sessions s
                              WHERE s.id = above.id
                              LIMIT 1) origin
         WHERE above.id > NEW.id OR TG_OP = 'UPDATE'
    )
    SELECT array_agg(above.id ORDER BY above.id) INTO ancestors FROM above WHERE above.id IS NOT NULL;
    IF TG_OP = 'UPDATE' AND current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM FROM sessions WHERE id = ANY(ancestors) ORDER BY id FOR SHARE;
    END IF;
    IF NEW.id = ANY(ancestors) THEN
        RAISE EXCEPTION 'session % would become its own ancestor', NEW.id
            USING ERRCODE = 'AS001', TABLE = 'sessions', CONSTRAINT = 'sessions_genealogy_without_cycle',
                  HINT = 'choose a parent that does not descend from it';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER refuse_genealogy_cycle_on_insert AFTER INSERT ON sessions
    FOR EACH ROW WHEN (NEW.parent_session_id >= NEW.id OR NEW.forked_from_session_id >= NEW.id)
    EXECUTE FUNCTION trigger_refuse_genealogy_cycle();
CREATE TRIGGER refuse_genealogy_cycle_on_update AFTER UPDATE OF id, parent_session_id, forked_from_session_id ON sessions
    FOR EACH ROW WHEN (NEW.id <> OLD.id
                       OR NEW.parent_session_id IS NOT NULL AND NEW.parent_session_id IS DISTINCT FROM OLD.parent_session_id
                       OR NEW.forked_from_session_id IS NOT NULL
                          AND NEW.forked_from_session_id IS DISTINCT FROM OLD.forked_from_session_id)
    EXECUTE FUNCTION trigger_refuse_genealogy_cycle();
SELECT pin_search_path('trigger_refuse_genealogy_cycle()');

COMMENT ON TABLE sessions IS 'Sessions of coding agents, which may spawn and fork others';
COMMENT ON COLUMN sessions.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN sessions.agent IS 'Name of the agent program';
COMMENT ON COLUMN sessions.status IS 'State of the session';
COMMENT ON COLUMN sessions.owner IS 'User or tenant to which the session belongs; null if not said';
COMMENT ON COLUMN sessions.board_id IS 'Board on which the session is shown';
COMMENT ON COLUMN sessions.repo_id IS 'Repository that the session works on';
COMMENT ON COLUMN sessions.parent_session_id IS 'Session that spawned this one';
COMMENT ON COLUMN sessions.forked_from_session_id IS 'Session that this one was forked from';
COMMENT ON COLUMN sessions.data IS 'JSON object: title, state of the code, genealogy, counts of messages and tool uses';
COMMENT ON COLUMN sessions.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN sessions.updated_at IS 'Time of the last UPDATE';
