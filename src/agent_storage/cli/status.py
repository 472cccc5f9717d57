"""`storage status`: the database and its schema in two lines."""

from __future__ import annotations

from typing import Any

import typer

from agent_storage.cli.context import AsJson, Db, opened, taught, to_json

app = typer.Typer(add_completion=False)


@app.command(epilog=taught("storage status", "storage status --json", codes=(0, 1, 2, 8, 130)))
def status(as_json: AsJson = False, db: Db = None) -> None:
    """Show where the database is, its version and size, and whether its schema is current."""
    from agent_storage.migrations.migrator import Migrator
    from agent_storage.sources import configured

    with opened(db) as storage:
        with storage.connection() as connection:
            row = connection.execute(
                "SELECT current_database(), current_setting('server_version'), pg_database_size(current_database())"
            ).fetchone()
        migrations = Migrator(storage.database.conninfo, sources=configured().sources).status()
        settings = storage.database.settings
        where = "embedded PostgreSQL" if settings.embedded else "PostgreSQL"
        facts: dict[str, Any] = {
            "server": where,
            "database": row[0] if row else None,
            "version": row[1] if row else None,
            "size_bytes": row[2] if row else None,
            "applied": len(migrations.applied),
            "pending": len(migrations.pending),
        }
    if as_json:
        typer.echo(to_json(facts))
        return
    typer.echo(f"{where} {facts['version']}, database {facts['database']}, {facts['size_bytes'] / 1048576:.1f} MB")
    typer.echo(f"migrations: {facts['applied']} applied, {facts['pending']} pending")
    if facts["pending"]:
        typer.echo("next: storage migrate up")
