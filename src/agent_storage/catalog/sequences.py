"""Sequences. Their current values are data and not read."""

# ruff: noqa: S608  (every piece of these queries is a LiteralString; pyright sees to it)

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from agent_storage.catalog import address
from agent_storage.catalog.columns import sequence_clauses
from agent_storage.catalog.draft import DraftEntry, Family, Row
from agent_storage.catalog.scope import own, role

# OWNED BY is an automatic dependency of the sequence on the column, an identity column's an internal one.
_SEQUENCES: LiteralString = f"""
    SELECT c.oid, c.oid::regclass::text AS name, quote_ident(c.relname) AS label, to_jsonb(q) AS sequence,
           format_type(q.seqtypid, NULL) AS type, c.relpersistence::text AS persistence, {role("c.relowner")} AS owner,
           d.refobjid::regclass::text AS "table", quote_ident(a.attname) AS "column", d.deptype = 'i' AS identity
      FROM pg_sequence q
      JOIN pg_class c ON c.oid = q.seqrelid
      LEFT JOIN pg_depend d
        ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
       AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
      LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
     WHERE c.relnamespace = ANY (%(schemas)s)
       AND (d.refobjid IS NULL OR d.refobjid <> ALL (%(tracking)s))
       AND {own("pg_class", "c.oid")}
"""


def _sequences(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        draft = _sequence(row)
        alter = f"ALTER SEQUENCE {draft.name}"
        if row["identity"]:
            # Its options belong to the column; only its name is compared here.
            draft.parents.append(f"column {row['table']}.{row['column']}")
            draft.inline = True
        else:
            _counting(draft, row, alter)
        if row["persistence"] == "u" and not row["identity"]:
            draft.add("persistence", "unlogged", set=f"{alter} SET UNLOGGED;", reset=f"{alter} SET LOGGED;")
        yield draft


def _sequence(row: Row) -> DraftEntry:
    name = row["name"]
    clauses = " ".join(sequence_clauses(row["sequence"]))
    return DraftEntry(
        kind="sequence",
        name=name,
        address=(address.CLASS, row["oid"], 0),
        create=f"CREATE SEQUENCE {name} AS {row['type']} {clauses};",
        drop=f"DROP SEQUENCE IF EXISTS {name};",
        on=f"SEQUENCE {name}",
        grant_on=f"SEQUENCE {name}",
        label=row["label"],
        rename=("ALTER SEQUENCE ", f" RENAME TO {row['label']};"),
        table=row["table"],
    )


def _counting(draft: DraftEntry, row: Row, alter: str) -> None:
    draft.add("type", row["type"], set=f"{alter} AS {row['type']};", inline=True)
    names = ("start", "increment", "minimum", "maximum", "cache", "cycle")
    for name, clause in zip(names, sequence_clauses(row["sequence"]), strict=True):
        draft.add(name, clause, set=f"{alter} {clause};", inline=True)
    if row["table"]:
        column = f"{row['table']}.{row['column']}"
        draft.parents.append(f"table {row['table']}")
        draft.add("owned by", column, set=f"{alter} OWNED BY {column};", reset=f"{alter} OWNED BY NONE;")
    draft.owned(row["owner"], f"SEQUENCE {draft.name}")


FAMILIES = (Family(_SEQUENCES, _sequences),)
