"""`storage tables`: rows, size and purpose of each table."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

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
      JOIN pg_class c ON c.oid = to_regclass(name)
"""


@app.command(epilog=taught("storage tables", "storage tables --json"))
def tables(as_json: AsJson = False, db: Db = None) -> None:
    """List the tables: rows (from 100,000 on an estimate, marked ~), size with indexes, purpose."""
    with opened(db) as storage:
        require_schema(storage)
        found = _measure(storage)
    if as_json:
        emit({"tables": found})
        return
    columns = {"TABLE": "", "ROWS": "right", "SIZE": "right", "IDX": "right", "PURPOSE": "fold"}
    listing(columns, _rows(found))
    size, about = sum(item["size_bytes"] + item["index_bytes"] for item in found), any(i["estimated"] for i in found)
    line(f"{'about ' if about else ''}{sum(item['rows'] for item in found):,} rows, {_human(size)} in all")
    if not any(item["rows"] for item in found):
        line("no rows yet; `storage seed demo` makes some")


def _measure(storage: Storage) -> list[dict[str, Any]]:
    """Run two queries: sizes and estimates, then counts of the smaller tables."""
    import psycopg

    from agent_storage.tables import REPOSITORIES

    with storage.connection() as connection:
        sizes = {row[0]: row for row in psycopg.RawCursor(connection).execute(_SIZES, [list(REPOSITORIES)])}
        small = [name for name, row in sizes.items() if row[1] < _COUNTED]
        # A table that was never analyzed may be large: the count stops here.
        count = "SELECT '{0}', count(*) FROM (SELECT FROM {0} LIMIT {1}) counted"
        query = " UNION ALL ".join(count.format(name, _COUNTED) for name in small)
        counts: dict[str, int] = dict(connection.execute(query.encode()).fetchall()) if small else {}
    return [_entry(name, sizes[name], counts.get(name)) for name in REPOSITORIES if name in sizes]


def _entry(name: str, sizes: Any, counted: int | None) -> dict[str, Any]:
    from agent_storage.tables import DOMAINS

    exact = counted is not None and counted < _COUNTED
    return {
        "table": name,
        "domain": DOMAINS[name],
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
