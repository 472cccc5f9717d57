"""Views and materialized views. Their columns are in `columns`, the indexes of the latter in `indexes`."""

# ruff: noqa: S608  (every piece of these queries is a LiteralString; pyright sees to it)

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from agent_storage.catalog import address
from agent_storage.catalog.draft import DraftEntry, Family, Row
from agent_storage.catalog.scope import options as options_of
from agent_storage.catalog.scope import own, role

# The owner of a view determines its privileges, unlike that of a table. It is information nevertheless.
_VIEWS: LiteralString = f"""
    SELECT c.oid, c.reltype, r.oid AS rule, c.oid::regclass::text AS name, quote_ident(c.relname) AS label,
           c.relkind::text AS relkind, rtrim(pg_get_viewdef(c.oid), ';') AS definition, c.relispopulated,
           am.amname AS access_method, {options_of("c.reloptions")} AS options, {role("c.relowner")} AS owner
      FROM pg_class c
      JOIN pg_rewrite r ON r.ev_class = c.oid AND r.rulename = '_RETURN'
      LEFT JOIN pg_am am ON am.oid = c.relam
     WHERE c.relkind IN ('v', 'm')
       AND c.relnamespace = ANY (%(schemas)s)
       AND {own("pg_class", "c.oid")}
"""


def _views(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        kind = "materialized view" if row["relkind"] == "m" else "view"
        what = f"{kind.upper()} {row['name']}"
        draft = DraftEntry(
            kind=kind,
            name=row["name"],
            address=(address.CLASS, row["oid"], 0),
            create=_create(row, what),
            drop=f"DROP {kind.upper()} IF EXISTS {row['name']};",
            on=what,
            grant_on=f"TABLE {row['name']}",
            label=row["label"],
            table=row["name"],
            aliases=[(address.REWRITE, row["rule"], 0), (address.TYPE, row["reltype"], 0)],
        )
        draft.owned(row["owner"], what)
        draft.add("definition", row["definition"].strip(), inline=True)
        draft.options(row["options"], f"ALTER {what}", inline=True)
        _materialized(draft, row)
        yield draft


def _create(row: Row, what: str) -> str:
    options: dict[str, str] = row["options"] or {}
    settings = ", ".join(f"{name} = {value}" for name, value in sorted(options.items()))
    with_ = f" WITH ({settings})" if settings else ""
    if row["relkind"] == "v":
        return f"CREATE OR REPLACE {what}{with_} AS\n{row['definition']};"
    using = f" USING {row['access_method']}" if row["access_method"] != "heap" else ""
    no_data = "" if row["relispopulated"] else "\n WITH NO DATA"
    return f"CREATE {what}{using}{with_} AS\n{row['definition']}{no_data};"


def _materialized(draft: DraftEntry, row: Row) -> None:
    if row["relkind"] != "m":
        return
    if row["access_method"] != "heap":
        draft.add("access method", row["access_method"], inline=True)
    refresh = f"REFRESH {draft.on}"
    draft.add(
        "populated",
        None if row["relispopulated"] else "no",
        set=f"{refresh} WITH NO DATA;",
        reset=f"{refresh};",
        inline=True,
    )


FAMILIES = (Family(_VIEWS, _views),)
