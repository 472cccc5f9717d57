"""Columns of tables, views and foreign tables, and the attributes of composite types."""

# ruff: noqa: S608  (every piece of these queries is a LiteralString; pyright sees to it)

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from agent_storage.catalog import address
from agent_storage.catalog.draft import DraftEntry, Family, Row
from agent_storage.catalog.scope import options, own

_COLUMNS: LiteralString = f"""
    SELECT a.attrelid, a.attnum, c.relkind::text AS relkind, c.oid::regclass::text AS relation,
           quote_ident(a.attname) AS label, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum) AS position,
           format_type(a.atttypid, a.atttypmod) AS type,
           CASE WHEN a.attcollation <> y.typcollation THEN a.attcollation::regcollation::text END AS collation,
           a.attnotnull, d.oid AS default_oid, pg_get_expr(d.adbin, d.adrelid) AS expression,
           a.attgenerated::text AS generated, a.attidentity::text AS identity, i.sequence,
           CASE WHEN a.attstorage <> y.typstorage THEN a.attstorage::text END AS storage,
           y.typstorage::text AS type_storage, a.attcompression::text AS compression,
           nullif(a.attstattarget, -1) AS statistics, {options("a.attoptions")} AS options,
           {options("a.attfdwoptions")} AS foreign_options, a.attislocal,
           a.attislocal AND c.reloftype = 0 AS declared,
           -- 18 names NOT NULL; only a name that the server would not choose by itself has to be written.
           CASE WHEN nn.conname <> c.relname || '_' || a.attname || '_not_null'
                THEN quote_ident(nn.conname) END AS not_null_name,
           ARRAY(SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE i.inhrelid = c.oid) AS parents
      FROM pg_attribute a
      JOIN pg_class c ON c.oid = a.attrelid
      JOIN pg_type y ON y.oid = a.atttypid
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      LEFT JOIN pg_constraint nn ON nn.conrelid = a.attrelid AND nn.contype = 'n' AND nn.conkey = ARRAY[a.attnum]
       AND nn.coninhcount = 0
      -- The sequence behind an identity column is an internal part of it: no dependency of any other kind is 'i' here.
      LEFT JOIN LATERAL (
               SELECT to_jsonb(q) AS sequence
                 FROM pg_depend e
                 JOIN pg_sequence q ON q.seqrelid = e.objid
                WHERE a.attidentity <> '' AND e.deptype = 'i' AND e.classid = 'pg_class'::regclass
                  AND e.refclassid = 'pg_class'::regclass AND e.refobjid = a.attrelid AND e.refobjsubid = a.attnum
           ) i ON true
     WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'c')
       AND c.relnamespace = ANY (%(schemas)s)
       AND c.oid <> ALL (%(tracking)s)
       AND {own("pg_class", "c.oid")}
       AND a.attnum > 0
       AND NOT a.attisdropped
"""

_RELATIONS = {"r": "table", "p": "table", "f": "foreign table", "v": "view", "m": "materialized view", "c": "type"}
_STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "x": "EXTENDED", "m": "MAIN"}
_COMPRESSION = {"p": "pglz", "l": "lz4"}


