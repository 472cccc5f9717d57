"""`storage check`: compare the declarations with the schema."""

from __future__ import annotations

import typer

from agent_storage.cli.context import AsJson, Db, errors, taught, to_json

app = typer.Typer(add_completion=False)


@app.command(epilog=taught("storage check", "storage check --json", codes=(0, 1, 2, 7, 8, 130)))
def check(as_json: AsJson = False, db: Db = None) -> None:
    """Prepare every declared statement on a scratch database migrated to head, and compare.

    Parameters, result columns, types, nullability and defaults are compared with signatures and records, and every
    schema.sql with what the migrations make: those of this package, and those of your sources. A shipped record need
    not have the columns that you add to its table. Your database is neither read nor changed.
    """
    from agent_storage.cli.migrate.terminal import migration_conninfo
    from agent_storage.maintenance.sources import check_sources
    from agent_storage.migrations.migrator import Migrator
    from agent_storage.migrations.verify.shadow import shadow_server
    from agent_storage.sources import configured

    with errors():
        sources = configured().sources
        conninfo = migration_conninfo(db)
        with shadow_server(conninfo, notify=lambda _: None) as server:
            findings = check_sources(Migrator(conninfo, sources=sources), server)
    if as_json:
        typer.echo(to_json({"findings": findings}))
    else:
        for finding in findings:
            typer.echo(finding)
        agree = "statements, records, schema.sql and migrations agree"
        typer.echo(f"{len(findings)} findings" if findings else agree)
    if findings:
        raise typer.Exit(7)
