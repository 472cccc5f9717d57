"""The declared schema, the migrations and the live database as catalog snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent_storage.catalog import Catalog, snapshot
from agent_storage.migrations.errors import HistoryProblem
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.history.timeline import Timeline
from agent_storage.migrations.history.tracking import Ledger
from agent_storage.migrations.run.replay import replay
from agent_storage.migrations.run.session import Session, explained
from agent_storage.migrations.verify.declared import load_schema
from agent_storage.migrations.verify.shadow import ShadowServer, open_shadow


def of_schema(server: ShadowServer, tables: Path) -> Catalog:
    """The declared schema, loaded into a shadow."""
    with server.database() as conninfo, open_shadow(conninfo) as connection:
        load_schema(connection, tables)
        return snapshot(connection)


def of_migrations(server: ShadowServer, files: Sequence[MigrationFile]) -> Catalog:
    """What these migrations make of an empty database."""
    with server.database() as conninfo, open_shadow(conninfo) as connection:
        replay(connection, files)
        return snapshot(connection)


def of_database(session: Session) -> Catalog:
    """The live database, only read."""
    with explained():
        return snapshot(session.connection)


def as_applied(ledger: Ledger, timeline: Timeline) -> list[MigrationFile]:
    """The migrations that the database has, in its order, with the text that was applied."""
    files = {file.id: file for file in timeline.files}
    found: list[MigrationFile] = []
    for id_, entry in timeline.applied.items():
        file = files.get(id_)
        if file is None or entry.checksum not in {None, file.checksum}:
            file = ledger.stored(id_)
        if file is None:
            hint = "stock yoyo applied it and kept no SQL; put its file back into the folder"
            raise HistoryProblem(f"{id_} is applied, but its file is missing", hint=hint)
        found.append(file)
    return found
