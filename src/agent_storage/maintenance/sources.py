"""`storage check` over all sources: one scratch database of their migrations, and the columns that each added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import psycopg

from agent_storage.maintenance.check import check
from agent_storage.maintenance.findings import Finding
from agent_storage.maintenance.registry import Registered, registered
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.run.replay import replay
from agent_storage.migrations.verify.declared import declares
from agent_storage.migrations.verify.drift import diff, line
from agent_storage.migrations.verify.shadow import ShadowServer, open_shadow
from agent_storage.sources import Source

#: The source that added each column of each table. The first column of a table is its creator's.
Origins = Mapping[str, Mapping[str, str]]

_COLUMNS = """
    SELECT c.relname, a.attname
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.relkind IN ('r', 'p') AND pg_catalog.pg_table_is_visible(c.oid)
       AND c.relnamespace <> 'pg_catalog'::regnamespace
     ORDER BY c.oid, a.attnum
"""


def check_sources(migrator: Migrations, server: ShadowServer) -> list[str]:
    """Return what disagrees among the statements, records, schema.sql files and migrations of all sources."""
    files = migrator.files(own_may_be_empty=True)
    with server.database() as scratch, open_shadow(scratch) as connection:
        origins = build(connection, files)
        found = [str(finding) for finding in check_declarations(connection, migrator.sources, origins)]
    if any(map(declares, migrator.sources)):
        found += [line(difference) for difference in diff(migrator, server, "schema", "migrations").drift]
    return found


def build(connection: psycopg.Connection[Any], files: Iterable[MigrationFile]) -> Origins:
    """Apply migrations to an empty database. Return the source that added each column."""
    origins: dict[str, dict[str, str]] = {}
    for source, group in groupby(files, key=lambda file: file.source):
        replay(connection, list(group))
        for table, column in connection.execute(_COLUMNS):
            origins.setdefault(table, {}).setdefault(column, source)
    return origins


def check_declarations(
    connection: psycopg.Connection[Any], sources: Sequence[Source], origins: Origins
) -> list[Finding]:
    """Check the repositories of the sources on a database that `build` made. It is only read.

    A repository has to know the columns that its source added, and those of the source that created its table.
    """
    found: dict[str, list[Registered]] = {}
    for one in registered(sources):
        found.setdefault(one.source, []).append(one)
    beside = [one.repository for group in found.values() for one in group]
    findings: list[Finding] = []
    for source, group in found.items():
        foreign = {
            table: frozenset(name for name, of in columns.items() if of not in {source, next(iter(columns.values()))})
            for table, columns in origins.items()
        }
        findings += check(connection, [one.repository for one in group], beside=beside, foreign=foreign)
    return list(dict.fromkeys(findings))
