ALTER FUNCTION jsonb_merge(jsonb, jsonb) RESET search_path;
ALTER FUNCTION jsonb_remove(jsonb, jsonb) RESET search_path;
ALTER FUNCTION lock_for_delete(regclass, uuid[], integer) RESET search_path;
ALTER FUNCTION trigger_check_message_count() RESET search_path;
ALTER FUNCTION trigger_lock_message_count() RESET search_path;
ALTER FUNCTION trigger_raise_message_count() RESET search_path;
ALTER FUNCTION trigger_check_message_parent() RESET search_path;
ALTER FUNCTION trigger_refuse_genealogy_cycle() RESET search_path;
ALTER FUNCTION trigger_place_ticket_task() RESET search_path;
ALTER FUNCTION trigger_check_ticket_task_dependencies() RESET search_path;
ALTER FUNCTION trigger_forget_ticket_tasks() RESET search_path;
ALTER FUNCTION awaited_by_run(uuid) RESET search_path;
ALTER FUNCTION trigger_release_run() RESET search_path;
ALTER FUNCTION trigger_notify_approval() RESET search_path;
ALTER FUNCTION trigger_post_budget_entries() RESET search_path;
ALTER FUNCTION trigger_close_budget_reservation() RESET search_path;
ALTER FUNCTION trigger_keep_budget_entries() RESET search_path;
ALTER FUNCTION budget_post(text, uuid, numeric, uuid, uuid, text, text, uuid, timestamptz, jsonb) RESET search_path;
ALTER FUNCTION trigger_check_new_budget_pool() RESET search_path;
ALTER FUNCTION trigger_hold_budget() RESET search_path;
ALTER FUNCTION trigger_notify_event_stream() RESET search_path;
ALTER FUNCTION trigger_check_last_sequence() RESET search_path;
ALTER FUNCTION trigger_lock_last_sequence() RESET search_path;
ALTER FUNCTION trigger_raise_last_sequence() RESET search_path;
ALTER FUNCTION trigger_move_execution_state() RESET search_path;

CREATE OR REPLACE FUNCTION trigger_notify_event_stream() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('event_streams', NEW.stream_id);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION trigger_notify_approval() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('approval_requests', OLD.id::text);
    RETURN NULL;
END
$$;

DROP FUNCTION notification_channel(text, text);
DROP FUNCTION pin_search_path(regprocedure[]);

CREATE OR REPLACE TRIGGER keep_entries BEFORE UPDATE ON budget_entries
    FOR EACH ROW WHEN (pg_trigger_depth() = 0 OR NEW.session_id IS NOT NULL
                       OR (NEW.id, NEW.pool_id, NEW.kind, NEW.amount, NEW.to_pool_id, NEW.reservation_id, NEW.key,
                           NEW.actor, NEW.metadata)
                          IS DISTINCT FROM
                          (OLD.id, OLD.pool_id, OLD.kind, OLD.amount, OLD.to_pool_id, OLD.reservation_id, OLD.key,
                           OLD.actor, OLD.metadata))
    EXECUTE FUNCTION trigger_keep_budget_entries();
