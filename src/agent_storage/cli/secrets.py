"""`storage secrets`: keys for encrypted columns."""

from __future__ import annotations

import base64
import os

import typer

from agent_storage.cli.context import AsJson, Db, opened, to_json

app = typer.Typer(no_args_is_help=True, help="Make a key; rotate the keys of encrypted columns.")


@app.command("new-key")
def new_key() -> None:
    """Print a new key for STORAGE_SECRET_KEY. Nothing is stored: keep it where you keep your secrets."""
    typer.echo(base64.b64encode(os.urandom(32)).decode())


@app.command()
def rotate(as_json: AsJson = False, db: Db = None) -> None:
    """Wrap every stored secret with the newest key.

    Set STORAGE_SECRET_KEY to `NEW,OLD`, run this, then set it to `NEW`. Runs while the application works; a second run
    does what a first one that was interrupted has left.
    """
    from agent_storage.maintenance.rotation import rotate as rewrap

    with opened(db) as storage, storage.database.connection() as connection:
        done = rewrap(connection, storage.database.codec.keyring)
    if as_json:
        typer.echo(to_json(done))
        return
    for place, count in done.items():
        typer.echo(f"{place}: {count} rewrapped")
