-- Search finds prefixes and English stems, letters without their marks, pairs of Chinese, Japanese and Korean
-- characters, tool calls and results. No text is refused: of a long one the beginning and the end are indexed.
-- Words are merged into the index by autovacuum, no longer by the INSERT.

DROP INDEX messages_search_idx;
DROP FUNCTION message_text(jsonb);

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
