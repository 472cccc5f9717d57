"""Functions, procedures, window functions and aggregates."""

# ruff: noqa: S608  (every piece of these queries is a LiteralString; pyright sees to it)

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from agent_storage.catalog import address
from agent_storage.catalog.draft import DraftEntry, Family, Row
from agent_storage.catalog.scope import declared, role

# The identity of an aggregate without arguments is written with a star: `count(*)`.
_ROUTINES: LiteralString = f"""
    SELECT p.oid, p.prokind::text AS prokind, p.oid::regprocedure::text AS name,
           pg_get_functiondef(p.oid) AS create,
           pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result,
           l.lanname AS language, coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) AS body,
           coalesce(p.probin, 'none') AS library,
           coalesce(array_to_string(p.protrftypes::regtype[], ', '), 'none') AS transforms,
           CASE p.provolatile WHEN 'i' THEN 'IMMUTABLE' WHEN 's' THEN 'STABLE' ELSE 'VOLATILE' END AS volatility,
           CASE p.proparallel WHEN 's' THEN 'SAFE' WHEN 'r' THEN 'RESTRICTED' ELSE 'UNSAFE' END AS parallel,
           CASE WHEN p.proisstrict THEN 'STRICT' ELSE 'CALLED ON NULL INPUT' END AS strict,
           CASE WHEN p.prosecdef THEN 'DEFINER' ELSE 'INVOKER' END AS security,
           CASE WHEN p.proleakproof THEN 'LEAKPROOF' ELSE 'NOT LEAKPROOF' END AS leakproof,
           CASE WHEN p.prosupport <> 0 THEN p.prosupport::regproc::text ELSE 'none' END AS support,
           p.procost::text AS cost, p.prorows::text AS rows, {role("p.proowner")} AS owner,
           coalesce((SELECT string_agg(setting, ', ' ORDER BY setting) FROM unnest(p.proconfig) AS setting),
                    'none') AS settings
      FROM pg_proc p
      JOIN pg_language l ON l.oid = p.prolang
     WHERE p.prokind <> 'a'
       AND p.pronamespace = ANY (%(schemas)s)
       AND {declared("pg_proc", "p.oid")}
"""

_ATTRIBUTES = (
    "arguments",
    "result",
    "language",
    "body",
    "library",
    "transforms",
    "volatility",
    "parallel",
    "strict",
    "security",
    "leakproof",
    "support",
    "cost",
    "rows",
    "settings",
)
# CREATE OR REPLACE cannot change these: the function must be dropped first.
_SIGNATURE = frozenset({"arguments", "result"})


def _routines(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        kind = "procedure" if row["prokind"] == "p" else "function"
        create = row["create"].rstrip() + ";"
        draft = _routine(row, kind, create)
        draft.add("window", "yes" if row["prokind"] == "w" else None, inline=True)
        for name in _ATTRIBUTES:
            draft.add(name, row[name], set=None if name in _SIGNATURE else create, inline=True)
        yield draft


def _routine(row: Row, kind: str, create: str) -> DraftEntry:
    name: str = row["name"]
    if kind == "aggregate" and name.endswith("()"):
        name = f"{name[:-2]}(*)"
    what = f"{kind.upper()} {name}"
    draft = DraftEntry(
        kind=kind,
        name=name,
        address=(address.PROC, row["oid"], 0),
        create=create,
        drop=f"DROP {kind.upper()} IF EXISTS {name};",
        on=what,
        grant_on=what.replace("AGGREGATE", "FUNCTION", 1).replace("(*)", "()"),
    )
    draft.owned(row["owner"], what)
    return draft


_AGGREGATES: LiteralString = f"""
    SELECT p.oid, p.oid::regprocedure::text AS name, split_part(p.oid::regprocedure::text, '(', 1) AS short,
           pg_get_function_arguments(p.oid) AS arguments, {role("p.proowner")} AS owner,
           concat_ws(', ',
               'SFUNC = ' || a.aggtransfn, 'STYPE = ' || format_type(a.aggtranstype, NULL),
               'SSPACE = ' || nullif(a.aggtransspace, 0),
               'FINALFUNC = ' || nullif(a.aggfinalfn, 0),
               CASE WHEN a.aggfinalextra THEN 'FINALFUNC_EXTRA' END,
               'FINALFUNC_MODIFY = ' || CASE a.aggfinalmodify WHEN 's' THEN 'SHAREABLE' WHEN 'w' THEN 'READ_WRITE'
                                             ELSE 'READ_ONLY' END,
               'COMBINEFUNC = ' || nullif(a.aggcombinefn, 0), 'SERIALFUNC = ' || nullif(a.aggserialfn, 0),
               'DESERIALFUNC = ' || nullif(a.aggdeserialfn, 0), 'INITCOND = ' || quote_literal(a.agginitval),
               'MSFUNC = ' || nullif(a.aggmtransfn, 0), 'MINVFUNC = ' || nullif(a.aggminvtransfn, 0),
               'MSTYPE = ' || CASE WHEN a.aggmtranstype <> 0 THEN format_type(a.aggmtranstype, NULL) END,
               'MSSPACE = ' || nullif(a.aggmtransspace, 0), 'MFINALFUNC = ' || nullif(a.aggmfinalfn, 0),
               CASE WHEN a.aggmfinalextra THEN 'MFINALFUNC_EXTRA' END,
               'MFINALFUNC_MODIFY = ' || CASE WHEN a.aggmtransfn <> 0 THEN CASE a.aggmfinalmodify
                    WHEN 's' THEN 'SHAREABLE' WHEN 'w' THEN 'READ_WRITE' ELSE 'READ_ONLY' END END,
               'MINITCOND = ' || quote_literal(a.aggminitval), 'SORTOP = ' || nullif(a.aggsortop, 0)::regoper::text,
               CASE a.aggkind WHEN 'h' THEN 'HYPOTHETICAL' END,
               'PARALLEL = ' || CASE p.proparallel WHEN 's' THEN 'SAFE' WHEN 'r' THEN 'RESTRICTED'
                                     ELSE 'UNSAFE' END) AS definition
      FROM pg_aggregate a
      JOIN pg_proc p ON p.oid = a.aggfnoid
     WHERE p.pronamespace = ANY (%(schemas)s)
       AND {declared("pg_proc", "p.oid")}
"""


def _aggregates(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        head = f"{row['short']}({row['arguments'] or '*'})"
        create = f"CREATE OR REPLACE AGGREGATE {head} ({row['definition']});"
        draft = _routine(row, "aggregate", create)
        draft.add("arguments", row["arguments"], inline=True)
        draft.add("definition", row["definition"], set=create, inline=True)
        yield draft


FAMILIES = (Family(_ROUTINES, _routines), Family(_AGGREGATES, _aggregates))
