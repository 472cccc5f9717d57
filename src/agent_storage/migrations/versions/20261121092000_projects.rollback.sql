-- Takes project planning away again, with everything that is stored in it; conversations keep their project_id.

ALTER TABLE conversations DROP CONSTRAINT conversations_project_id_fkey;
DROP TABLE ticket_comments;
DROP TABLE ticket_tasks;
DROP FUNCTION trigger_place_ticket_task();
DROP TABLE tickets;
DROP TABLE project_files;
DROP TABLE projects;
