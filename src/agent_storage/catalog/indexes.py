"""Indexes, including those of constraints."""

# ruff: noqa: S608  (every piece of these queries is a LiteralString; pyright sees to it)

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from agent_storage.catalog import address
from agent_storage.catalog.draft import DraftEntry, Family, Row
from agent_storage.catalog.scope import options, own

# The server's text of an index contains its name and storage options. Both are compared separately, so they are
# removed: the name with everything before it, the options by writing them as the server does.
_INDEXES: LiteralString = f"""
    SELECT c.oid, c.oid::regclass::text AS name, quote_ident(c.relname) AS label, i.indisunique, i.indisclustered,
           r.oid::regclass::text AS "table", r.relkind::text AS relkind, c.relkind::text AS index_kind,
           i.indisvalid AND i.indisready AND i.indislive AS valid,
           d.text AS definition, o.text AS with_options,
           {options("c.reloptions")} AS options, quote_ident(k.conname) AS "constraint", k.conparentid,
           p.inhparent::regclass::text AS parent,
           (SELECT jsonb_object_agg(a.attnum, a.attstattarget)
              FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attstattarget >= 0) AS statistics
      FROM pg_index i
      JOIN pg_class c ON c.oid = i.indexrelid
      JOIN pg_class r ON r.oid = i.indrelid
      LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.conrelid = r.oid AND k.contype IN ('p', 'u', 'x')
      LEFT JOIN pg_inherits p ON p.inhrelid = c.oid
     CROSS JOIN LATERAL (
               SELECT substr(pg_get_indexdef(c.oid),
                             length(concat('CREATE ', CASE WHEN i.indisunique THEN 'UNIQUE ' END, 'INDEX ',
                                           quote_ident(c.relname), ' ON ', CASE c.relkind WHEN 'I' THEN 'ONLY ' END,
                                           r.oid::regclass::text)) + 2) AS text
           ) d
     CROSS JOIN LATERAL (
               SELECT ' WITH (' || string_agg(quote_ident(option_name) || '=' || CASE quote_ident(option_value)
                          WHEN option_value THEN option_value ELSE quote_literal(option_value) END, ', ') || ')' AS text
                 FROM pg_options_to_table(c.reloptions)
           ) o
     WHERE r.relkind IN ('r', 'p', 'm')
       AND r.relnamespace = ANY (%(schemas)s)
       AND r.oid <> ALL (%(tracking)s)
       AND {own("pg_class", "r.oid")}
       AND {own("pg_class", "c.oid")}
"""


def _indexes(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        draft = _index(row)
        _state(draft, row)
        yield draft


def _index(row: Row) -> DraftEntry:
    name, table = row["name"], row["table"]
    kind = "materialized view" if row["relkind"] == "m" else "table"
    unique = "UNIQUE INDEX" if row["indisunique"] else "INDEX"
    draft = DraftEntry(
        kind="index",
        name=name,
        address=(address.CLASS, row["oid"], 0),
        create=f"CREATE {unique} {row['label']} ON {table} {row['definition']};",
        drop=f"DROP INDEX IF EXISTS {name};",
        on=f"INDEX {name}",
        label=row["label"],
        rename=("ALTER INDEX ", f" RENAME TO {row['label']};"),
        table=table,
        parents=[f"{kind} {table}"],
        position=10,
    )
    if row["constraint"] and not row["conparentid"]:
        draft.parents.append(f"constraint {table}.{row['constraint']}")
        draft.inline = True
    else:
        draft.add("unique", "yes" if row["indisunique"] else None, inline=True)
        draft.add("definition", row["definition"].replace(row["with_options"] or "", "", 1), inline=True)
    if row["parent"]:
        draft.parents.append(f"index {row['parent']}")
        draft.inline = True
        attach = f"ALTER INDEX {row['parent']} ATTACH PARTITION {name};"
        draft.add(f"partition of {row['parent']}", "yes", set=attach, inline=True)
    return draft


def _state(draft: DraftEntry, row: Row) -> None:
    # A partitioned index has no storage to rebuild: it is valid once every partition has an attached index.
    again = None if row["index_kind"] == "I" else f"REINDEX INDEX {draft.name};"
    draft.add("valid", None if row["valid"] else "INVALID", reset=again, inline=True)
    cluster, uncluster = (
        f"ALTER TABLE {draft.table} CLUSTER ON {draft.label};",
        f"ALTER TABLE {draft.table} SET WITHOUT",
    )
    draft.add("clustered", "yes" if row["indisclustered"] else None, set=cluster, reset=f"{uncluster} CLUSTER;")
    alter = f"ALTER INDEX {draft.name}"
    # CREATE INDEX sets the options; the CREATE of a constraint does not.
    draft.options(row["options"], alter, inline=not draft.inline)
    statistics: dict[str, int] = row["statistics"] or {}
    for number, target in sorted(statistics.items()):
        column = f"{alter} ALTER COLUMN {number} SET STATISTICS"
        draft.add(f"statistics of column {number}", str(target), set=f"{column} {target};", reset=f"{column} -1;")


FAMILIES = (Family(_INDEXES, _indexes),)
