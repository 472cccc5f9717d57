"""Run migrations in a shadow database: only their statements, without lock, tracking tables or lint."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from agent_storage.migrations.files.file import MigrationFile, SqlText
from agent_storage.migrations.files.report import statement_failed
from agent_storage.migrations.results import Direction

_RESET = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL"


def replay(connection: psycopg.Connection, files: Sequence[MigrationFile]) -> None:
    """Apply these migrations, each in a transaction."""
    for file in files:
        run(connection, file, "up")


def run(connection: psycopg.Connection, file: MigrationFile, direction: Direction) -> None:
    """Apply one migration, or roll it back."""
    text = file.up if direction == "up" else file.down or SqlText("")
    path = file.path if direction == "up" else file.rollback_path
    connection.execute(_RESET)
    current = None
    try:
        if file.transactional:
            with connection.transaction():
                for current in text.statements:
                    connection.execute(current.text.encode())
                current = None
        else:
            for current in text.statements:
                connection.execute(current.text.encode())
    except psycopg.Error as error:
        raise statement_failed(error, path, text, current) from error
    connection.execute(_RESET)
