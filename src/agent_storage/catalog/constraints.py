"""Constraints of tables, of all kinds, and extended statistics. Those of domains are in `types`."""

# ruff: noqa: S608  (every piece of these queries is a LiteralString; pyright sees to it)

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from agent_storage.catalog import address
from agent_storage.catalog.draft import DraftEntry, Family, Row
from agent_storage.catalog.scope import own, role

# An inherited constraint belongs to the parent's constraint and has no entry.
# The order is that in which they can be created: keys before the foreign keys that refer to them.
_CONSTRAINTS: LiteralString = f"""
    SELECT k.oid, k.conrelid, quote_ident(k.conname) AS label, c.oid::regclass::text AS "table",
           c.relkind::text AS relkind, k.contype::text AS contype, k.convalidated,
           pg_get_constraintdef(k.oid) AS definition,
           quote_ident(a.attname) AS "column",
           array_position(ARRAY['n', 'p', 'u', 'x', 'c', 'f'], k.contype::text) AS position,
           t.enable
      FROM pg_constraint k
      JOIN pg_class c ON c.oid = k.conrelid
      LEFT JOIN pg_attribute a ON k.contype = 'n' AND a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
      -- ALTER TABLE … DISABLE TRIGGER ALL also silences the triggers by which foreign keys are checked.
      LEFT JOIN (
               SELECT tgconstraint,
                      string_agg(format('ALTER TABLE %%s ENABLE TRIGGER %%I;', tgrelid::regclass, tgname), E'\n'
                                 ORDER BY tgname) AS enable
                 FROM pg_trigger
                WHERE tgconstraint <> 0 AND tgisinternal AND tgenabled = 'D' AND tgparentid = 0
                GROUP BY tgconstraint
           ) t ON t.tgconstraint = k.oid
     WHERE k.contype IN ('n', 'p', 'u', 'x', 'c', 'f')
       AND c.relnamespace = ANY (%(schemas)s)
       AND c.oid <> ALL (%(tracking)s)
       AND k.coninhcount = 0
       AND k.conparentid = 0
       AND {own("pg_class", "c.oid")}
"""


def _constraints(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        yield _constraint(row)


def _constraint(row: Row) -> DraftEntry:
    table, label = row["table"], row["label"]
    kind = "foreign table" if row["relkind"] == "f" else "table"
    parent, alter = f"{kind} {table}", f"ALTER {kind.upper()} {table}"
    # A constraint that is NOT ENFORCED is never validated.
    valid = row["convalidated"] or row["definition"].endswith(" NOT ENFORCED")
    draft = DraftEntry(
        kind="constraint",
        name=f"{table}.{label}",
        address=(address.CONSTRAINT, row["oid"], 0),
        create=f"{alter} ADD CONSTRAINT {label} {row['definition']};",
        drop=f"{alter} DROP CONSTRAINT IF EXISTS {label};",
        on=f"CONSTRAINT {label} ON {table}",
        label=label,
        rename=(f"{alter} RENAME CONSTRAINT ", f" TO {label};"),
        table=table,
        parents=[parent],
        position=row["position"],
    )
    if row["contype"] == "n":
        # The NOT NULL of CREATE TABLE creates it, and it depends on its column.
        draft.parents.append(f"column {table}.{row['column']}")
        draft.inline = True
    # Validity is a separate property, repaired without recreating the constraint.
    draft.add("definition", row["definition"].removesuffix(" NOT VALID"), inline=True)
    validate = f"{alter} VALIDATE CONSTRAINT {label};"
    draft.add("valid", None if valid else "NOT VALID", reset=validate, inline=True)
    draft.add("enforcing triggers", "disabled" if row["enable"] else None, reset=row["enable"])
    return draft


_STATISTICS: LiteralString = f"""
    SELECT s.oid, format('%%I.%%I', n.nspname, s.stxname) AS name, quote_ident(s.stxname) AS label,
           s.stxrelid::regclass::text AS "table", pg_get_statisticsobjdef(s.oid) AS definition,
           nullif(s.stxstattarget, -1) AS target, {role("s.stxowner")} AS owner
      FROM pg_statistic_ext s
      JOIN pg_namespace n ON n.oid = s.stxnamespace
     WHERE s.stxnamespace = ANY (%(schemas)s)
       AND s.stxrelid <> ALL (%(tracking)s)
       AND {own("pg_statistic_ext", "s.oid")}
"""


def _statistics(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        what, create = f"STATISTICS {row['name']}", row["definition"]
        draft = DraftEntry(
            kind="statistics",
            name=row["name"],
            address=(address.STATISTICS, row["oid"], 0),
            create=f"{create};",
            drop=f"DROP STATISTICS IF EXISTS {row['name']};",
            on=what,
            label=row["label"],
            rename=("ALTER STATISTICS ", f" RENAME TO {row['label']};"),
            table=row["table"],
            parents=[f"table {row['table']}"],
        )
        draft.owned(row["owner"], what)
        draft.add("definition", create.removeprefix(f"CREATE {what} "), inline=True)
        target = None if row["target"] is None else str(row["target"])
        set_target, reset_target = f"ALTER {what} SET STATISTICS {target};", f"ALTER {what} SET STATISTICS -1;"
        draft.add("statistics", target, set=set_target, reset=reset_target)
        yield draft


FAMILIES = (Family(_CONSTRAINTS, _constraints), Family(_STATISTICS, _statistics))
