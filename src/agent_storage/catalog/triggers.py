"""Triggers, rules, row-level security policies, and event triggers."""

# ruff: noqa: S608  (every piece of these queries is a LiteralString; pyright sees to it)

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from agent_storage.catalog import address
from agent_storage.catalog.draft import DraftEntry, Family, Row
from agent_storage.catalog.scope import own, role

_KIND: LiteralString = """
    CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
                   ELSE 'table' END"""
_ENABLED = {"D": "disabled", "R": "replica only", "A": "always"}
_ENABLE = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS", "O": "ENABLE"}

# A row trigger of a partitioned table has a clone on every partition, which can be disabled alone. Before 15 clones
# are marked internal, like the triggers of foreign keys, which have a constraint.
_TRIGGERS: LiteralString = f"""
    SELECT t.oid, quote_ident(t.tgname) AS label, c.oid::regclass::text AS "table", {_KIND} AS kind,
           pg_get_triggerdef(t.oid) AS definition, t.tgenabled::text AS enabled,
           parent.tgrelid::regclass::text AS parent, parent.tgenabled::text AS parent_enabled
      FROM pg_trigger t
      JOIN pg_class c ON c.oid = t.tgrelid
      LEFT JOIN pg_trigger parent ON parent.oid = t.tgparentid
     WHERE (NOT t.tgisinternal OR (t.tgparentid <> 0 AND t.tgconstraint = 0))
       AND c.relnamespace = ANY (%(schemas)s)
       AND c.oid <> ALL (%(tracking)s)
       AND {own("pg_class", "c.oid")}
       AND {own("pg_trigger", "t.oid")}
"""


def _triggers(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        table, label = row["table"], row["label"]
        draft = _attached(row, "trigger", (address.TRIGGER, row["oid"], 0), create=f"{row['definition']};")
        # The name is part of the text; it is removed so that a renamed trigger is recognised.
        draft.add("definition", row["definition"].replace(f" TRIGGER {label} ", " TRIGGER ", 1), inline=True)
        if row["parent"]:
            draft.parents.append(f"trigger {row['parent']}.{label}")
            draft.inline = True
        _enabled(draft, row["enabled"], f"ALTER TABLE {table}", f" TRIGGER {label}")
        yield draft


def _attached(row: Row, kind: str, where: tuple[int, int, int], *, create: str) -> DraftEntry:
    table, label = row["table"], row["label"]
    what = f"{kind.upper()} {label} ON {table}"
    return DraftEntry(
        kind=kind,
        name=f"{table}.{label}",
        address=where,
        create=create,
        drop=f"DROP {kind.upper()} IF EXISTS {label} ON {table};",
        on=what,
        label=label,
        rename=(f"ALTER {kind.upper()} ", f" ON {table} RENAME TO {label};"),
        table=table,
        parents=[f"{row['kind']} {table}"],
        position=20,
    )


def _enabled(draft: DraftEntry, state: str, alter: str, what: str = "") -> None:
    to, back = f"{alter} {_ENABLE[state]}{what};", f"{alter} ENABLE{what};"
    draft.add("enabled", _ENABLED.get(state), set=to, reset=back)


_RULES: LiteralString = f"""
    SELECT r.oid, quote_ident(r.rulename) AS label, c.oid::regclass::text AS "table", {_KIND} AS kind,
           pg_get_ruledef(r.oid) AS definition, r.ev_enabled::text AS enabled
      FROM pg_rewrite r
      JOIN pg_class c ON c.oid = r.ev_class
     WHERE r.rulename <> '_RETURN'
       AND c.relnamespace = ANY (%(schemas)s)
       AND c.oid <> ALL (%(tracking)s)
       AND {own("pg_class", "c.oid")}
"""


def _rules(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        table, label, definition = row["table"], row["label"], row["definition"]
        draft = _attached(row, "rule", (address.REWRITE, row["oid"], 0), create=definition)
        draft.add("definition", definition.replace(f"CREATE RULE {label} AS", "CREATE RULE AS", 1), inline=True)
        _enabled(draft, row["enabled"], f"ALTER TABLE {table}", f" RULE {label}")
        yield draft


_POLICIES: LiteralString = f"""
    SELECT p.oid, quote_ident(p.polname) AS label, c.oid::regclass::text AS "table", {_KIND} AS kind,
           CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
                         ELSE 'ALL' END AS command,
           CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END AS permissive,
           (SELECT string_agg(name, ', ' ORDER BY name)
              FROM unnest(p.polroles) AS member,
                   LATERAL (SELECT CASE member WHEN 0 THEN 'PUBLIC' ELSE {role("member")} END) named (name)) AS roles,
           pg_get_expr(p.polqual, p.polrelid) AS "using", pg_get_expr(p.polwithcheck, p.polrelid) AS "with check"
      FROM pg_policy p
      JOIN pg_class c ON c.oid = p.polrelid
     WHERE c.relnamespace = ANY (%(schemas)s)
       AND c.oid <> ALL (%(tracking)s)
       AND {own("pg_class", "c.oid")}
"""


def _policies(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        head = f"CREATE POLICY {row['label']} ON {row['table']} AS {row['permissive']} FOR {row['command']}"
        using = f" USING ({row['using']})" if row["using"] else ""
        check = f" WITH CHECK ({row['with check']})" if row["with check"] else ""
        create = f"{head} TO {row['roles']}{using}{check};"
        draft = _attached(row, "policy", (address.POLICY, row["oid"], 0), create=create)
        for name in ("command", "permissive", "roles", "using", "with check"):
            draft.add(name, row[name], inline=True)
        yield draft


_EVENT_TRIGGERS: LiteralString = f"""
    SELECT e.oid, quote_ident(e.evtname) AS name, e.evtevent AS event, e.evtenabled::text AS enabled,
           e.evtfoid::regproc::text AS function, {role("e.evtowner")} AS owner,
           (SELECT string_agg(quote_literal(tag), ', ' ORDER BY tag) FROM unnest(e.evttags) AS tag) AS tags
      FROM pg_event_trigger e
     WHERE {own("pg_event_trigger", "e.oid")}
"""


def _event_triggers(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        what = f"EVENT TRIGGER {row['name']}"
        when = f" WHEN TAG IN ({row['tags']})" if row["tags"] else ""
        draft = DraftEntry(
            kind="event trigger",
            name=row["name"],
            address=(address.EVENT_TRIGGER, row["oid"], 0),
            create=f"CREATE {what} ON {row['event']}{when} EXECUTE FUNCTION {row['function']}();",
            drop=f"DROP EVENT TRIGGER IF EXISTS {row['name']};",
            on=what,
        )
        for name in ("event", "tags", "function"):
            draft.add(name, row[name], inline=True)
        _enabled(draft, row["enabled"], f"ALTER {what}")
        draft.owned(row["owner"], what)
        yield draft


FAMILIES = (
    Family(_TRIGGERS, _triggers),
    Family(_RULES, _rules),
    Family(_POLICIES, _policies),
    Family(_EVENT_TRIGGERS, _event_triggers, of_database=True),
)
