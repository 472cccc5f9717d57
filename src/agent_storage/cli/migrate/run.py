"""The commands of every day: new, up, down, redo, sync, seed, status, history."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_storage.cli.migrate import app
from agent_storage.cli.migrate.planned import plan_lines, plan_up
from agent_storage.cli.migrate.terminal import (
    Db,
    Folder,
    Json,
    LockTimeout,
    Quiet,
    Retries,
    ShadowUrl,
    Tables,
    Terminal,
    Verbose,
    Wait,
    Yes,
    end,
    shadowing,
    table,
    terminal,
)

if TYPE_CHECKING:
    from agent_storage.migrations.commands.draft import MigrationDraft
    from agent_storage.migrations.results import RunResult, Status


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A description, as in add_orders_note.")],
    draft: Annotated[bool, typer.Option("--draft", help="Fill it with what the edited schema.sql asks for.")] = False,
    no_transaction: Annotated[bool, typer.Option("--no-transaction", help="For CREATE INDEX CONCURRENTLY.")] = False,
    db: Db = None,
    folder: Folder = None,
    tables: Tables = None,
    shadow_url: ShadowUrl = None,
    as_json: Json = False,
) -> None:
    """Create the two files of a migration: the forward file and the rollback file.

    Example: `storage migrate new add_orders_note`. With `--draft`, edit `tables/<table>/schema.sql` first; exit 7 means
    that something in the files is left for you to decide.
    """
    with terminal(as_json=as_json) as shown:
        from agent_storage.migrations.files import author
        from agent_storage.migrations.files.file import VERSIONS

        place = (folder or VERSIONS).resolve()
        if not draft:
            made = author.new(place, name, transactional=not no_transaction)
            shown.result(made, [str(made.up), str(made.down)])
            return
        found = _drafted(shown, db, folder, tables, shadow_url)
        made = author.new(place, name, up=found.up.text(guard=True), down=found.down.text(guard=False))
        shown.result({**asdict(made), "complete": found.complete}, [str(made.up), str(made.down)])
        if not found.complete:
            shown.note("the draft is not complete: look for TODO in the files")
        end(0 if found.complete else 7)


def _drafted(
    shown: Terminal, db: str | None, folder: Path | None, tables: Path | None, shadow_url: str | None
) -> MigrationDraft:
    from agent_storage.migrations.commands.draft import draft
    from agent_storage.migrations.verify.declared import TABLES

    migrator = shown.migrator(db, folder)
    with shadowing(migrator, shadow_url) as server:
        return draft(migrator, server, tables or TABLES)


@app.command()
def up(
    count: Annotated[int | None, typer.Argument(metavar="[N]", help="How many; default: all.")] = None,
    to: Annotated[str | None, typer.Option(metavar="ID", help="As far as this one.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run, as `plan` does.")] = False,
    out_of_order: Annotated[
        bool, typer.Option("--allow-out-of-order", help="Apply also what is older than the newest applied.")
    ] = False,
    db: Db = None,
    folder: Folder = None,
    wait: Wait = "60s",
    lock_timeout: LockTimeout = "5s",
    retries: Retries = 10,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Apply the pending migrations, each in one transaction with its row in the tracking tables.

    Example: `storage migrate up`, or `storage migrate up --to add_orders_note --lock-timeout 2s`
    """
    with terminal(as_json=as_json, quiet=quiet, verbose=verbose) as shown:
        migrator = shown.migrator(db, folder, wait=wait, lock_timeout=lock_timeout, retries=retries)
        if dry_run:
            planned = plan_up(migrator, count, to, allow_out_of_order=out_of_order)
            shown.result(planned, plan_lines(planned))
            return
        result = migrator.up(count, to, allow_out_of_order=out_of_order)
        shown.result(result, _run_lines(result))


