"""`storage secrets`: keys for encrypted columns."""

from __future__ import annotations

import base64
import os

import typer

from agent_storage.cli.context import AsJson, Db, group, opened, taught, to_json

app = group("secrets", "Make a key; rotate the keys of encrypted columns.")


@app.command("new-key", epilog=taught("storage secrets new-key", codes=(0, 2)))
def new_key(as_json: AsJson = False) -> None:
    """Print a new key for STORAGE_SECRET_KEY. Nothing is stored: keep it where you keep your secrets."""
    key = base64.b64encode(os.urandom(32)).decode()
    typer.echo(to_json({"key": key}) if as_json else key)


@app.command(epilog=taught("storage secrets rotate", codes=(0, 1, 2, 8, 130)))
def rotate(as_json: AsJson = False, db: Db = None) -> None:
    """Wrap every stored secret with the newest key, your own tables included.

    Set STORAGE_SECRET_KEY to `NEW,OLD`, run this, then set it to `NEW`. The application may run meanwhile. A second
    run completes an interrupted one. A secret of an unknown key is left as it is and reported; the exit code is 1 then.
    """
    from dataclasses import asdict

    from agent_storage.maintenance.registry import registered
    from agent_storage.maintenance.rotation import rotate as rewrap
    from agent_storage.sources import configured

    with opened(db) as storage, storage.connection() as connection:
        repositories = [one.repository for one in registered(configured().sources)]
        done = rewrap(connection, storage.database.codec.keyring, repositories)
    if as_json:
        typer.echo(to_json(asdict(done)))
    else:
        for place, count in done.rewrapped.items():
            skipped = f", {done.skipped[place]} left as they are" if done.skipped[place] else ""
            typer.echo(f"{place}: {count} rewrapped{skipped}")
        for fault in done.faults:
            typer.echo(fault, err=True)
    if done.faults:
        raise typer.Exit(1)
