"""Load the declared schema, the `schema.sql` of every table's folder, into an empty database.

The order of the files does not matter: a statement that refers to an object of another file is tried again when that
object exists. So the folders are read by name, and a new table need not be listed anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from agent_storage.migrations.errors import InvalidRequest
from agent_storage.migrations.files.file import SqlText
from agent_storage.migrations.files.report import statement_failed
from agent_storage.migrations.files.splitter import SqlStatement
from agent_storage.sources import Source

TABLES = Path(__file__).parents[2] / "tables"
SHARED = "_shared.sql"

# Undefined table, object, function, schema, column: a later statement may create it.
_NOT_YET = {"42P01", "42704", "42883", "3F000", "42703"}


@dataclass(frozen=True, slots=True)
class _DeclaredStatement:
    path: Path
    text: SqlText
    statement: SqlStatement


def schema_files(folder: Path = TABLES) -> list[Path]:
    """Return the common file and every table's `schema.sql`, in the order in which they are read."""
    shared = [folder / SHARED] if (folder / SHARED).is_file() else []
    found = [*shared, *sorted(folder.rglob("schema.sql"))]
    if not found:
        raise InvalidRequest(f"{folder} contains no schema.sql", hint="name the folder of tables with --tables")
    return found


def declares(source: Source) -> bool:
    """Return whether the source has a declared schema."""
    return next(source.tables.rglob("schema.sql"), None) is not None


def load_schema(connection: psycopg.Connection, *folders: Path) -> None:
    """Load the common file and every `schema.sql` of the folders, in the order that their references require.

    Runs in one transaction. Raises `StatementFailed` with the position of the error.
    """
    with connection.transaction():
        waiting = [
            _DeclaredStatement(path, text, statement) for path, text in _texts(folders) for statement in text.statements
        ]
        while waiting:
            left = _pass(connection, waiting)
            if len(left) == len(waiting):
                # No statement succeeded: run the first again to raise its error.
                _run(connection, left[0])
            waiting = left


def _texts(folders: Sequence[Path]) -> list[tuple[Path, SqlText]]:
    return [(path, SqlText.read(path)) for folder in folders for path in schema_files(folder)]


def _pass(connection: psycopg.Connection, parts: Sequence[_DeclaredStatement]) -> list[_DeclaredStatement]:
    """Run the statements that succeed, and return the others."""
    left: list[_DeclaredStatement] = []
    for part in parts:
        try:
            with connection.transaction():
                connection.execute(part.statement.text.encode())
        except psycopg.Error as error:
            if error.sqlstate not in _NOT_YET:
                raise statement_failed(error, part.path, part.text, part.statement) from error
            left.append(part)
    return left


def _run(connection: psycopg.Connection, part: _DeclaredStatement) -> None:
    try:
        connection.execute(part.statement.text.encode())
    except psycopg.Error as error:
        raise statement_failed(error, part.path, part.text, part.statement) from error
