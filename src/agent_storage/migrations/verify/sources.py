"""The declared schema, the migrations and the live database as catalog snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent_storage.catalog import Catalog, snapshot
from agent_storage.migrations.errors import HistoryProblem
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.history.timeline import Timeline
from agent_storage.migrations.history.tracking import TrackingTables
from agent_storage.migrations.run.replay import replay
from agent_storage.migrations.run.session import MigrationSession, explained
from agent_storage.migrations.verify.declared import load_schema
from agent_storage.migrations.verify.shadow import ShadowServer, open_shadow


def of_schema(server: ShadowServer, tables: Path) -> Catalog:
    """Return the catalog of the declared schema, loaded into a shadow database."""
    with server.database() as conninfo, open_shadow(conninfo) as connection:
        load_schema(connection, tables)
        return snapshot(connection)


def of_migrations(server: ShadowServer, files: Sequence[MigrationFile]) -> Catalog:
    """Return the catalog that these migrations create in an empty database."""
    with server.database() as conninfo, open_shadow(conninfo) as connection:
        replay(connection, files)
        return snapshot(connection)


def of_database(session: MigrationSession) -> Catalog:
    """Return the catalog of the live database. Only reads from it."""
    with explained():
        return snapshot(session.connection)


def as_applied(tracking: TrackingTables, timeline: Timeline) -> list[MigrationFile]:
    """Return the applied migrations of the database, in its order, with the SQL that was applied."""
    files = {file.id: file for file in timeline.files}
    found: list[MigrationFile] = []
    for id_, entry in timeline.applied.items():
        file = files.get(id_)
        if file is None or entry.checksum not in {None, file.checksum}:
            file = tracking.stored(id_)
        if file is None:
            hint = "stock yoyo applied it and stores no SQL; restore its file in the folder"
            raise HistoryProblem(f"{id_} is applied, but its file is missing", hint=hint)
        found.append(file)
    return found
