"""`storage reset`: empty the embedded server."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Annotated, Any

import typer

from agent_storage.cli.context import AsJson, Db, settings_for, taught

app = typer.Typer(add_completion=False)

_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname)
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND c.relname !~ '^(_yoyo_|yoyo_lock$|_storage_)'
 ORDER BY 1
"""


@app.command(epilog=taught("storage reset", "storage reset --yes", codes=(0, 1, 2, 8, 130)))
def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, as_json: AsJson = False, db: Db = None
) -> None:
    """Delete everything in the embedded PostgreSQL: tables, rows and migration history. Asks before.

    A database that --db, STORAGE_DATABASE_URL or DATABASE_URL names is never emptied.
    """
    from agent_storage.cli.migrate.terminal import terminal
    from agent_storage.database.connections import locate
    from agent_storage.embedded import shared_server
    from agent_storage.migrations.errors import InvalidRequest

    with terminal(as_json=as_json) as shown:
        settings = settings_for(db)
        if not settings.embedded:
            raise InvalidRequest(
                "reset empties the embedded PostgreSQL only, and a database is named",
                hint="leave --db out, and unset STORAGE_DATABASE_URL and DATABASE_URL",
            )
        found = _rows(locate(settings.model_copy(update={"schema_name": None}), shown.note))
        filled = {name: count for name, count in found.items() if count}
        for name, count in filled.items():
            shown.note(f"  {name}: {count:,} row{'s' * (count != 1)}")
        total = sum(filled.values())
        many = f"{len(found)} table{'s' * (len(found) != 1)} with {total:,} row{'s' * (total != 1)}"
        shown.confirm(f"delete {many} in the embedded PostgreSQL", yes=yes)
        shared_server(settings.data_dir).empty_database()
        facts: dict[str, Any] = {"tables": len(found), "rows": total}
        shown.result(facts, [f"deleted {many}", "next: storage migrate up"])


def _rows(conninfo: str) -> dict[str, int]:
    """Return the number of rows of every table."""
    import psycopg

    with psycopg.connect(conninfo, autocommit=True) as connection:
        names = [name for (name,) in connection.execute(_TABLES)]
        counts = [connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchone() for name in names]  # noqa: S608
    return {name: count[0] for name, count in zip(names, counts, strict=True) if count}
