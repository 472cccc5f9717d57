"""The projects' migration on a database where conversations named projects that no table held."""

from __future__ import annotations

import psycopg

from agent_storage.migrations.migrator import Migrator

BEFORE, PROJECTS = "20261121091000_orchestration", "20261121092000_projects"


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
