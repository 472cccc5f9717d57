DROP FUNCTION rows_as_given(anyelement, jsonb, boolean);
