"""The declared schema, the migrations and the live database as catalog snapshots."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from agent_storage.catalog import Catalog, snapshot
from agent_storage.migrations.errors import HistoryProblem
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.history.timelines import Timelines
from agent_storage.migrations.history.tracking import TrackedMigration, TrackingTables
from agent_storage.migrations.run.replay import replay
from agent_storage.migrations.run.session import MigrationSession, explained
from agent_storage.migrations.verify.declared import declares, load_schema
from agent_storage.migrations.verify.shadow import ShadowServer, open_shadow
from agent_storage.sources import Source


def of_schema(server: ShadowServer, sources: Sequence[Source], files: Sequence[MigrationFile]) -> Catalog:
    """Return the catalog of the declared schema of these sources, loaded into a shadow database."""
    with server.database() as conninfo, open_shadow(conninfo) as connection:
        declare(connection, sources, files)
        return snapshot(connection)


def declare(connection: psycopg.Connection, sources: Sequence[Source], files: Sequence[MigrationFile]) -> None:
    """Load the declared schema of these sources. A source without a `schema.sql` declares what its migrations make."""
    silent = {source.name for source in sources if not declares(source)}
    load_schema(connection, *(source.tables for source in sources if source.name not in silent))
    replay(connection, [file for file in files if file.source in silent])


def of_migrations(server: ShadowServer, files: Sequence[MigrationFile]) -> Catalog:
    """Return the catalog that these migrations create in an empty database."""
    with server.database() as conninfo, open_shadow(conninfo) as connection:
        replay(connection, files)
        return snapshot(connection)


def of_database(session: MigrationSession) -> Catalog:
    """Return the catalog of the live database. Only reads from it."""
    with explained():
        return snapshot(session.connection)


def as_applied(tracking: TrackingTables, timelines: Timelines) -> list[MigrationFile]:
    """Return the applied migrations of the configured sources, in the order and with the SQL that was applied."""
    return _as_applied(tracking, timelines, timelines.entries)


def as_recorded(tracking: TrackingTables, timelines: Timelines) -> list[MigrationFile]:
    """Return the applied migrations of all sources, also of those that are not configured here."""
    return _as_applied(tracking, timelines, timelines.recorded)


def _as_applied(
    tracking: TrackingTables, timelines: Timelines, entries: Sequence[TrackedMigration]
) -> list[MigrationFile]:
    files = {file.key: file for file in timelines.files}
    found: list[MigrationFile] = []
    for key, entry in ((entry.key, entry) for entry in entries if entry.applied):
        file = files.get(key)
        if file is None or entry.checksum not in {None, file.checksum}:
            file = tracking.stored(key)
        if file is None:
            hint = "stock yoyo applied it and stores no SQL; restore its file in the folder"
            raise HistoryProblem(f"{key.name(timelines.own)} is applied, but its file is missing", hint=hint)
        found.append(file)
    return found
