"""Operators, casts, collations, and text search dictionaries and configurations."""

# ruff: noqa: S608  (every piece of these queries is a LiteralString; pyright sees to it)

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from agent_storage.catalog import address
from agent_storage.catalog.draft import DraftEntry, Family, Row
from agent_storage.catalog.scope import declared, own, role

# An operator that another one names as its commutator before it exists is a shell without a function, and not read.
_OPERATORS: LiteralString = f"""
    SELECT o.oid, format('%%I.%%s', n.nspname, o.oprname) AS short, {role("o.oprowner")} AS owner,
           format('(%%s, %%s)', CASE WHEN o.oprleft = 0 THEN 'NONE' ELSE format_type(o.oprleft, NULL) END,
                  CASE WHEN o.oprright = 0 THEN 'NONE' ELSE format_type(o.oprright, NULL) END) AS operands,
           concat_ws(', ', 'FUNCTION = ' || o.oprcode,
               'LEFTARG = ' || CASE WHEN o.oprleft <> 0 THEN format_type(o.oprleft, NULL) END,
               'RIGHTARG = ' || CASE WHEN o.oprright <> 0 THEN format_type(o.oprright, NULL) END,
               (SELECT format('COMMUTATOR = OPERATOR(%%I.%%s)', cn.nspname, co.oprname)
                  FROM pg_operator co JOIN pg_namespace cn ON cn.oid = co.oprnamespace WHERE co.oid = o.oprcom),
               (SELECT format('NEGATOR = OPERATOR(%%I.%%s)', cn.nspname, co.oprname)
                  FROM pg_operator co JOIN pg_namespace cn ON cn.oid = co.oprnamespace WHERE co.oid = o.oprnegate),
               'RESTRICT = ' || CASE WHEN o.oprrest <> 0 THEN o.oprrest END,
               'JOIN = ' || CASE WHEN o.oprjoin <> 0 THEN o.oprjoin END,
               CASE WHEN o.oprcanmerge THEN 'MERGES' END, CASE WHEN o.oprcanhash THEN 'HASHES' END) AS definition
      FROM pg_operator o
      JOIN pg_namespace n ON n.oid = o.oprnamespace
     WHERE o.oprcode <> 0
       AND o.oprnamespace = ANY (%(schemas)s)
       AND {own("pg_operator", "o.oid")}
"""


