-- Takes the chat domain away again, with everything that is stored in it.

DROP TABLE tool_results;
DROP TABLE tool_configs;
DROP TABLE messages;
DROP FUNCTION message_text(jsonb);
DROP TABLE conversations;
DROP TABLE models;
DROP TABLE providers;
DROP FUNCTION jsonb_merge(jsonb, jsonb);
DROP FUNCTION uuid_v7();
DROP FUNCTION trigger_set_timestamp();
