"""The commands that put things right: baseline, resolve, repair, rebase, squash."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Annotated

import typer

from agent_storage.cli.migrate import app
from agent_storage.cli.migrate.terminal import Db, Folder, Json, Quiet, ShadowUrl, Yes, shadowing, terminal

To = Annotated[str, typer.Option("--to", metavar="ID", help="As far as this one.")]


@app.command()
def baseline(
    to: To,
    db: Db = None,
    folder: Folder = None,
    shadow_url: ShadowUrl = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Enter migrations as applied in a database that already has what they make; that it has is proved first.

    Example: `storage migrate baseline --to 20261120090000_chat`
    """
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.commands.amend import baseline as enter

        migrator = shown.migrator(db, folder)
        with shadowing(migrator, shadow_url) as server:
            done = enter(migrator, server, to)
        shown.result(done, done.changes or ["nothing to enter"])


@app.command()
def resolve(
    id: Annotated[str, typer.Argument(metavar="ID", help="The one that stopped, as `status` shows it.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on at the statement where it stopped.")] = False,
    applied: Annotated[bool, typer.Option("--applied", help="It is done: I finished it by hand.")] = False,
    not_applied: Annotated[bool, typer.Option("--not-applied", help="It is undone: I took it back by hand.")] = False,
    db: Db = None,
    folder: Folder = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Settle a migration without a transaction that stopped inside. Nothing is guessed: look first, then say.

    Example: `storage migrate resolve add_index --resume`
    """
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.commands.amend import resolve as settle
        from agent_storage.migrations.errors import InvalidRequest

        migrator = shown.migrator(db, folder)
        if [resume, applied, not_applied].count(True) != 1:
            raise InvalidRequest("say how", hint="one of --resume, --applied, --not-applied")
        how = "resume" if resume else "applied" if applied else "not-applied"
        result = settle(migrator, id, how)
        shown.result(result, [f"resolved; {len(result.pending) or 'nothing'} pending"])


@app.command()
def repair(db: Db = None, folder: Folder = None, yes: Yes = False, as_json: Json = False) -> None:
    """Accept edited and renamed files as they are now, and remove a lock that stock yoyo has left. Runs none of them.

    Example: `storage migrate repair`
    """
    with terminal(as_json=as_json) as shown:
        from agent_storage.migrations.commands.amend import repair as accept
        from agent_storage.migrations.commands.amend import to_repair

        migrator = shown.migrator(db, folder)
        for change in to_repair(migrator):
            shown.note(change)
        shown.confirm("do that?", yes=yes)
        done = accept(migrator)
        shown.result(done, [f"done: {change}" for change in done.changes] or ["nothing to repair"])


@app.command()
def rebase(db: Db = None, folder: Folder = None, as_json: Json = False) -> None:
    """Give pending migrations that are older than what is applied a new date, so that they come last.

    Example: after merging main into your branch, `storage migrate rebase`
    """
    with terminal(as_json=as_json) as shown:
        from agent_storage.migrations.commands.rearrange import rebase as rename

        migrator = shown.migrator(db, folder)
        done = rename(migrator)
        shown.result({"renamed": done}, [f"{one.old} -> {one.new}" for one in done] or ["nothing comes too late"])


@app.command()
def squash(
    to: To,
    db: Db = None,
    folder: Folder = None,
    shadow_url: ShadowUrl = None,
    yes: Yes = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make one migration of all up to ID, after proof that it makes and takes back the same; the old files go.

    Databases that have all the old ones take the new one for applied.

    Example: `storage migrate squash --to 20261120090000_chat`
    """
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.commands.rearrange import squash as join

        migrator = shown.migrator(db, folder)
        shown.confirm(f"replace the files up to {to} by one?", yes=yes)
        with shadowing(migrator, shadow_url) as server:
            made = join(migrator, server, to)
        shown.result(made, [f"{made.id}.sql replaces {len(made.replaces)} migrations"])
