"""The failure report: the migrations that were and were not applied, for the error that ended a run."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from agent_storage.migrations.errors import MigrationFailure
from agent_storage.migrations.files.file import MigrationFile, MigrationKey
from agent_storage.migrations.history.tracking import TrackingTables
from agent_storage.migrations.results import Direction, Done
from agent_storage.migrations.run.session import open_session


def describe(
    conninfo: str,
    own: str,
    done: Sequence[Done],
    current: MigrationFile | None,
    files: Sequence[MigrationFile],
    direction: Direction,
) -> list[str]:
    """Return lines about the migration that was running (`current`), those before it and those after it."""
    verb = "applied" if direction == "up" else "rolled back"
    rest = [file.name for file in files[len(done) :]]
    lines: list[str] = []
    if current is not None and current.transactional:
        kept = _was_kept(conninfo, current, direction)
        rest = [name for name in rest if not (kept and name == current.name)]
        fate = {True: f"was committed and is {verb}", False: "was rolled back", None: "is unknown: see status"}
        lines.append(f"{current.name} {fate[kept]}")
    if done:
        lines.append(
            f"{verb} in this run: {', '.join(MigrationKey(result.source, result.id).name(own) for result in done)}"
        )
    if rest:
        lines.append(f"not {verb}: {', '.join(rest)}")
    return lines


def _was_kept(conninfo: str, file: MigrationFile, direction: Direction) -> bool | None:
    """Return whether the interrupted transaction was committed, read on a new connection. None if unknown."""
    try:
        with open_session(conninfo) as session:
            return TrackingTables(session.connection).is_applied(file.key) == (direction == "up")
    except (MigrationFailure, psycopg.Error):
        return None