@app.command()
def down(
    count: Annotated[int, typer.Argument(metavar="[N]", help="How many.")] = 1,
    to: Annotated[str | None, typer.Option(metavar="ID", help="Those after this one, which stays.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    db: Db = None,
    folder: Folder = None,
    wait: Wait = "60s",
    lock_timeout: LockTimeout = "5s",
    retries: Retries = 10,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Roll back what was applied last; it works from the database's own copy if the files are gone.

    Example: `storage migrate down`, or `storage migrate down --to 20261120090000_chat`
    """
    with terminal(as_json=as_json, quiet=quiet, verbose=verbose) as shown:
        migrator = shown.migrator(db, folder, wait=wait, lock_timeout=lock_timeout, retries=retries)
        result = migrator.down(count, to, all_)
        shown.result(result, _run_lines(result))


@app.command()
def redo(
    count: Annotated[int, typer.Argument(metavar="[N]", help="How many.")] = 1,
    db: Db = None,
    folder: Folder = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Roll the last migrations back and apply them again as their files are now; for work in progress.

    Example: `storage migrate redo`
    """
    with terminal(as_json=as_json, quiet=quiet, verbose=verbose) as shown:
        migrator = shown.migrator(db, folder)
        result = migrator.redo(count)
        shown.result(result, _run_lines(result))


@app.command()
def sync(db: Db = None, folder: Folder = None, yes: Yes = False, as_json: Json = False, quiet: Quiet = False) -> None:
    """Bring a developer's database to the branch that is checked out.

    Migrations that the folder does not contain are rolled back, from the copy of their SQL in the database; then `up`
    runs. This can discard data, so it asks for confirmation.

    Example: `git switch main && storage migrate sync`
    """
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.commands import sync as command

        migrator = shown.migrator(db, folder)
        back = command.not_in_folder(migrator)
        if back:
            shown.confirm(f"roll back {', '.join(back)}?", yes=yes)
        result = command.sync(migrator)
        shown.result(result, _run_lines(result))


@app.command()
def seed(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="A file or folder; default: seeds beside the folder of migrations."),
    ] = None,
    db: Db = None,
    folder: Folder = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run seed files on a database that is at head, each in a transaction. They run every time: write them so.

    Example: `storage migrate seed seeds/demo.sql`
    """
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.commands import seed as command

        migrator = shown.migrator(db, folder)
        result = command.seed(migrator, command.seed_files(path or migrator.folder.parent / "seeds"))
        shown.result(result, [f"ran {done.id} ({done.statements} statements)" for done in result.done])


@app.command()
def status(
    check: Annotated[bool, typer.Option("--check", help="Exit 3 if anything is pending, 5 if wrong.")] = False,
    db: Db = None,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Say what is applied, what is pending, and what does not fit. Writes nothing.

    Example: `storage migrate status --check && start-the-service`
    """
    with terminal(as_json=as_json) as shown:
        migrator = shown.migrator(db, folder)
        found = migrator.require_current() if check else migrator.status()
        shown.result(found, _status_lines(found))


@app.command()
def history(
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="How many entries.")] = 50,
    db: Db = None,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """List what was ever applied and rolled back in this database, the newest first.

    Example: `storage migrate history -n 10`
    """
    with terminal(as_json=as_json) as shown:
        migrator = shown.migrator(db, folder)
        entries = migrator.history(limit)
        rows = [
            [f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.operation, entry.id or "", f"{entry.user}@{entry.host}"]
            for entry in entries
        ]
        shown.result({"history": entries}, table(rows) if rows else ["nothing has been applied here"])


def _run_lines(result: RunResult) -> Iterator[str]:
    counts = [
        f"{sum(done.direction == direction for done in result.done)} {verb}"
        for direction, verb in (("down", "rolled back"), ("up", "applied"))
        if any(done.direction == direction for done in result.done)
    ]
    yield f"{', '.join(counts) or 'nothing to do'}; {len(result.pending) or 'nothing'} pending"


def _status_lines(found: Status) -> Iterator[str]:
    yield f"database {found.database}, {len(found.applied)} applied, {len(found.pending)} pending"
    rows = [
        [
            migration.state,
            migration.id,
            f"{migration.applied_at:%Y-%m-%d %H:%M:%S}" if migration.applied_at else "",
            migration.problem or ("" if migration.reversible else "no rollback"),
        ]
        for migration in found.migrations
    ]
    yield from table(rows) if rows else []
    for problem in found.problems:
        yield f"problem: {problem.message}"
        yield f"   hint: {problem.hint}"
