"""Refuse to start a run that would meet an object which no migration made, such as a product's table `sessions`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from agent_storage.migrations.errors import NameTaken
from agent_storage.migrations.files.file import MigrationFile, SqlText
from agent_storage.migrations.files.names import Name, Step, steps
from agent_storage.migrations.files.report import shown
from agent_storage.migrations.history.timelines import Timelines
from agent_storage.migrations.history.tracking import TrackingTables
from agent_storage.migrations.run.session import MigrationSession

# The types of tables and arrays are left out, because they follow those of their tables and elements, and the functions
# of extensions, because they differ from ours in the types of their arguments.
_PRESENT = """
SELECT 'relation' AS family, n.nspname AS schema, c.relname AS name, NULL::integer AS arguments,
       (SELECT t.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
         WHERE i.indexrelid = c.oid) AS "table"
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = ANY(%(names)s) AND n.nspname = ANY(%(schemas)s) AND c.relkind <> 't'
 UNION ALL
SELECT 'relation', n.nspname, t.typname, NULL, NULL
  FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
 WHERE t.typname = ANY(%(names)s) AND n.nspname = ANY(%(schemas)s) AND t.typrelid = 0
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = t.oid)
 UNION ALL
SELECT 'function', n.nspname, p.proname, p.pronargs, NULL
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE p.proname = ANY(%(names)s) AND n.nspname = ANY(%(schemas)s)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e')
"""


class _Clash(NamedTuple):
    file: MigrationFile
    step: Step
    name: Name


def refuse_taken(session: MigrationSession, schema: str, timelines: Timelines) -> None:
    """Raise `NameTaken` if a pending migration creates something that exists and that no migration has made.

    `schema` is that of the tracking tables. A problem of the history is left to be reported first.
    """
    wanted = [(file, step) for file in timelines.pending for step in steps(file.up)]
    present = _present(session, {_in_schema(step.name, schema) for _, step in wanted if step.made})
    if not present or timelines.problems(allow_out_of_order=True):
        return
    ours: set[Name] = set()
    # Another migrator may be at work. Its tracking tables are read after what it made, so that they explain all of it.
    for text in _known(TrackingTables(session.connection), timelines):
        _follow(ours, steps(text), schema)
    clashes = list(_clashes(wanted, present, ours, schema))
    if clashes:
        raise _taken(clashes)


def _present(session: MigrationSession, names: set[Name]) -> Mapping[Name, str | None]:
    """Return those of the names that exist, and for an index its table."""
    values = {"names": sorted({one.name for one in names}), "schemas": sorted({one.schema or "" for one in names})}
    rows = session.connection.execute(_PRESENT, values).fetchall() if names else []
    return {Name(family, schema, name, arguments): table for family, schema, name, arguments, table in rows}


def _known(tracking: TrackingTables, timelines: Timelines) -> Iterable[SqlText]:
    """Yield the SQL that is or was applied here, of any source: no other program made its objects."""
    yield from tracking.texts()
    once = {entry.id for entry in (*tracking.history(), *tracking.entries())}
    yield from (file.up for file in timelines.files if file.id in once)


def _follow(ours: set[Name], made: Iterable[Step], schema: str) -> None:
    for step in made:
        name = _in_schema(step.name, schema)
        if step.made:
            ours.add(name)
        else:
            ours -= {one for one in ours if one[:3] == name[:3]}


def _clashes(
    wanted: Iterable[tuple[MigrationFile, Step]], present: Mapping[Name, str | None], ours: set[Name], schema: str
) -> Iterable[_Clash]:
    """Yield the steps that fail. An object that a pending migration drops before is not in the way."""
    left = {name: table for name, table in present.items() if name not in ours}
    for file, step in wanted:
        name = _in_schema(step.name, schema)
        if step.made:
            if name in left:
                yield _Clash(file, step, name)
        else:
            left = {
                one: table
                for one, table in left.items()
                if one[:3] != name[:3] and not (step.kind == "table" and table == name.name)
            }


def _in_schema(name: Name, schema: str) -> Name:
    return name if name.schema else name._replace(schema=schema)


def _taken(clashes: Sequence[_Clash]) -> NameTaken:
    lines: list[str] = []
    for one in clashes:
        line = one.file.up.place(one.step.statement.offset)[0]
        lines.append(f"{shown(one.file.path)}:{line} creates {one.step.kind} {one.name.name}")
    first = clashes[0]
    found = f"{first.step.kind} {first.name.schema}.{first.name.name} exists, and no migration made it"
    return NameTaken(
        f"{found}; nothing was applied",
        lines=lines,
        hint="put these tables into another schema (STORAGE_SCHEMA, or schema in [tool.agent-storage] of"
        " pyproject.toml), or rename what exists; if an earlier installation made it: `storage migrate baseline`",
    )
