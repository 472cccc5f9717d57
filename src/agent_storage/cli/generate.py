"""`storage generate`: the sync face of a product."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Annotated

import typer

from agent_storage.cli.context import AsJson, errors, own_source, shown_path, taught, to_json

app = typer.Typer(add_completion=False)


@app.command(epilog=taught("storage generate", "storage generate --check", codes=(0, 2, 7, 130)))
def generate(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 7 if a file is not current.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the sync face of your repositories and of your Storage, and the typed keywords of `update`.

    Each repository.py, and storage.py and __init__.py beside tables/, get a version without `await` in sync/.
    tables/changes.py has the keywords. It needs unasyncd and ruff: pip install 'agent-storage[generate]'.
    """
    from agent_storage.maintenance.generate import generated, stale, write

    with errors():
        _, source = own_source()
        files = generated(source)
        paths = stale(source.tables.parent, files)
        if not check:
            write(paths, files)
    if as_json:
        typer.echo(to_json({"files": paths}))
    for path in () if as_json else paths:
        verb = "not current:" if check else "wrote" if path in files else "removed"
        typer.echo(f"{verb} {shown_path(path)}")
    if not as_json and not paths:
        typer.echo("everything is current")
    if check and paths:
        raise typer.Exit(7)
