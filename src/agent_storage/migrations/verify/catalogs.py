"""The declared schema, the migrations and the live database as catalog snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import psycopg
from psycopg import sql

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


def beside_database(session: MigrationSession, expected: Catalog) -> tuple[Catalog, Catalog]:
    """Return `expected` and the catalog of the live database, to be compared. Only reads from it.

    Of the schemas, the latter has that of the session and those that `expected` has: others belong to other programs.
    """
    with explained():
        own = TrackingTables(session.connection).schema
        live = snapshot(session.connection, schemas=[own, *_schemas(expected, own)], database=True)
    if own != "public":
        expected = _without_empty(expected, "public")
    if not any(entry.kind == "schema" for entry in live.entries):
        expected = _without_empty(expected, own)
    return expected, live


def _schemas(catalog: Catalog, own: str) -> list[str]:
    """Return the schemas of `catalog` beside `own`: every database has `public`, which counts if it has objects."""
    names = [entry.name for entry in catalog.entries if entry.kind == "schema"]
    used = any(entry.name.startswith("public.") for entry in catalog.entries)
    raw = [name[1:-1].replace('""', '"') if name.startswith('"') else name for name in names]
    return [name for name in raw if name != own and (name != "public" or used)]


def _without_empty(catalog: Catalog, schema: str) -> Catalog:
    """Return `catalog` without `schema` if it holds nothing: the default one, or one that `up` has yet to create."""
    name = sql.Identifier(schema).as_string(None)
    if any(entry.name.startswith((f"{schema}.", f"{name}.")) for entry in catalog.entries):
        return catalog
    keys = {f"schema {schema}", f"schema {name}"}  # the server quotes a name where that is necessary
    return replace(catalog, entries=tuple(entry for entry in catalog.entries if entry.key not in keys))


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
