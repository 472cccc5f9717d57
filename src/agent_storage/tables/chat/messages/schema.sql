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
CREATE INDEX messages_created_at_idx ON messages USING brin (created_at);        -- for `usage_by`; costs an INSERT nothing

-- The text of a message: a string, or its parts; of tool calls and results the JSON text, without its escapes.
CREATE FUNCTION message_text(content jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 500 AS $$
BEGIN
    IF jsonb_typeof(content) = 'string' THEN
        RETURN content #>> '{}';
    ELSIF jsonb_typeof(content) <> 'array' THEN
        RETURN NULL;
    END IF;
    RETURN (
        SELECT string_agg(CASE
                          WHEN part ->> 'type' = 'tool_call' THEN
                              concat_ws(' ', part ->> 'name',
                                        regexp_replace(part ->> 'arguments', '\\(u....|.)', ' ', 'g'))
                          WHEN part ->> 'type' IS DISTINCT FROM 'tool_result' THEN part ->> 'text'
                          WHEN jsonb_typeof(part -> 'result') = 'string' THEN part ->> 'result'
                          ELSE regexp_replace(part ->> 'result', '\\(u....|.)', ' ', 'g')
                          END, ' ')
          FROM jsonb_array_elements(content) AS part
    );
END
$$;

-- Text as it is compared: letters without marks (é is e, ø is o), symbols as spaces. Of more than 65,536 characters
-- only the first 49,152 and the last 16,384, and no words of 255 characters and more. So no text is too long for a
-- tsvector, and the cost of a message is bounded. It calls no other function of this schema: ANALYZE runs without a
-- search_path.
CREATE FUNCTION search_fold(given text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 500 AS $$
DECLARE
    cjk    CONSTANT text := '\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff'
                            '\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff';
    others text;
    plain  text;
    letter text;
BEGIN
    IF octet_length(given) > 2000 THEN
        IF octet_length(given) > 65536 AND char_length(given) > 65536 THEN
            given := left(given, 49152) || ' ' || right(given, 16384);
        END IF;
        given := regexp_replace(given, '[^\s' || cjk || ']{255,}', ' ', 'g');
    END IF;
    IF octet_length(given) <> char_length(given) THEN
        given := regexp_replace(
            given,
            '[\u0080-\u00bf\u2000-\u206f\u2190-\u2bff'
            '\u3000-\u3004\u3008-\u303f\ufe00-\ufe0f\uff01-\uff0f\uff1a-\uff20\U0001f000-\U0001faff]+',
            ' ', 'g');
        others := regexp_replace(given, '[\u0001-\u007f]+', '', 'g');
        plain := normalize(regexp_replace(normalize(others, NFKD), '[\u0300-\u036f]+', '', 'g'), NFC);
        IF plain <> others AND char_length(others) > 100 THEN
            given := normalize(regexp_replace(normalize(given, NFKD), '[\u0300-\u036f]+', '', 'g'), NFC);
        ELSIF plain <> others THEN      -- a few letters: to replace each is three times as fast
            WHILE others <> '' LOOP
                letter := left(others, 1);
                others := replace(others, letter, '');
                plain := normalize(regexp_replace(normalize(letter, NFKD), '[\u0300-\u036f]+', '', 'g'), NFC);
                IF plain <> letter THEN
                    given := replace(given, letter, plain);
                END IF;
            END LOOP;
        END IF;
        IF given ~ '[øØđĐłŁıßæÆœŒ]' THEN
            given := replace(replace(replace(replace(replace(translate(given, 'øØđĐłŁı', 'oOdDlLi'),
                     'ß', 'ss'), 'æ', 'ae'), 'Æ', 'Ae'), 'œ', 'oe'), 'Œ', 'Oe');
        END IF;
    END IF;
    -- Addresses, paths, tags and compounds are words. A hyphen before a word excludes it from a search.
    IF given ~ '<|[/@.&+-][^\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u007f]' THEN
        given := regexp_replace(given, '[</@.&+]+|(?<=\S)-', ' ', 'g');
    END IF;
    RETURN given;
END
$$;

-- The words of folded text. Chinese, Japanese and Korean, which have no spaces, are indexed as all pairs of neighbours.
CREATE FUNCTION search_words(folded text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 500 AS $$
DECLARE
    cjk  CONSTANT text := '\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff'
                          '\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff';
    runs text;
BEGIN
    IF folded ~ '-\d' THEN
        folded := regexp_replace(folded, '-(?=\d)', ' ', 'g');
    END IF;
    IF octet_length(folded) <> char_length(folded) AND folded ~ ('[' || cjk || ']') THEN
        runs := regexp_replace(folded, '[^' || cjk || ']+', ' ', 'g');
        folded := regexp_replace(folded, '[' || cjk || ']+', ' ', 'g')
            || ' ' || regexp_replace(runs, '(\S\S)', '\1 ', 'g')
            || ' ' || regexp_replace(regexp_replace(runs, '(^| )\S', ' ', 'g'), '(\S\S)', '\1 ', 'g');
    END IF;
    RETURN to_tsvector('simple', folded);
END
$$;

-- The query for folded text as people type it: words, "a phrase", or, -without. A word also finds longer ones and those
-- of its English stem (train, trains, training), except numbers, words of one or two letters, and words of a phrase.
CREATE FUNCTION search_query(folded text) RETURNS tsquery
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 500 AS $$
DECLARE
    cjk   CONSTANT text := '\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff'
                           '\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff';
    typed text;
BEGIN
    folded := regexp_replace(folded, '(-\s*){2,}|-(?=\s|$)', ' ', 'g');     -- dashes would negate the next word
    typed := websearch_to_tsquery('simple', regexp_replace(folded, '(-?[' || cjk || ']+)', ' \1 ', 'g'));
    IF typed ~ ('[' || cjk || ']') THEN
        typed := regexp_replace(typed, '<[-0-9]+>', '&', 'g');
    END IF;
    RETURN (
        SELECT coalesce(string_agg(
                   CASE
                   WHEN word IS NULL THEN piece
                   WHEN word ~ ('[' || cjk || ']') AND char_length(word) > 1 THEN
                       (SELECT '(' || string_agg(quote_literal(substr(word, n, 2)), ' & ') || ')'
                          FROM generate_series(1, char_length(word) - 1) AS n)
                   WHEN word ~ ('[' || cjk || ']') THEN piece || ':*'
                   WHEN in_phrase OR char_length(word) < 3 OR word ~ '^\d+$' THEN piece
                   WHEN stem IS NULL OR stem = word THEN piece || ':*'
                   ELSE format('(%s:* | %L%s%s)', piece, stem, CASE WHEN char_length(stem) > 2 THEN ':*' END,
                               CASE WHEN stem LIKE '%i' THEN format(' | %L', left(stem, -1) || 'y') END)
                   END, '' ORDER BY place), '')::tsquery
          FROM (SELECT place, piece, word,
                       CASE WHEN word ~ '^[a-z]+$' THEN (ts_lexize('english_stem', word))[1] END AS stem,
                       coalesce(lag(piece) OVER around ~ '<', false) OR coalesce(lead(piece) OVER around ~ '<', false)
                           AS in_phrase
                  FROM (SELECT place, match[1] AS piece, substring(match[1] FROM '^''(.*)''$') AS word
                          FROM regexp_matches(typed, '''[^'']*''|[^'']+', 'g') WITH ORDINALITY AS m (match, place)) AS p
                WINDOW around AS (ORDER BY place)) AS w
    );
END
$$;
-- The words of new messages wait in the index's pending list, where a search finds them, until autovacuum's ANALYZE
-- merges them. Merged by the INSERT itself, they hold it up for a second (benchmarks/search.py); hence the high limit.
-- Statistics of words and documents would make ANALYZE slow, and no plan depends on them.
CREATE INDEX messages_search_idx ON messages USING gin (search_words(search_fold(message_text(content))))
    WITH (gin_pending_list_limit = 1048576);
ALTER INDEX messages_search_idx ALTER COLUMN 1 SET STATISTICS 0;
ALTER TABLE messages ALTER COLUMN content SET STATISTICS 0;
ALTER TABLE messages SET (autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

-- A message's content may be redacted; its place may not change.
CREATE TRIGGER keep_conversation BEFORE UPDATE OF conversation_id ON messages
    FOR EACH ROW WHEN (NEW.conversation_id <> OLD.conversation_id)
    EXECUTE FUNCTION trigger_refuse_change('conversation_id', 'append a copy to the other conversation');
CREATE TRIGGER keep_position BEFORE UPDATE OF position ON messages
    FOR EACH ROW WHEN (NEW.position <> OLD.position)
    EXECUTE FUNCTION trigger_refuse_change('position', 'append a copy, or fork the conversation');

-- An INSERT with explicit positions (COPY of a history) takes the conversation's counter along, so that the next append
-- finds a free position. It locks the counter first, as an append does, so the two queue; and it raises the counter after
-- the statement, once for all of its rows. The setting, local to the transaction, spares appends the second trigger.
CREATE FUNCTION trigger_lock_message_count() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.position > (SELECT message_count FROM conversations WHERE id = NEW.conversation_id) THEN
        PERFORM FROM conversations WHERE id = NEW.conversation_id FOR NO KEY UPDATE;
        PERFORM set_config('agent_storage.raise_counters', 'on', true);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER lock_message_count BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION trigger_lock_message_count();
CREATE FUNCTION trigger_raise_message_count() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.position > (SELECT message_count FROM conversations WHERE id = NEW.conversation_id) THEN
        UPDATE conversations c
           SET message_count = last.position, last_message_at = greatest(c.last_message_at, last.created_at)
          FROM (SELECT position, created_at FROM messages
                 WHERE conversation_id = NEW.conversation_id ORDER BY position DESC LIMIT 1) AS last
         WHERE c.id = NEW.conversation_id AND c.message_count < last.position;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER raise_message_count AFTER INSERT ON messages
    FOR EACH ROW WHEN (current_setting('agent_storage.raise_counters', true) = 'on')
    EXECUTE FUNCTION trigger_raise_message_count();

-- A thread stays in its conversation. It looks after the statement, when a parent that came with its child is there.
-- (A composite foreign key would need another unique index, and PostgreSQL 15.)
CREATE FUNCTION trigger_check_message_parent() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.conversation_id <> (SELECT conversation_id FROM messages WHERE id = NEW.parent_id) THEN
        RAISE EXCEPTION 'parent % of row % belongs to another conversation', NEW.parent_id, NEW.id
            USING ERRCODE = 'AS001', TABLE = 'messages', COLUMN = 'parent_id',
                  CONSTRAINT = 'messages_parent_in_conversation', HINT = 'choose a message of the same conversation';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER check_message_parent AFTER INSERT OR UPDATE OF parent_id ON messages
    FOR EACH ROW WHEN (NEW.parent_id IS NOT NULL) EXECUTE FUNCTION trigger_check_message_parent();
SELECT pin_search_path(
    'trigger_lock_message_count()',
    'trigger_raise_message_count()',
    'trigger_check_message_parent()');

COMMENT ON TABLE messages IS 'Messages of conversations, in order';
COMMENT ON COLUMN messages.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN messages.conversation_id IS 'Conversation that the message belongs to; never changes';
COMMENT ON COLUMN messages.position IS 'Position within the conversation, counted from 1 without gaps; never changes';
COMMENT ON COLUMN messages.role IS 'Author of the message';
COMMENT ON COLUMN messages.content IS 'JSON string, or JSON array of typed parts (text, image, tool_call, tool_result)';
COMMENT ON COLUMN messages.model_id IS 'Model that wrote the message';
COMMENT ON COLUMN messages.parent_id IS 'Message of the same conversation that this one answers, for branches';
COMMENT ON COLUMN messages.tool_call_id IS 'Id of the tool call that a tool message answers, as the model gave it';
COMMENT ON COLUMN messages.input_tokens IS 'Number of tokens that the model read';
COMMENT ON COLUMN messages.output_tokens IS 'Number of tokens that the model wrote';
COMMENT ON COLUMN messages.metadata IS 'JSON object of the platform''s own fields';
COMMENT ON COLUMN messages.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN messages.updated_at IS 'Time of the last UPDATE';
