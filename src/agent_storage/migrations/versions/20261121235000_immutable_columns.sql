-- The function of triggers that refuse to change an immutable column.

-- Refuse an UPDATE of an immutable column. The WHEN of the trigger compares the column; its arguments are the column's
-- name and a hint. Reported as a Conflict.
CREATE FUNCTION trigger_refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of row % cannot be changed', TG_ARGV[0], OLD.id
        USING ERRCODE = 'AS001', TABLE = TG_TABLE_NAME, COLUMN = TG_ARGV[0],
              CONSTRAINT = TG_TABLE_NAME || '_' || TG_ARGV[0] || '_immutable', HINT = TG_ARGV[1];
END
$$;
