"""Types: enums, composites (their attributes are in `columns`), ranges, domains and the constraints of domains."""

# ruff: noqa: S608  (every piece of these queries is a LiteralString; pyright sees to it)

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from agent_storage.catalog import address
from agent_storage.catalog.draft import DraftEntry, Family, Row
from agent_storage.catalog.scope import own, role

# Every table has a row type and every type an array type, both created implicitly. A base type (typtype 'b') is C code
# and reported as unmodelled.
_TYPES: LiteralString = f"""
    SELECT t.oid, t.typarray, t.typtype::text AS typtype, format('%%I.%%I', n.nspname, t.typname) AS name,
           quote_ident(t.typname) AS label, {role("t.typowner")} AS owner,
           CASE WHEN t.typtype = 'e' THEN
               (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder)
                  FROM pg_enum
                 WHERE enumtypid = t.oid) END AS labels,
           CASE WHEN t.typtype = 'c' THEN
               (SELECT string_agg(concat_ws(' ', quote_ident(attname), format_type(atttypid, atttypmod),
                           CASE WHEN attcollation <> typcollation
                                THEN 'COLLATE ' || attcollation::regcollation END), ', ' ORDER BY attnum)
                  FROM pg_attribute
                  JOIN pg_type y ON y.oid = atttypid
                 WHERE attrelid = t.typrelid AND NOT attisdropped AND attnum > 0) END AS attributes,
           t.typrelid,
           CASE WHEN t.typtype = 'r' THEN
               concat_ws(', ', 'SUBTYPE = ' || format_type(r.rngsubtype, NULL),
                   'SUBTYPE_OPCLASS = ' || format('%%I.%%I', opn.nspname, o.opcname),
                   'COLLATION = ' || CASE WHEN r.rngcollation <> st.typcollation
                                          THEN r.rngcollation::regcollation END,
                   'CANONICAL = ' || CASE WHEN r.rngcanonical <> 0 THEN r.rngcanonical END,
                   'SUBTYPE_DIFF = ' || CASE WHEN r.rngsubdiff <> 0 THEN r.rngsubdiff END,
                   'MULTIRANGE_TYPE_NAME = ' || format_type(r.rngmultitypid, NULL)) END AS range,
           CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END AS base,
           CASE WHEN t.typtype = 'd' AND t.typcollation <> base.typcollation
                THEN t.typcollation::regcollation::text END AS collation,
           t.typnotnull,
           -- 17 names NOT NULL; only a name that the server would not choose by itself has to be written.
           quote_ident(t.typname || '_not_null') AS usual_name,
           (SELECT quote_ident(nn.conname)
              FROM pg_constraint nn
             WHERE nn.contypid = t.oid AND nn.contype = 'n' AND nn.conname <> t.typname || '_not_null'
           ) AS not_null_name, pg_get_expr(t.typdefaultbin, 0) AS "default"
      FROM pg_type t
      JOIN pg_namespace n ON n.oid = t.typnamespace
      LEFT JOIN pg_class c ON c.oid = t.typrelid
      LEFT JOIN pg_range r ON r.rngtypid = t.oid
      LEFT JOIN pg_type st ON st.oid = r.rngsubtype
      LEFT JOIN pg_opclass o ON o.oid = r.rngsubopc
      LEFT JOIN pg_namespace opn ON opn.oid = o.opcnamespace
      LEFT JOIN pg_type base ON base.oid = t.typbasetype
     WHERE t.typtype IN ('e', 'c', 'r', 'd')
       AND (c.oid IS NULL OR c.relkind = 'c')
       AND t.typnamespace = ANY (%(schemas)s)
       AND {own("pg_type", "t.oid")}
"""


