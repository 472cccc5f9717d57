DROP FUNCTION trigger_refuse_change();
