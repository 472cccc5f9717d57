"""The projects' migration on a database where conversations named projects that no table held."""

from __future__ import annotations

import psycopg

from agent_storage.migrations.migrator import Migrator

BEFORE, PROJECTS = "20261121091000_orchestration", "20261121092000_projects"
BEFORE_DEPENDENCIES = "20261121235000_immutable_columns"


def test_a_project_that_was_only_an_id_becomes_a_row_and_no_conversation_loses_it(database: str) -> None:
    migrator = Migrator(database)
    migrator.up(to=BEFORE)
    with psycopg.connect(database, autocommit=True) as connection:
        for _ in range(2):
            connection.execute(
                "INSERT INTO conversations (project_id) VALUES ('01999999-0000-7000-8000-000000000001'), (NULL)"
            )
        migrator.up(to=PROJECTS)
        assert connection.execute("SELECT count(*) FROM projects").fetchone() == (1,)
        named = "SELECT count(*) FROM conversations c JOIN projects p ON p.id = c.project_id"
        assert connection.execute(named).fetchone() == (2,)
        migrator.down(to=BEFORE)
        assert connection.execute("SELECT count(project_id) FROM conversations").fetchone() == (2,)


def test_what_no_task_can_depend_on_is_removed_and_the_rest_is_kept(database: str) -> None:
    migrator = Migrator(database)
    migrator.up(to=BEFORE_DEPENDENCIES)
    a, b, c, d, other, nowhere = (f"01999999-0000-7000-8000-00000000000{n}" for n in range(6))
    depends_on = {a: [], b: [a, nowhere, other], c: [b, a, d], d: [c, a, d], other: [other]}
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("INSERT INTO projects (id, name, path) VALUES (%s, 'p', 'p')", (a,))
        connection.execute(
            "INSERT INTO tickets (id, project_id, title) VALUES (%s, %s, 't'), (%s, %s, 't')", (a, a, other, a)
        )
        for position, (task, needed) in enumerate(depends_on.items(), 1):
            connection.execute(
                "INSERT INTO ticket_tasks (id, ticket_id, content, position, depends_on) VALUES (%s, %s, 'c', %s, %s)",
                (task, other if task == other else a, position, needed),
            )
        migrator.up()
        stored = dict(connection.execute("SELECT id::text, depends_on::text[] FROM ticket_tasks").fetchall())
        assert stored == {a: [], b: [a], c: [b, a], d: [a], other: []}
        connection.execute("UPDATE ticket_tasks SET depends_on = depends_on, done = true")
        migrator.down(to=BEFORE_DEPENDENCIES)
        connection.execute("UPDATE ticket_tasks SET depends_on = ARRAY[id]")
