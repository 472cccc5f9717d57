ALTER TABLE messages RESET (autovacuum_analyze_scale_factor, autovacuum_analyze_threshold);
ALTER TABLE messages ALTER COLUMN content SET STATISTICS -1;
DROP INDEX messages_search_idx;
DROP FUNCTION search_query(text);
DROP FUNCTION search_words(text);
DROP FUNCTION search_fold(text);
DROP FUNCTION message_text(jsonb);

-- The words of a message's content: a string, or the text of its parts.
CREATE FUNCTION message_text(content jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE jsonb_typeof(content)
           WHEN 'string' THEN content #>> '{}'
           WHEN 'array' THEN (SELECT string_agg(part ->> 'text', ' ') FROM jsonb_array_elements(content) AS part)
           END
$$;
CREATE INDEX messages_search_idx ON messages USING gin (to_tsvector('simple', message_text(content)));