def _columns(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        yield _attribute(row) if row["relkind"] == "c" else _column(row)


def _attribute(row: Row) -> DraftEntry:
    relation, label = row["relation"], row["label"]
    alter = f"ALTER TYPE {relation}"
    collate = f" COLLATE {row['collation']}" if row["collation"] else ""
    draft = DraftEntry(
        kind="attribute",
        name=f"{relation}.{label}",
        address=(address.CLASS, row["attrelid"], row["attnum"]),
        create=f"{alter} ADD ATTRIBUTE {label} {row['type']}{collate};",
        drop=f"{alter} DROP ATTRIBUTE IF EXISTS {label};",
        on=f"COLUMN {relation}.{label}",
        label=label,
        rename=(f"{alter} RENAME ATTRIBUTE ", f" TO {label};"),
        parents=[f"type {relation}"],
        position=row["position"],
        inline=True,
    )
    retype = f"{alter} ALTER ATTRIBUTE {label} SET DATA TYPE {row['type']}{collate};"
    draft.add("type", row["type"], set=retype, inline=True)
    draft.add(
        "collation",
        row["collation"],
        set=retype,
        reset=f"{alter} ALTER ATTRIBUTE {label} SET DATA TYPE {row['type']};",
        inline=True,
    )
    return draft


def _column(row: Row) -> DraftEntry:
    relation, label, kind = row["relation"], row["label"], _RELATIONS[row["relkind"]]
    of_view = row["relkind"] in ("v", "m")
    # ALTER TABLE accepts views too, but some of its forms require the right keyword for a materialized view.
    alter = f"ALTER {kind.upper()} {relation}"
    draft = DraftEntry(
        kind="column",
        name=f"{relation}.{label}",
        address=(address.CLASS, row["attrelid"], row["attnum"]),
        create=None if of_view else f"{alter} ADD COLUMN {_definition(row)};",
        drop=None if of_view else f"{alter} DROP COLUMN IF EXISTS {label};",
        clause=_definition(row) if row["attislocal"] and not of_view else None,
        on=f"COLUMN {relation}.{label}",
        grant_on=f"TABLE {relation}",
        grant_column=label,
        label=label,
        rename=(f"{alter} RENAME COLUMN ", f" TO {label};"),
        table=relation,
        parents=[f"{kind} {relation}", *(f"column {p}.{label}" for p in row["parents"] if not row["attislocal"])],
        position=row["position"],
        inline=True,
        aliases=[(address.ATTRDEF, row["default_oid"], 0)] if row["default_oid"] else [],
    )
    column = f"{alter} ALTER COLUMN {label}"
    _type(draft, row, column)
    _default(draft, row, column)
    _physical(draft, row, column)
    draft.foreign_options(row["foreign_options"], column)
    return draft


def _definition(row: Row) -> str:
    """Return the column as CREATE TABLE and ADD COLUMN write it."""
    parts = [row["label"], row["type"]]
    if row["collation"]:
        parts.append(f"COLLATE {row['collation']}")
    if row["generated"]:
        parts.append(_generated(row))
    elif row["expression"]:
        parts.append(f"DEFAULT {row['expression']}")
    if _has_identity(row):
        parts.append(f"GENERATED {_identity_kind(row)} AS IDENTITY ({_identity_options(row)})")
    if row["attnotnull"]:
        parts += [f"CONSTRAINT {row['not_null_name']}"] if row["not_null_name"] else []
        parts.append("NOT NULL")
    return " ".join(parts)


def _generated(row: Row) -> str:
    return f"GENERATED ALWAYS AS ({row['expression']}) {'VIRTUAL' if row['generated'] == 'v' else 'STORED'}"


# CREATE TABLE cannot set properties of a column that its parent's column, or the type of its table, does not have. They
# are set afterwards (`declared` is false for these columns).
def _type(draft: DraftEntry, row: Row, column: str) -> None:
    collation = row["collation"]
    draft.add("type", row["type"], set=_retype(row, column, collation), inline=True)
    draft.add(
        "collation", collation, set=_retype(row, column, collation), reset=_retype(row, column, None), inline=True
    )
    if row["attnotnull"]:
        named = f"ADD CONSTRAINT {row['not_null_name']} NOT NULL {row['label']}" if row["not_null_name"] else None
        table = column.partition(" ALTER COLUMN ")[0]
        draft.add(
            "not null",
            "yes",
            set=f"{table} {named};" if named else f"{column} SET NOT NULL;",
            reset=f"{column} DROP NOT NULL;",
            inline=row["declared"],
        )


def _retype(row: Row, column: str, collation: str | None) -> str:
    """Return one statement that changes type and default, because a default often cannot be converted with its type."""
    collate = f" COLLATE {collation}" if collation else ""
    if row["generated"] or row["relkind"] == "f":
        return f"{column} TYPE {row['type']}{collate};"
    retype = f"{column} TYPE {row['type']}{collate} USING {row['label']}::{row['type']}"
    if row["expression"] is None:
        return f"{retype};"
    alter = f"ALTER COLUMN {row['label']}"
    again = f"{alter} SET DEFAULT {row['expression']}"
    return f"{column} DROP DEFAULT, {retype[retype.index('ALTER COLUMN') :]}, {again};"


def _default(draft: DraftEntry, row: Row, column: str) -> None:
    if row["generated"]:
        draft.add("generated", _generated(row), inline=True)
    else:
        expression = row["expression"]
        set_default, drop_default = f"{column} SET DEFAULT {expression};", f"{column} DROP DEFAULT;"
        draft.add("default", expression, set=set_default, reset=drop_default, inline=row["declared"])
    if _has_identity(row):
        kind, sequence = _identity_kind(row), _identity_options(row)
        changes = " ".join(f"SET {option}" for option in sequence_clauses(row["sequence"]))
        draft.add(
            "identity",
            f"{kind} ({sequence})",
            set=f"{column} ADD GENERATED {kind} AS IDENTITY ({sequence});",
            change=f"{column} SET GENERATED {kind} {changes};",
            reset=f"{column} DROP IDENTITY;",
            inline=True,
        )


def _has_identity(row: Row) -> bool:
    """Return whether the column has its own sequence. Since 17 a partition shows the identity of its parent."""
    return bool(row["identity"] and row["sequence"])


def _identity_kind(row: Row) -> str:
    return "ALWAYS" if row["identity"] == "a" else "BY DEFAULT"


def _identity_options(row: Row) -> str:
    return " ".join(sequence_clauses(row["sequence"]))


def sequence_clauses(sequence: Row) -> list[str]:
    """Return every option of a sequence, because defaults differ between server versions."""
    return [
        f"START WITH {sequence['seqstart']}",
        f"INCREMENT BY {sequence['seqincrement']}",
        f"MINVALUE {sequence['seqmin']}",
        f"MAXVALUE {sequence['seqmax']}",
        f"CACHE {sequence['seqcache']}",
        "CYCLE" if sequence["seqcycle"] else "NO CYCLE",
    ]


def _physical(draft: DraftEntry, row: Row, column: str) -> None:
    storage, own_storage = _STORAGE.get(row["storage"] or ""), _STORAGE[row["type_storage"]]
    draft.add("storage", storage, set=f"{column} SET STORAGE {storage};", reset=f"{column} SET STORAGE {own_storage};")
    compression = _COMPRESSION.get(row["compression"])
    set_compression, no_compression = f"{column} SET COMPRESSION {compression};", f"{column} SET COMPRESSION DEFAULT;"
    draft.add("compression", compression, set=set_compression, reset=no_compression)
    target = None if row["statistics"] is None else str(row["statistics"])
    draft.add("statistics", target, set=f"{column} SET STATISTICS {target};", reset=f"{column} SET STATISTICS -1;")
    draft.options(row["options"], column, inline=False)


FAMILIES = (Family(_COLUMNS, _columns),)
