"""Refuse a rollback that would remove, or fail because of, objects that migrations of another source have made."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import psycopg

from agent_storage.catalog import snapshot
from agent_storage.migrations.errors import InvalidRequest, StatementFailed
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.history.timelines import Timelines
from agent_storage.migrations.history.tracking import TrackingTables
from agent_storage.migrations.run.replay import run
from agent_storage.migrations.verify.catalogs import as_recorded
from agent_storage.migrations.verify.shadow import ShadowServer, open_shadow

_DEPENDENT_OBJECTS = "2BP01"


def refuse_removing(
    files: Sequence[MigrationFile],
    timelines: Timelines,
    tracking: TrackingTables,
    shadows: Callable[[], AbstractContextManager[ShadowServer]],
) -> None:
    """Raise `InvalidRequest` with both names if an object of another source would go, in any way, with these files.

    Tried in a shadow database, and only if another source has applied a migration after the first of them.
    """
    leaving = {file.key for file in files}
    sources = {file.source for file in files}
    places = [at for at, entry in enumerate(timelines.recorded) if entry.key in leaving]
    later = {
        entry.key
        for entry in timelines.recorded[min(places, default=0) :]
        if entry.applied and entry.source not in sources
    }
    if not files or not later:
        return
    recorded = as_recorded(tracking, timelines)
    with shadows() as server, server.database() as conninfo, open_shadow(conninfo) as shadow:
        made: dict[str, MigrationFile] = {}
        for file in recorded:
            before = _keys(shadow) if file.key in later else set[str]()
            run(shadow, file, "up")
            if file.key in later:
                made.update(dict.fromkeys(_keys(shadow) - before, file))
        for file in files:
            _try(shadow, file, made)


def _keys(shadow: psycopg.Connection) -> set[str]:
    return set(snapshot(shadow).by_key)


def _try(shadow: psycopg.Connection, file: MigrationFile, made: dict[str, MigrationFile]) -> None:
    try:
        run(shadow, file, "down")
    except StatementFailed as error:
        if error.sqlstate != _DEPENDENT_OBJECTS:
            raise
        words = set(re.findall(r"[\w$]+", " ".join(error.lines)))
        named = [key for key in made if key.rpartition(".")[2].strip('"') in words]
        named.sort(key=len, reverse=True)
        raise _needed(file, made[named[0]] if named else next(iter(made.values())), error.lines) from error
    present = _keys(shadow)
    gone = [key for key in made if key not in present]
    if gone:
        raise _needed(file, made[gone[0]], [f"it would remove {key}" for key in gone[:5]])


def _needed(file: MigrationFile, other: MigrationFile, lines: Sequence[str]) -> InvalidRequest:
    return InvalidRequest(
        f"{file.name} cannot be rolled back: {other.name} depends on it",
        lines=lines,
        hint=f"{other.name} of {other.source} is applied; keep both",
    )
