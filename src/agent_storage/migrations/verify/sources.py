"""The three things that ought to agree, as catalog snapshots: declared schema, migrations, live database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from agent_storage.catalog import Catalog, snapshot
from agent_storage.migrations.errors import HistoryProblem, InvalidRequest
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.history.timeline import Timeline
from agent_storage.migrations.history.tracking import Ledger
from agent_storage.migrations.run.replay import replay
from agent_storage.migrations.run.session import Session, explained
from agent_storage.migrations.verify.declared import load_schema
from agent_storage.migrations.verify.shadow import ShadowServer, open_shadow

Source = Literal["schema", "migrations", "db"]
SOURCES: tuple[Source, ...] = ("schema", "migrations", "db")


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


def source(name: str) -> Source:
    """The source that a person named."""
    for known in SOURCES:
        if name == known:
            return known
    raise InvalidRequest(f"{name!r} is none of {', '.join(SOURCES)}", hint="storage migrate diff schema migrations")
