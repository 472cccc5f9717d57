CREATE TABLE ticket_comments (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    ticket_id  uuid        NOT NULL REFERENCES tickets (id) ON DELETE CASCADE,
    author     text        NOT NULL CHECK (author <> ''),
    body       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ticket_comments_ticket_id_idx ON ticket_comments (ticket_id, id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON ticket_comments FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