def _operators(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        create = f"CREATE OPERATOR {row['short']} ({row['definition']});"
        yield _defined(row, "operator", address.OPERATOR, f"{row['short']} {row['operands']}", create)


def _defined(row: Row, kind: str, catalog: int, name: str, create: str) -> DraftEntry:
    what = f"{kind.upper()} {name}"
    draft = DraftEntry(
        kind=kind,
        name=name,
        address=(catalog, row["oid"], 0),
        create=create,
        drop=f"DROP {kind.upper()} IF EXISTS {name};",
        on=what,
    )
    draft.add("definition", row["definition"], inline=True)
    if row.get("owner"):
        draft.owned(row["owner"], what)
    return draft


# Casts have neither a schema nor an owner. Those of the server have oids below 16384.
_CASTS: LiteralString = f"""
    SELECT c.oid, format('(%%s AS %%s)', format_type(c.castsource, NULL), format_type(c.casttarget, NULL)) AS name,
           concat(CASE c.castmethod WHEN 'f' THEN 'WITH FUNCTION ' || c.castfunc::regprocedure
                                    WHEN 'i' THEN 'WITH INOUT' ELSE 'WITHOUT FUNCTION' END,
                  CASE c.castcontext WHEN 'a' THEN ' AS ASSIGNMENT' WHEN 'i' THEN ' AS IMPLICIT' END) AS definition
      FROM pg_cast c
     WHERE c.oid >= 16384
       AND {declared("pg_cast", "c.oid")}
"""


def _casts(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        yield _defined(row, "cast", address.CAST, row["name"], f"CREATE CAST {row['name']} {row['definition']};")


# The ICU locale's catalog column changed its name twice (colliculocale in 15 and 16, colllocale from 17 on), and its
# place: before 15 it was collcollate.
_COLLATIONS: LiteralString = f"""
    SELECT c.oid, c.oid::regcollation::text AS name, {role("c.collowner")} AS owner,
           concat_ws(', ',
               'PROVIDER = ' || CASE c.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
               'LOCALE = ' || quote_literal(coalesce(j ->> 'colllocale', j ->> 'colliculocale',
                   CASE WHEN c.collcollate = c.collctype THEN c.collcollate::text END)),
               CASE WHEN c.collcollate <> c.collctype THEN
                   format('LC_COLLATE = %%L, LC_CTYPE = %%L', c.collcollate, c.collctype) END,
               CASE WHEN NOT c.collisdeterministic THEN 'DETERMINISTIC = false' END,
               'RULES = ' || quote_literal(j ->> 'collicurules')) AS definition
      FROM pg_collation c
     CROSS JOIN LATERAL (SELECT to_jsonb(c) AS j) x
     WHERE c.collnamespace = ANY (%(schemas)s)
       AND {own("pg_collation", "c.oid")}
"""


def _collations(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        create = f"CREATE COLLATION {row['name']} ({row['definition']});"
        yield _defined(row, "collation", address.COLLATION, row["name"], create)


_DICTIONARIES: LiteralString = f"""
    SELECT d.oid, d.oid::regdictionary::text AS name, {role("d.dictowner")} AS owner,
           concat_ws(', ', format('TEMPLATE = %%I.%%I', tn.nspname, t.tmplname), d.dictinitoption) AS definition
      FROM pg_ts_dict d
      JOIN pg_ts_template t ON t.oid = d.dicttemplate
      JOIN pg_namespace tn ON tn.oid = t.tmplnamespace
     WHERE d.dictnamespace = ANY (%(schemas)s)
       AND {own("pg_ts_dict", "d.oid")}
"""


def _dictionaries(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        create = f"CREATE TEXT SEARCH DICTIONARY {row['name']} ({row['definition']});"
        yield _defined(row, "text search dictionary", address.TS_DICTIONARY, row["name"], create)


_CONFIGURATIONS: LiteralString = f"""
    SELECT c.oid, c.oid::regconfig::text AS name, {role("c.cfgowner")} AS owner,
           format('PARSER = %%I.%%I', pn.nspname, p.prsname) AS definition,
           (SELECT jsonb_object_agg(alias, dictionaries)
              FROM (SELECT k.alias, string_agg(m.mapdict::regdictionary::text, ', ' ORDER BY m.mapseqno) AS dictionaries
                      FROM pg_ts_config_map m
                      JOIN ts_token_type(c.cfgparser) k ON k.tokid = m.maptokentype
                     WHERE m.mapcfg = c.oid
                     GROUP BY k.alias) mapped) AS mappings
      FROM pg_ts_config c
      JOIN pg_ts_parser p ON p.oid = c.cfgparser
      JOIN pg_namespace pn ON pn.oid = p.prsnamespace
     WHERE c.cfgnamespace = ANY (%(schemas)s)
       AND {own("pg_ts_config", "c.oid")}
"""


def _configurations(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        create = f"CREATE TEXT SEARCH CONFIGURATION {row['name']} ({row['definition']});"
        draft = _defined(row, "text search configuration", address.TS_CONFIGURATION, row["name"], create)
        alter = f"ALTER TEXT SEARCH CONFIGURATION {row['name']}"
        mappings: dict[str, str] = row["mappings"] or {}
        for token, dictionaries in sorted(mappings.items()):
            # ALTER MAPPING replaces what is there and does not mind when nothing is.
            mapping = f"{alter} ALTER MAPPING FOR {token} WITH {dictionaries};"
            drop = f"{alter} DROP MAPPING FOR {token};"
            draft.add(f"mapping {token}", dictionaries, set=mapping, reset=drop)
        yield draft


FAMILIES = (
    Family(_OPERATORS, _operators),
    Family(_CASTS, _casts, of_database=True),
    Family(_COLLATIONS, _collations),
    Family(_DICTIONARIES, _dictionaries),
    Family(_CONFIGURATIONS, _configurations),
)
