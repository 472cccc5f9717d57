"""Tables of every kind: ordinary, partitioned, partitions, inheriting, foreign. Their columns are in `columns`."""

# ruff: noqa: S608  (every piece of these queries is a LiteralString; pyright sees to it)

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from agent_storage.catalog import address
from agent_storage.catalog.draft import DraftEntry, Family, Row
from agent_storage.catalog.scope import options, own, role

# The placeholder of the column list, which is filled in once the columns are read.
COLUMNS = "(columns)"

_TABLES: LiteralString = f"""
    SELECT c.oid, c.reltype, c.oid::regclass::text AS name, c.relkind::text AS relkind, quote_ident(c.relname) AS label,
           c.relpersistence::text AS persistence, am.amname AS access_method,
           {options("c.reloptions")} AS options, {options("toast.reloptions")} AS toast_options,
           c.relreplident::text AS replica_identity, identity_index.indexrelid::regclass::text AS identity_index,
           quote_ident(identity_class.relname) AS identity_label,
           c.relrowsecurity, c.relforcerowsecurity, {role("c.relowner")} AS owner,
           pg_get_partkeydef(c.oid) AS partition_key, pg_get_expr(c.relpartbound, c.oid) AS bound,
           CASE WHEN c.reloftype <> 0 THEN c.reloftype::regtype::text END AS of_type,
           ARRAY(SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = c.oid ORDER BY inhseqno) AS parents,
           quote_ident(s.srvname) AS server, {options("f.ftoptions")} AS foreign_options
      FROM pg_class c
      LEFT JOIN pg_am am ON am.oid = c.relam
      LEFT JOIN pg_class toast ON toast.oid = c.reltoastrelid
      LEFT JOIN pg_index identity_index ON identity_index.indrelid = c.oid AND identity_index.indisreplident
      LEFT JOIN pg_class identity_class ON identity_class.oid = identity_index.indexrelid
      LEFT JOIN pg_foreign_table f ON f.ftrelid = c.oid
      LEFT JOIN pg_foreign_server s ON s.oid = f.ftserver
     WHERE c.relkind IN ('r', 'p', 'f')
       AND c.relnamespace = ANY (%(schemas)s)
       AND c.oid <> ALL (%(tracking)s)
       AND {own("pg_class", "c.oid")}
"""

_KINDS = {"r": "table", "p": "table", "f": "foreign table"}


def _tables(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        draft = _table(row)
        _storage(draft, row)
        _replica_identity(draft, row)
        _security(draft, row)
        _ancestry(draft, row)
        yield draft


def _table(row: Row) -> DraftEntry:
    name, kind = row["name"], _KINDS[row["relkind"]]
    what = f"{kind.upper()} {name}"
    draft = DraftEntry(
        kind=kind,
        name=name,
        address=(address.CLASS, row["oid"], 0),
        create=_create(row, what),
        drop=f"DROP {kind.upper()} IF EXISTS {name};",
        on=what,
        grant_on=f"TABLE {name}",
        label=row["label"],
        rename=(f"ALTER {kind.upper()} ", f" RENAME TO {row['label']};"),
        table=name,
        aliases=[(address.TYPE, row["reltype"], 0)],
    )
    draft.owned(row["owner"], what)
    draft.add("partition key", row["partition_key"], inline=True)
    if row["server"]:
        # The server of a foreign table cannot be altered: a change recreates the table.
        draft.add("server", row["server"], inline=True)
        draft.foreign_options(row["foreign_options"], f"ALTER {what}")
    return draft


def _create(row: Row, what: str) -> str:
    body = f" {COLUMNS}"
    parents: list[str] = row["parents"]
    if row["bound"]:
        # Columns come from the parent; other properties of the partition are set afterwards.
        body = f" PARTITION OF {parents[0]} {row['bound']}"
    elif row["of_type"]:
        body = f" OF {row['of_type']}"
    elif parents:
        body += f" INHERITS ({', '.join(parents)})"
    if row["partition_key"]:
        body += f" PARTITION BY {row['partition_key']}"
    if row["server"]:
        body += f" SERVER {row['server']}"
    if row["persistence"] == "u":
        what = what.replace("TABLE", "UNLOGGED TABLE", 1)
    return f"CREATE {what}{body};"


def _storage(draft: DraftEntry, row: Row) -> None:
    alter = f"ALTER {draft.on}"
    if row["persistence"] == "u":
        set_unlogged, set_logged = f"{alter} SET UNLOGGED;", f"{alter} SET LOGGED;"
        draft.add("persistence", "unlogged", set=set_unlogged, reset=set_logged, inline=True)
    if row["access_method"] not in (None, "heap"):
        method, back = f"{alter} SET ACCESS METHOD {row['access_method']};", f"{alter} SET ACCESS METHOD heap;"
        draft.add("access method", row["access_method"], set=method, reset=back)
    draft.options(row["options"], alter, inline=False)
    draft.options(row["toast_options"], alter, inline=False, prefix="toast.")


def _replica_identity(draft: DraftEntry, row: Row) -> None:
    if row["server"]:
        return
    value = {"f": "FULL", "n": "NOTHING"}.get(row["replica_identity"])
    if row["replica_identity"] == "i":
        # The index may have been dropped since: then the server behaves as with NOTHING.
        value = f"USING INDEX {row['identity_label']}" if row["identity_index"] else "USING INDEX (dropped)"
    alter = f"ALTER {draft.on} REPLICA IDENTITY"
    draft.add("replica identity", value, set=f"{alter} {value};", reset=f"{alter} DEFAULT;")


def _security(draft: DraftEntry, row: Row) -> None:
    alter = f"ALTER {draft.on}"
    draft.add(
        "row security",
        "enabled" if row["relrowsecurity"] else None,
        set=f"{alter} ENABLE ROW LEVEL SECURITY;",
        reset=f"{alter} DISABLE ROW LEVEL SECURITY;",
    )
    draft.add(
        "row security for the owner",
        "forced" if row["relforcerowsecurity"] else None,
        set=f"{alter} FORCE ROW LEVEL SECURITY;",
        reset=f"{alter} NO FORCE ROW LEVEL SECURITY;",
    )


def _ancestry(draft: DraftEntry, row: Row) -> None:
    child, alter = draft.name, f"ALTER {draft.on}"
    draft.add("type", row["of_type"], set=f"{alter} OF {row['of_type']};", reset=f"{alter} NOT OF;", inline=True)
    for parent in row["parents"]:
        if row["bound"]:
            attach = f"ALTER TABLE {parent} ATTACH PARTITION {child} {row['bound']};"
            detach = f"ALTER TABLE {parent} DETACH PARTITION {child};"
            draft.add(
                f"partition of {parent}",
                row["bound"],
                set=attach,
                change=f"{detach}\n{attach}",
                reset=detach,
                inline=True,
            )
            draft.parents.append(f"table {parent}")
        else:
            inherit, leave = f"{alter} INHERIT {parent};", f"{alter} NO INHERIT {parent};"
            draft.add(f"inherits {parent}", "yes", set=inherit, reset=leave, inline=True)


FAMILIES = (Family(_TABLES, _tables),)
