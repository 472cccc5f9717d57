CREATE TABLE ticket_comments (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    ticket_id  uuid        NOT NULL REFERENCES tickets (id) ON DELETE CASCADE,
    author     text        NOT NULL CHECK (char_length(author) BETWEEN 1 AND 500),
    body       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ticket_comments_ticket_id_idx ON ticket_comments (ticket_id, id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON ticket_comments FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

COMMENT ON TABLE ticket_comments IS 'Comments of people and agents on tickets';
COMMENT ON COLUMN ticket_comments.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN ticket_comments.ticket_id IS 'Ticket that the comment is about';
COMMENT ON COLUMN ticket_comments.author IS 'Name of the person or agent';
COMMENT ON COLUMN ticket_comments.body IS 'Text of the comment';
COMMENT ON COLUMN ticket_comments.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN ticket_comments.updated_at IS 'Time of the last UPDATE';
