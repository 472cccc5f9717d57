"""The declared schema, the migrations and the live database as catalog snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from psycopg import sql

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


def of_database(session: MigrationSession, beside: Catalog) -> Catalog:
    """Return the catalog of the live database, to be compared with `beside`. Only reads from it.

    Of the schemas, it has that of the session and those that `beside` has: the others belong to other programs.
    """
    with explained():
        own = own_schema(session)
        return snapshot(session.connection, schemas=[own, *_schemas(beside, own)], database=True)


def own_schema(session: MigrationSession) -> str:
    """Return the schema of the tables, be it created or not."""
    return TrackingTables(session.connection).schema


def _schemas(catalog: Catalog, own: str) -> list[str]:
    """Return the schemas of `catalog` beside `own`: every database has `public`, which counts if it has objects."""
    names = [entry.name for entry in catalog.entries if entry.kind == "schema"]
    used = any(entry.name.startswith("public.") for entry in catalog.entries)
    raw = [name[1:-1].replace('""', '"') if name.startswith('"') else name for name in names]
    return [name for name in raw if name != own and (name != "public" or used)]


def without_empty(catalog: Catalog, schema: str) -> Catalog:
    """Return `catalog` without `schema` if it holds nothing: `up` has yet to create it."""
    name = sql.Identifier(schema).as_string(None)
    if any(entry.name.startswith((f"{schema}.", f"{name}.")) for entry in catalog.entries):
        return catalog
    keys = {f"schema {schema}", f"schema {name}"}  # the server quotes a name where that is necessary
    return replace(catalog, entries=tuple(entry for entry in catalog.entries if entry.key not in keys))


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
