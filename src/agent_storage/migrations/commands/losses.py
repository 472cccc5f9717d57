"""The losses of a rollback: read from its statements, with the rows counted in the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from agent_storage.migrations.files.changes import Change, changes
from agent_storage.migrations.files.file import MigrationFile, MigrationKey
from agent_storage.migrations.history.selection import to_roll_back
from agent_storage.migrations.history.timelines import Timelines
from agent_storage.migrations.run.migrations import Migrations

_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Losses:
    """The migrations that would be rolled back, in that order, and a line for each thing that is lost with them."""

    keys: list[MigrationKey]
    names: list[str]
    lines: list[str]


def losses(migrator: Migrations, choose: Callable[[Timelines], Sequence[MigrationKey]]) -> Losses:
    """Return what rolling back the chosen migrations would lose. Only reads."""
    with migrator.session() as session:
        tracking = migrator.tracking(session)
        timelines = migrator.timelines(session, tracking)
        files = to_roll_back(tracking, timelines, choose(timelines))
        lines = list(dict.fromkeys(_lines(session.connection, files)))
    return Losses([file.key for file in files], [file.name for file in files], lines)


def _lines(connection: psycopg.Connection, files: Sequence[MigrationFile]) -> Iterator[str]:
    for file in files:
        for change in changes(file.down) if file.down is not None else ():
            if change.verb == "unknown":
                line = file.down.place(change.statement.offset)[0] if file.down else 0
                text = " ".join(change.statement.text.split())
                text = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
                yield f"unknown: {file.rollback_path.name}:{line} {text}"
            elif change.verb != "add":
                yield from _line(connection, change)


def _line(connection: psycopg.Connection, change: Change) -> Iterator[str]:
    name = sql.Identifier(*(part for part in (change.schema, change.table) if part))
    text = name.as_string(None)
    row = connection.execute("SELECT to_regclass(%s)::oid", (text,)).fetchone()
    if row is None or row[0] is None:
        return  # an earlier statement of the rollback makes it, or it is gone
    shown = text.replace('"', "") if text.replace('"', "").replace(".", "_").isidentifier() else text
    try:
        if change.column is None:
            count = _one(connection, sql.SQL("SELECT count(*) FROM {}").format(name))
            verb = "table" if change.verb == "drop" else "rows of"
            yield f"{verb} {shown}: {count} row{'s' * (count != 1)}"
        else:
            column = sql.Identifier(change.column)
            count = _one(connection, sql.SQL("SELECT count({}) FROM {}").format(column, name))
            yield f"column {shown}.{change.column}: {count} value{'s' * (count != 1)}"
    except psycopg.errors.UndefinedColumn:
        return
    except psycopg.Error as error:
        yield f"{shown}: its rows could not be counted ({error.diag.message_primary or error})"


def _one(connection: psycopg.Connection, query: sql.Composed) -> int:
    row = connection.execute(query).fetchone()
    return row[0] if row else 0
