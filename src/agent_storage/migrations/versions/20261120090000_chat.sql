-- The chat domain: conversations, messages, providers, models, tools and their results.

-- What every table relies on. The first migration contains this text; a test keeps the two equal.

-- updated_at moves on every UPDATE, also twice in one transaction; created_at can never be changed.
CREATE OR REPLACE FUNCTION trigger_set_timestamp() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.created_at := OLD.created_at;
    NEW.updated_at := greatest(clock_timestamp(), OLD.updated_at + interval '1 microsecond');
    RETURN NEW;
END
$$;

-- UUIDv7 (RFC 9562): the server's own on PostgreSQL 18 and newer, before that the same layout in SQL:
-- 48 bits of milliseconds, 12 bits of their fraction, the rest random.
DO $do$
BEGIN
    IF current_setting('server_version_num')::integer >= 180000 THEN
        EXECUTE 'CREATE OR REPLACE FUNCTION uuid_v7() RETURNS uuid
                 LANGUAGE sql VOLATILE PARALLEL SAFE AS ''SELECT uuidv7()''';
    ELSE
        EXECUTE $fallback$
            CREATE OR REPLACE FUNCTION uuid_v7() RETURNS uuid
            LANGUAGE sql VOLATILE PARALLEL SAFE AS $body$
                SELECT encode(
                           substring(int8send(floor(microseconds / 1000)::bigint) FROM 3)
                           || substring(int4send(28672 + ((microseconds % 1000) * 4096 / 1000)::integer) FROM 3)
                           || substring(uuid_send(gen_random_uuid()) FROM 9),
                           'hex')::uuid
                  FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS microseconds) AS clock
            $body$
        $fallback$;
    END IF;
END
$do$;

-- Deep merge: objects merge to any depth, arrays and scalars replace, null is written as null, the rest stays.
CREATE OR REPLACE FUNCTION jsonb_merge(target jsonb, patch jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    result jsonb;
    item   record;
BEGIN
    IF jsonb_typeof(target) IS DISTINCT FROM 'object' OR jsonb_typeof(patch) IS DISTINCT FROM 'object' THEN
        RETURN patch;
    END IF;
    result := target || patch;
    FOR item IN SELECT key, value FROM jsonb_each(patch) WHERE jsonb_typeof(value) = 'object' LOOP
        IF target ? item.key THEN
            result := jsonb_set(result, ARRAY[item.key], jsonb_merge(target -> item.key, item.value));
        END IF;
    END LOOP;
    RETURN result;
END
$$;

CREATE TABLE providers (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name       text        NOT NULL UNIQUE CHECK (name <> ''),
    kind       text        NOT NULL,
    base_url   text,
    api_key    text,                                -- ciphertext, see the docs on secrets
    enabled    boolean     NOT NULL DEFAULT true,
    settings   jsonb       NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON providers FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

CREATE TABLE models (
    id             uuid          PRIMARY KEY DEFAULT uuid_v7(),
    provider_id    uuid          NOT NULL REFERENCES providers (id) ON DELETE CASCADE,
    name           text          NOT NULL CHECK (name <> ''),
    display_name   text,
    context_window integer       CHECK (context_window > 0),
    input_price    numeric(20,6) CHECK (input_price >= 0),      -- per million tokens
    output_price   numeric(20,6) CHECK (output_price >= 0),
    capabilities   jsonb         NOT NULL DEFAULT '{}',
    enabled        boolean       NOT NULL DEFAULT true,
    created_at     timestamptz   NOT NULL DEFAULT now(),
    updated_at     timestamptz   NOT NULL DEFAULT now(),
    UNIQUE (provider_id, name)
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON models FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- message_count is also the position of the last message: both move together, under the row's lock.
-- No fillfactor: each message moves last_message_at, which `recent` needs indexed, so no such update is HOT whatever room
-- there is (measured, see benchmarks/growth.py).
CREATE TABLE conversations (
    id              uuid        PRIMARY KEY DEFAULT uuid_v7(),
    title           text,
    project_id      uuid,                           -- the projects' migration adds the reference
    model_id        uuid        REFERENCES models (id) ON DELETE SET NULL,
    message_count   integer     NOT NULL DEFAULT 0 CHECK (message_count >= 0),
    last_message_at timestamptz NOT NULL DEFAULT now(),     -- never null, so that one index serves `recent`
    archived_at     timestamptz,
    metadata        jsonb       NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX conversations_recent_idx ON conversations (last_message_at, id) WHERE archived_at IS NULL;
CREATE INDEX conversations_archived_idx ON conversations (last_message_at, id) WHERE archived_at IS NOT NULL;
CREATE INDEX conversations_project_id_idx ON conversations (project_id, last_message_at, id);
CREATE INDEX conversations_model_id_idx ON conversations (model_id);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

CREATE TABLE messages (
    id              uuid        PRIMARY KEY DEFAULT uuid_v7(),
    conversation_id uuid        NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    position        integer     NOT NULL CHECK (position > 0),
    role            text        NOT NULL CHECK (role IN ('system', 'user', 'assistant', 'tool')),
    content         jsonb       NOT NULL,
    model_id        uuid        REFERENCES models (id) ON DELETE SET NULL,
    parent_id       uuid        REFERENCES messages (id) ON DELETE SET NULL,
    tool_call_id    text,
    input_tokens    integer     CHECK (input_tokens >= 0),
    output_tokens   integer     CHECK (output_tokens >= 0),
    metadata        jsonb       NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (conversation_id, position)
);
CREATE INDEX messages_model_id_idx ON messages (model_id);
CREATE INDEX messages_parent_id_idx ON messages (parent_id);

-- The words of a message's content: a string, or the text of its parts.
CREATE FUNCTION message_text(content jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE jsonb_typeof(content)
           WHEN 'string' THEN content #>> '{}'
           WHEN 'array' THEN (SELECT string_agg(part ->> 'text', ' ') FROM jsonb_array_elements(content) AS part)
           END
$$;
CREATE INDEX messages_search_idx ON messages USING gin (to_tsvector('simple', message_text(content)));
CREATE TRIGGER set_timestamp BEFORE UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

CREATE TABLE tool_configs (
    id           uuid        PRIMARY KEY DEFAULT uuid_v7(),
    name         text        NOT NULL UNIQUE CHECK (name <> ''),
    transport    text        NOT NULL DEFAULT 'stdio' CHECK (transport IN ('stdio', 'http', 'sse')),
    command      text,
    args         jsonb       NOT NULL DEFAULT '[]',
    url          text,
    env          text,                              -- ciphertext, see the docs on secrets
    input_schema jsonb       NOT NULL DEFAULT '{}', -- the JSON Schema of an MCP tool
    enabled      boolean     NOT NULL DEFAULT true,
    metadata     jsonb       NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON tool_configs FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

CREATE TABLE tool_results (
    id              uuid        PRIMARY KEY DEFAULT uuid_v7(),
    conversation_id uuid        NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    message_id      uuid        REFERENCES messages (id) ON DELETE SET NULL,
    tool_config_id  uuid        REFERENCES tool_configs (id) ON DELETE SET NULL,
    call_id         text        NOT NULL,
    tool_name       text        NOT NULL,
    arguments       jsonb       NOT NULL DEFAULT '{}',
    result          jsonb,
    error           text,
    status          text        NOT NULL DEFAULT 'pending'
                                CHECK (status IN ('pending', 'running', 'success', 'error', 'timeout', 'cancelled')),
    started_at      timestamptz,
    duration_ms     integer     CHECK (duration_ms >= 0),
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tool_results_conversation_id_idx ON tool_results (conversation_id, id);
CREATE INDEX tool_results_message_id_idx ON tool_results (message_id);
CREATE INDEX tool_results_tool_config_id_idx ON tool_results (tool_config_id);
CREATE INDEX tool_results_created_at_idx ON tool_results (created_at);
CREATE INDEX tool_results_open_idx ON tool_results (status, started_at) WHERE status IN ('pending', 'running');
CREATE TRIGGER set_timestamp BEFORE UPDATE ON tool_results FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();
