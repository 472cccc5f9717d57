-- A call that is created running without a start has started now.
CREATE OR REPLACE FUNCTION trigger_set_started_at() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.started_at := clock_timestamp();
    RETURN NEW;
END
$$;

-- A checkpoint without a time was captured now.
CREATE OR REPLACE FUNCTION trigger_set_captured_at() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.captured_at := clock_timestamp();
    RETURN NEW;
END
$$;

COMMENT ON COLUMN conversations.last_message_at IS 'Time of the last message, or of the creation while there is none';
DROP TRIGGER set_last_message_at ON conversations;
DROP FUNCTION trigger_set_last_message_at();
DROP FUNCTION rows_as_given(anyelement, jsonb, boolean);
