"""`storage tables`: rows, size and purpose of each table."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from agent_storage.cli.context import AsJson, Db, opened, require_schema, taught
from agent_storage.cli.show import cell, emit, line, listing

if TYPE_CHECKING:
    from agent_storage.sync import Storage

app = typer.Typer(add_completion=False)

#: From how many rows on the planner's estimate is shown.
_COUNTED = 100_000
_SIZES = """
    SELECT name, greatest(c.reltuples, 0)::bigint, pg_table_size(c.oid), pg_indexes_size(c.oid),
           (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid),
           coalesce(obj_description(c.oid, 'pg_class'), '')
      FROM unnest($1::text[]) AS name
      JOIN pg_class c ON c.oid = to_regclass(quote_ident(name))
"""


@app.command(epilog=taught("storage tables", "storage tables --json"))
def tables(as_json: AsJson = False, db: Db = None) -> None:
    """List the tables: rows (from 100,000 on an estimate, marked ~), size with indexes, purpose.

    Your own tables are listed under their domain, after the shipped ones.
    """
    with opened(db) as storage:
        require_schema(storage)
        found = _measure(storage, _domains())
    if as_json:
        emit({"tables": found})
        return
    columns = {"TABLE": "", "ROWS": "right", "SIZE": "right", "IDX": "right", "PURPOSE": "fold"}
    listing(columns, _rows(found))
    size, about = sum(item["size_bytes"] + item["index_bytes"] for item in found), any(i["estimated"] for i in found)
    line(f"{'about ' if about else ''}{sum(item['rows'] for item in found):,} rows, {_human(size)} in all")
    if not any(item["rows"] for item in found):
        line("no rows yet; `storage seed demo` makes some")


def _domains() -> dict[str, str]:
    """Return the domain of each table of the configured sources, those of one domain together."""
    from agent_storage.maintenance.folders import declared
    from agent_storage.sources import configured
    from agent_storage.tables import DOMAINS

    sources = configured().sources
    found = dict(DOMAINS) if any(one.shipped for one in sources) else {}
    found |= {name: domain for name, domain in declared(sources).items() if name not in found}
    order = list(dict.fromkeys(found.values()))
    return dict(sorted(found.items(), key=lambda item: order.index(item[1])))


def _measure(storage: Storage, domains: Mapping[str, str]) -> list[dict[str, Any]]:
    """Run two queries: sizes and estimates, then counts of the smaller tables."""
    import psycopg
    from psycopg import sql

    with storage.connection() as connection:
        sizes = {row[0]: row for row in psycopg.RawCursor(connection).execute(_SIZES, [list(domains)])}
        small = [name for name, row in sizes.items() if row[1] < _COUNTED]
        # A table that was never analyzed may be large: the count stops here.
        count = sql.SQL("SELECT {}, count(*) FROM (SELECT FROM {} LIMIT {}) counted")
        each = [count.format(name, sql.Identifier(name), _COUNTED) for name in small]
        query = sql.SQL(" UNION ALL ").join(each)
        counts: dict[str, int] = dict(connection.execute(query).fetchall()) if small else {}
    return [_entry(name, domain, sizes[name], counts.get(name)) for name, domain in domains.items() if name in sizes]


def _entry(name: str, domain: str, sizes: Any, counted: int | None) -> dict[str, Any]:
    exact = counted is not None and counted < _COUNTED
    return {
        "table": name,
        "domain": domain,
        "rows": counted if exact else max(sizes[1], _COUNTED),
        "estimated": not exact,
        "size_bytes": sizes[2],
        "index_bytes": sizes[3],
        "indexes": sizes[4],
        "purpose": sizes[5],
    }


def _rows(found: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    last = ""
    for item in found:
        if item["domain"] != last:
            last = item["domain"]
            rows += [("",) * 5] if rows else []
            rows.append((cell(last.upper(), "bold"), "", "", "", ""))
        count = f"{'~' if item['estimated'] else ''}{item['rows']:,}"
        size = _human(item["size_bytes"] + item["index_bytes"])
        rows.append((item["table"], count, size, item["indexes"], item["purpose"]))
    return rows


def _human(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1024:  # a unit's end
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"
