-- The function of patches that remove keys of a JSON document.

-- Remove keys from a document. `keys` is an object: a value that is an object names keys of the object below, any other
-- value marks the key itself. What is no object is returned as it is.
CREATE FUNCTION jsonb_remove(document jsonb, keys jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    result jsonb;
    item   record;
BEGIN
    IF jsonb_typeof(document) IS DISTINCT FROM 'object' THEN
        RETURN document;
    END IF;
    result := document - ARRAY(SELECT key FROM jsonb_each(keys) WHERE jsonb_typeof(value) <> 'object');
    FOR item IN SELECT key, value FROM jsonb_each(keys) WHERE jsonb_typeof(value) = 'object' LOOP
        IF result ? item.key THEN
            result := jsonb_set(result, ARRAY[item.key], jsonb_remove(result -> item.key, item.value));
        END IF;
    END LOOP;
    RETURN result;
END
$$;
