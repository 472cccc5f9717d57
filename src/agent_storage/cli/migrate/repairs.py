"""The commands of the panel "Repair": resolve, repair, rebase, baseline, squash."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Annotated

import typer

from agent_storage.cli.context import AsJson, Db, taught
from agent_storage.cli.migrate import app
from agent_storage.cli.migrate.terminal import Folder, FromSource, Quiet, ShadowUrl, Yes, shadowing, terminal

PANEL = "Repair"
To = Annotated[str, typer.Option("--to", metavar="ID", help="The last one that is included.")]


@app.command(
    rich_help_panel=PANEL, epilog=taught("storage migrate resolve add_index --resume", codes=(0, 1, 2, 5, 6, 8, 130))
)
def resolve(
    id: Annotated[str, typer.Argument(metavar="ID", help="The migration that stopped, as status shows it.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue at the statement where it stopped.")] = False,
    applied: Annotated[bool, typer.Option("--applied", help="Record it as applied: it was completed by hand.")] = False,
    not_applied: Annotated[
        bool, typer.Option("--not-applied", help="Record it as not applied: it was undone by hand.")
    ] = False,
    db: Db = None,
    folder: Folder = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Continue or settle a migration without a transaction that stopped midway."""
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.commands.amend import resolve as settle
        from agent_storage.migrations.errors import InvalidRequest

        migrator = shown.migrator(db, folder)
        if [resume, applied, not_applied].count(True) != 1:
            raise InvalidRequest("say how", hint="one of --resume, --applied, --not-applied")
        how = "resume" if resume else "applied" if applied else "not-applied"
        result = settle(migrator, id, how)
        shown.result(result, [f"resolved; {len(result.pending) or 'nothing'} pending"])


@app.command(rich_help_panel=PANEL, epilog=taught("storage migrate repair --yes", codes=(0, 2, 5, 6, 8, 130)))
def repair(db: Db = None, folder: Folder = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Accept edited and renamed files as they are, and remove a lock left by stock yoyo. No file is run."""
    with terminal(as_json=as_json) as shown:
        from agent_storage.migrations.commands.amend import repair as accept
        from agent_storage.migrations.commands.amend import to_repair

        migrator = shown.migrator(db, folder)
        for change in to_repair(migrator):
            shown.note(change)
        shown.confirm("do that?", yes=yes)
        done = accept(migrator)
        shown.result(done, [f"done: {change}" for change in done.changes] or ["nothing to repair"])


@app.command(rich_help_panel=PANEL, epilog=taught("storage migrate rebase", codes=(0, 2, 5, 8, 130)))
def rebase(db: Db = None, folder: Folder = None, source: FromSource = None, as_json: AsJson = False) -> None:
    """Give a new date to pending migrations that are older than applied ones. Use it after a merge."""
    with terminal(as_json=as_json) as shown:
        from agent_storage.migrations.commands.rearrange import rebase as rename

        migrator = shown.migrator(db, folder, source=source)
        done = rename(migrator)
        shown.result({"renamed": done}, [f"{one.old} -> {one.new}" for one in done] or ["nothing comes too late"])


@app.command(
    rich_help_panel=PANEL,
    epilog=taught("storage migrate baseline --to 20261120090000_chat", codes=(0, 2, 4, 5, 6, 8, 130)),
)
def baseline(
    to: To,
    db: Db = None,
    folder: Folder = None,
    source: FromSource = None,
    shadow_url: ShadowUrl = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Enter migrations as applied in a database that already has their tables. This is proved in a shadow first."""
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.commands.amend import baseline as enter

        migrator = shown.migrator(db, folder, source=source)
        with shadowing(migrator, shadow_url) as server:
            done = enter(migrator, server, to)
        shown.result(done, done.changes or ["nothing to enter"])


@app.command(
    rich_help_panel=PANEL,
    epilog=taught("storage migrate squash --to 20261120090000_chat --yes", codes=(0, 1, 2, 4, 5, 8, 130)),
)
def squash(
    to: To,
    db: Db = None,
    folder: Folder = None,
    source: FromSource = None,
    shadow_url: ShadowUrl = None,
    yes: Yes = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Replace all migrations up to ID by one, after a proof in a shadow. The old files are removed.

    Databases that have all the old ones take the new one for applied.
    """
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.commands.rearrange import squash as join

        migrator = shown.migrator(db, folder, source=source)
        shown.confirm(f"replace the files up to {to} by one?", yes=yes)
        with shadowing(migrator, shadow_url) as server:
            made = join(migrator, server, to)
        shown.result(made, [f"{made.id}.sql replaces {len(made.replaces)} migrations"])
