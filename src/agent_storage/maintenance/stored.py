"""A table as the catalog has it: the part that `storage check` compares with the declarations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

_COLUMNS: LiteralString = """
    SELECT a.attname, a.atttypid, format_type(a.atttypid, NULL), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
           CASE WHEN a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND a.atttypmod > 4
                THEN a.atttypmod - 4 END,
           ARRAY(SELECT pg_get_expr(c.conbin, c.conrelid) FROM pg_constraint c
                  WHERE c.conrelid = a.attrelid AND c.contype = 'c' AND c.conkey = ARRAY[a.attnum]),
           ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = a.atttypid),
           col_description(a.attrelid, a.attnum), a.attidentity <> '' OR a.attgenerated <> ''
      FROM pg_attribute a
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated = ''
     WHERE a.attrelid = to_regclass(quote_ident(%s)) AND a.attnum > 0 AND NOT a.attisdropped
"""
#: Those that ON CONFLICT can infer.
_UNIQUE: LiteralString = """
    SELECT ARRAY(SELECT attname::text FROM pg_attribute
                  WHERE attrelid = i.indrelid AND attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1]))
      FROM pg_index i
     WHERE i.indrelid = to_regclass(quote_ident(%s)) AND i.indisunique AND i.indisvalid AND i.indimmediate
       AND i.indpred IS NULL AND i.indexprs IS NULL
"""
_TRIGGERS: LiteralString = """
    SELECT DISTINCT p.proname, p.prosrc
      FROM pg_trigger t
      JOIN pg_proc p ON p.oid = t.tgfoid
     WHERE t.tgrelid = to_regclass(quote_ident(%s)) AND NOT t.tgisinternal
     ORDER BY p.proname
"""
_COMMENT: LiteralString = "SELECT obj_description(to_regclass(quote_ident(%s)), 'pg_class')"


@dataclass(frozen=True)
class StoredColumn:
    """A column: `type` as statements know it (`int4`), `declared` as SQL spells it (`integer`)."""

    type: str
    declared: str
    not_null: bool
    default: str | None
    length: int | None
    """The n of varchar(n)."""
    checks: Sequence[str]
    """The expressions of the CHECK constraints on this column alone."""
    labels: Sequence[str]
    comment: str | None
    generated: bool
    """True for an identity or a generated column, which the server fills."""

    @property
    def required(self) -> bool:
        """Return whether an INSERT has to name the column."""
        return self.not_null and self.default is None and not self.generated


@dataclass(frozen=True)
class StoredTable:
    """A table; without columns where there is none."""

    columns: Mapping[str, StoredColumn]
    unique: Sequence[frozenset[str]]
    trigger_sources: Mapping[str, str]
    comment: str | None


def load(connection: psycopg.Connection[Any], table: str) -> StoredTable:
    """Return the table as the catalog has it. Only reads."""
    rows = connection.execute(_COLUMNS, (table,)).fetchall()
    return StoredTable(
        {name: StoredColumn(type_name(connection, oid), *others) for name, oid, *others in rows},
        [frozenset(names) for (names,) in connection.execute(_UNIQUE, (table,))],
        dict(connection.execute(_TRIGGERS, (table,)).fetchall()),
        (connection.execute(_COMMENT, (table,)).fetchone() or (None,))[0],
    )


def type_name(connection: psycopg.Connection[Any], oid: int) -> str:
    """Return the name of a type; a domain counts as what it is made of, an enum as text."""
    query = """
        WITH RECURSIVE of (name, kind, base) AS (
            SELECT typname, typtype, typbasetype FROM pg_type WHERE oid = %s
             UNION ALL
            SELECT t.typname, t.typtype, t.typbasetype FROM of JOIN pg_type t ON t.oid = of.base
        )
        SELECT CASE kind WHEN 'e' THEN 'text' ELSE name END FROM of WHERE base = 0
    """
    row = connection.execute(query, (oid,)).fetchone()
    return str(row[0]) if row else "unknown"