def _types(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        draft = {"e": _enum, "c": _composite, "r": _range, "d": _domain}[row["typtype"]](row)
        draft.owned(row["owner"], str(draft.on))
        draft.aliases.append((address.TYPE, row["typarray"], 0))
        yield draft


def _type(row: Row, kind: str, create: str) -> DraftEntry:
    what = f"{'DOMAIN' if kind == 'domain' else 'TYPE'} {row['name']}"
    return DraftEntry(
        kind=kind,
        name=row["name"],
        address=(address.TYPE, row["oid"], 0),
        create=f"CREATE {what} AS {create};",
        drop=f"DROP {what.replace(' ', ' IF EXISTS ', 1)};",
        on=what,
        grant_on=what,
        label=row["label"],
    )


def _enum(row: Row) -> DraftEntry:
    labels: str = row["labels"] or ""
    draft = _type(row, "enum", f"ENUM ({labels})")
    draft.add("labels", labels, inline=True)
    return draft


def _composite(row: Row) -> DraftEntry:
    draft = _type(row, "type", f"({row['attributes'] or ''})")
    draft.aliases.append((address.CLASS, row["typrelid"], 0))
    return draft


def _range(row: Row) -> DraftEntry:
    draft = _type(row, "range", f"RANGE ({row['range']})")
    draft.add("definition", row["range"], inline=True)
    return draft


def _domain(row: Row) -> DraftEntry:
    collate = f" COLLATE {row['collation']}" if row["collation"] else ""
    draft = _type(row, "domain", f"{row['base']}{collate}")
    alter, default = f"ALTER {draft.on}", row["default"]
    draft.add("type", row["base"], inline=True)
    draft.add("collation", row["collation"], inline=True)
    draft.add("default", default, set=f"{alter} SET DEFAULT {default};", reset=f"{alter} DROP DEFAULT;")
    name = row["not_null_name"]
    renamed = f"{alter} DROP NOT NULL;\n{alter} ADD CONSTRAINT {name} NOT NULL;"
    # Before NOT NULL itself, which may drop the name.
    draft.add("name of not null", name, set=renamed, reset=f"{alter} RENAME CONSTRAINT {name} TO {row['usual_name']};")
    required = "yes" if row["typnotnull"] else None
    draft.add("not null", required, set=f"{alter} SET NOT NULL;", reset=f"{alter} DROP NOT NULL;")
    return draft


# Since 17 a domain's NOT NULL is a constraint too; it is read as properties of the domain, as before.
_DOMAIN_CONSTRAINTS: LiteralString = f"""
    SELECT k.oid, quote_ident(k.conname) AS label, format('%%I.%%I', n.nspname, t.typname) AS domain,
           pg_get_constraintdef(k.oid) AS definition, k.convalidated
      FROM pg_constraint k
      JOIN pg_type t ON t.oid = k.contypid
      JOIN pg_namespace n ON n.oid = t.typnamespace
     WHERE k.contype = 'c'
       AND t.typnamespace = ANY (%(schemas)s)
       AND {own("pg_type", "t.oid")}
"""


def _domain_constraints(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        domain, label = row["domain"], row["label"]
        alter = f"ALTER DOMAIN {domain}"
        draft = DraftEntry(
            kind="domain constraint",
            name=f"{domain}.{label}",
            address=(address.CONSTRAINT, row["oid"], 0),
            create=f"{alter} ADD CONSTRAINT {label} {row['definition']};",
            drop=f"{alter} DROP CONSTRAINT IF EXISTS {label};",
            on=f"CONSTRAINT {label} ON DOMAIN {domain}",
            label=label,
            rename=(f"{alter} RENAME CONSTRAINT ", f" TO {label};"),
            parents=[f"domain {domain}"],
        )
        draft.add("definition", row["definition"].removesuffix(" NOT VALID"), inline=True)
        validate = f"{alter} VALIDATE CONSTRAINT {label};"
        draft.add("valid", None if row["convalidated"] else "NOT VALID", reset=validate, inline=True)
        yield draft


FAMILIES = (Family(_TYPES, _types), Family(_DOMAIN_CONSTRAINTS, _domain_constraints))
