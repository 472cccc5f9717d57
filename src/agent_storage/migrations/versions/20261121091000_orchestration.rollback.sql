-- Takes the orchestration of coding agents away again, with everything that is stored in it.

DROP TABLE tasks;
DROP TABLE sessions;
DROP FUNCTION trigger_refuse_genealogy_cycle();
DROP TABLE repos;
DROP TABLE boards;
