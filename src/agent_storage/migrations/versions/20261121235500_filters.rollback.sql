DROP FUNCTION jsonb_remove(jsonb, jsonb);
