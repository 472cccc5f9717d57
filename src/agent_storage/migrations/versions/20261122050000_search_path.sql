-- Functions find their tables whatever the search_path of the session is, and each schema has its own channels.

-- Give functions the search_path of their own schema. They find its tables whatever the path of the session is: that of
-- another product, or the empty one of pg_restore, autovacuum and REINDEX. CREATE OR REPLACE FUNCTION removes the setting,
-- so call this after it. A function whose body names nothing outside pg_catalog needs no setting.
CREATE OR REPLACE FUNCTION pin_search_path(VARIADIC functions regprocedure[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    pinned record;
BEGIN
    FOR pinned IN
        SELECT p.oid::regprocedure AS name, n.nspname AS schema
          FROM pg_catalog.pg_proc p
          JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE p.oid = ANY (functions)
         ORDER BY p.oid
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', pinned.name, pinned.schema);
    END LOOP;
END
$$;

-- The channel of a table's notifications. Products in several schemas of a database have a channel each. A channel has at
-- most 63 bytes, so a long name of a schema is replaced by its hash.
CREATE OR REPLACE FUNCTION notification_channel(name text, schema text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT name || '.' || CASE WHEN octet_length(name || '.' || schema) < 64 THEN schema
                               ELSE left(encode(sha256(convert_to(schema, 'UTF8')), 'hex'), 32) END
$$;

CREATE OR REPLACE FUNCTION trigger_notify_event_stream() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(notification_channel(TG_TABLE_NAME, TG_TABLE_SCHEMA), NEW.stream_id);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION trigger_notify_approval() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(notification_channel(TG_TABLE_NAME, TG_TABLE_SCHEMA), OLD.id::text);
    RETURN NULL;
END
$$;

SELECT pin_search_path(
    'jsonb_merge(jsonb, jsonb)',
    'jsonb_remove(jsonb, jsonb)',
    'lock_for_delete(regclass, uuid[], integer)',
    'trigger_check_message_count()',
    'trigger_lock_message_count()',
    'trigger_raise_message_count()',
    'trigger_check_message_parent()',
    'trigger_refuse_genealogy_cycle()',
    'trigger_place_ticket_task()',
    'trigger_check_ticket_task_dependencies()',
    'trigger_forget_ticket_tasks()',
    'awaited_by_run(uuid)',
    'trigger_release_run()',
    'trigger_notify_approval()',
    'trigger_post_budget_entries()',
    'trigger_close_budget_reservation()',
    'trigger_keep_budget_entries()',
    'budget_post(text, uuid, numeric, uuid, uuid, text, text, uuid, timestamptz, jsonb)',
    'trigger_check_new_budget_pool()',
    'trigger_hold_budget()',
    'trigger_notify_event_stream()',
    'trigger_check_last_sequence()',
    'trigger_lock_last_sequence()',
    'trigger_raise_last_sequence()',
    'trigger_move_execution_state()');

-- Columns are compared one by one: pg_dump writes a comparison of rows as something else, which would be drift.
CREATE OR REPLACE TRIGGER keep_entries BEFORE UPDATE ON budget_entries
    FOR EACH ROW WHEN (pg_trigger_depth() = 0 OR NEW.session_id IS NOT NULL
                       OR NEW.id IS DISTINCT FROM OLD.id OR NEW.pool_id IS DISTINCT FROM OLD.pool_id
                       OR NEW.kind IS DISTINCT FROM OLD.kind OR NEW.amount IS DISTINCT FROM OLD.amount
                       OR NEW.to_pool_id IS DISTINCT FROM OLD.to_pool_id
                       OR NEW.reservation_id IS DISTINCT FROM OLD.reservation_id
                       OR NEW.key IS DISTINCT FROM OLD.key OR NEW.actor IS DISTINCT FROM OLD.actor
                       OR NEW.metadata IS DISTINCT FROM OLD.metadata)
    EXECUTE FUNCTION trigger_keep_budget_entries();
