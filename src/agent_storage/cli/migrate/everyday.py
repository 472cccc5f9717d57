"""The commands of the panel "Everyday": new, up, down, redo, sync, seed, status, history, show."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_storage.cli.context import AsJson, Db, taught
from agent_storage.cli.migrate import app
from agent_storage.cli.migrate.asking import ask, confirm_losses
from agent_storage.cli.migrate.planned import plan_lines, plan_up
from agent_storage.cli.migrate.terminal import (
    Folder,
    FromSource,
    LockTimeout,
    Quiet,
    Retries,
    ShadowUrl,
    Tables,
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
    from agent_storage.migrations.migrator import Migrator
    from agent_storage.migrations.results import RunResult, Status

PANEL = "Everyday"


@app.command(
    rich_help_panel=PANEL,
    epilog=taught(
        "storage migrate new add_orders_note", "storage migrate new add_orders_note --draft", codes=(0, 1, 2, 7, 8, 130)
    ),
)
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its purpose in a few words, as add_orders_note.")],
    draft: Annotated[
        bool, typer.Option("--draft", help="Write the SQL that the edited schema.sql files ask for.")
    ] = False,
    no_transaction: Annotated[bool, typer.Option("--no-transaction", help="For CREATE INDEX CONCURRENTLY.")] = False,
    db: Db = None,
    folder: Folder = None,
    source: FromSource = None,
    tables: Tables = None,
    shadow_url: ShadowUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make the two files of a migration in the own source: a forward file and a rollback file.

    With --draft, edit the schema.sql of the table first. Exit code 7 then means that the files contain a TODO.
    """
    with terminal(as_json=as_json) as shown:
        from agent_storage.migrations.files import author

        migrator = shown.migrator(db, folder, source=source, connects=draft)
        place = migrator.own.migrations
        if not draft:
            made = author.new(place, name, transactional=not no_transaction)
            shown.result(made, [str(made.up), str(made.down)])
            return
        found = _drafted(migrator, tables, shadow_url)
        made = author.new(place, name, up=found.up.text(guard=True), down=found.down.text(guard=False))
        shown.result({**asdict(made), "complete": found.complete}, [str(made.up), str(made.down)])
        if not found.complete:
            shown.note("the draft is not complete: look for TODO in the files")
        end(0 if found.complete else 7)


def _drafted(migrator: Migrator, tables: Path | None, shadow_url: str | None) -> MigrationDraft:
    from agent_storage.migrations.commands.draft import draft

    with shadowing(migrator, shadow_url) as server:
        return draft(migrator, server, tables)


@app.command(
    rich_help_panel=PANEL,
    epilog=taught(
        "storage migrate up",
        "storage migrate up --to add_orders_note --lock-timeout 2s",
        "storage migrate up --dry-run --locks",
        codes=(0, 1, 2, 5, 6, 7, 8, 130),
    ),
)
def up(
    count: Annotated[int | None, typer.Argument(metavar="[N]", help="The number of migrations. Default: all.")] = None,
    to: Annotated[str | None, typer.Option(metavar="ID", help="Stop after this one.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the statements that would run. Nothing is changed.")
    ] = False,
    locks: Annotated[
        bool, typer.Option("--locks", help="With --dry-run: show locks and rewrites, found in a shadow database.")
    ] = False,
    out_of_order: Annotated[
        bool, typer.Option("--allow-out-of-order", help="Also apply migrations older than the newest applied one.")
    ] = False,
    shadow_url: ShadowUrl = None,
    db: Db = None,
    folder: Folder = None,
    wait: Wait = "60s",
    lock_timeout: LockTimeout = "5s",
    retries: Retries = 10,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Apply pending migrations of all sources, each in one transaction with its tracking entry."""
    if locks and not dry_run:
        raise typer.BadParameter("needs --dry-run", param_hint="--locks")
    with terminal(as_json=as_json, quiet=quiet, verbose=verbose) as shown:
        migrator = shown.migrator(db, folder, wait=wait, lock_timeout=lock_timeout, retries=retries)
        if dry_run:
            planned = plan_up(migrator, count, to, allow_out_of_order=out_of_order, locks=locks, shadow_url=shadow_url)
            shown.result(planned, plan_lines(planned))
            return
        result = migrator.up(count, to, allow_out_of_order=out_of_order)
        shown.result(result, _run_lines(result))


@app.command(
    rich_help_panel=PANEL,
    epilog=taught(
        "storage migrate down --yes", "storage migrate down --to 20261120090000_chat", codes=(0, 1, 2, 5, 6, 7, 8, 130)
    ),
)
def down(
    count: Annotated[int, typer.Argument(metavar="[N]", help="The number of migrations.")] = 1,
    to: Annotated[str | None, typer.Option(metavar="ID", help="Roll back those after this one.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Roll back all of the source.")] = False,
    db: Db = None,
    folder: Folder = None,
    source: FromSource = None,
    yes: Yes = False,
    wait: Wait = "60s",
    lock_timeout: LockTimeout = "5s",
    retries: Retries = 10,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Roll back the last applied migrations of the own source, after saying what is lost and asking.

    The database's own copy is used when a file is gone.
    """
    with terminal(as_json=as_json, quiet=quiet, verbose=verbose) as shown:
        migrator = shown.migrator(db, folder, source=source, wait=wait, lock_timeout=lock_timeout, retries=retries)
        confirmed = confirm_losses(shown, migrator, count, to, everything=all_, yes=yes)
        result = migrator.down(count, to, all_, confirmed=confirmed)
        shown.result(result, _run_lines(result))


@app.command(rich_help_panel=PANEL, epilog=taught("storage migrate redo --yes", codes=(0, 1, 2, 5, 6, 7, 8, 130)))
def redo(
    count: Annotated[int, typer.Argument(metavar="[N]", help="The number of migrations.")] = 1,
    db: Db = None,
    folder: Folder = None,
    source: FromSource = None,
    yes: Yes = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Roll back the last migrations and apply their files again, after saying what is lost and asking."""
    with terminal(as_json=as_json, quiet=quiet, verbose=verbose) as shown:
        migrator = shown.migrator(db, folder, source=source)
        confirmed = confirm_losses(shown, migrator, count, yes=yes)
        result = migrator.redo(count, confirmed=confirmed)
        shown.result(result, _run_lines(result))


@app.command(rich_help_panel=PANEL, epilog=taught("storage migrate sync --yes", codes=(0, 1, 2, 5, 6, 7, 8, 130)))
def sync(
    db: Db = None,
    folder: Folder = None,
    source: FromSource = None,
    yes: Yes = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Bring a developer's database to the branch that is checked out.

    Migrations that the folder lacks are rolled back from the database's own copy of their SQL. Then pending ones are
    applied. This can lose data, so the command asks first.
    """
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.commands import sync as command
        from agent_storage.migrations.commands.losses import losses

        migrator = shown.migrator(db, folder, source=source)
        back = command.not_in_folder(migrator)
        if back and not yes:
            ask(shown, losses(migrator, lambda _: back))
        result = command.sync(migrator, back)
        shown.result(result, _run_lines(result))


@app.command(
    rich_help_panel=PANEL, epilog=taught("storage migrate seed seeds/demo.sql", codes=(0, 1, 2, 3, 5, 7, 8, 130))
)
def seed(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", help="A file or folder. Default: seeds, beside the folder of migrations."),
    ] = None,
    db: Db = None,
    folder: Folder = None,
    source: FromSource = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run seed files on a database at head, each in a transaction. They run each time: write them to be repeatable."""
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.commands import seed as command

        migrator = shown.migrator(db, folder, source=source)
        result = command.seed(migrator, command.seed_files(path or migrator.own.migrations.parent / "seeds"))
        shown.result(result, [f"ran {done.id} ({done.statements} statements)" for done in result.done])


@app.command(
    rich_help_panel=PANEL,
    epilog=taught("storage migrate status", "storage migrate status --check", codes=(0, 2, 3, 5, 8, 130)),
)
def status(
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 3 when migrations are pending, with 5 for problems.")
    ] = False,
    db: Db = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Show applied and pending migrations, and problems. Nothing is written."""
    with terminal(as_json=as_json) as shown:
        migrator = shown.migrator(db, folder)
        found = migrator.require_current() if check else migrator.status()
        shown.result(found, _status_lines(found))


@app.command(rich_help_panel=PANEL, epilog=taught("storage migrate history -n 10", codes=(0, 2, 8, 130)))
def history(
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="The largest number of entries.")
    ] = 50,
    db: Db = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """List all that was applied and rolled back in this database, newest first."""
    with terminal(as_json=as_json) as shown:
        migrator = shown.migrator(db, folder)
        entries = migrator.history(limit)
        rows = [
            [
                f"{entry.at:%Y-%m-%d %H:%M:%S}",
                entry.operation,
                _named(entry.source or migrator.own.name, entry.id or "", migrator.own.name),
                f"{entry.user}@{entry.host}",
            ]
            for entry in entries
        ]
        shown.result({"history": entries}, table(rows) if rows else ["nothing has been applied here"])


@app.command(
    rich_help_panel=PANEL,
    epilog=taught(
        "storage migrate show add_orders_note", "storage migrate show add_orders_note --down", codes=(0, 2, 5, 8, 130)
    ),
)
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id, its beginning, or the name after the time.")],
    down: Annotated[bool, typer.Option("--down", help="Print the rollback.")] = False,
    db: Db = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Print the SQL of a migration: its file, or the database's copy when the file is gone."""
    with terminal(as_json=as_json) as shown:
        from agent_storage.migrations.commands.show import show as find

        found = find(shown.migrator(db, folder), id)
        text = (found.down_sql or "") if down else found.up_sql
        shown.result(found, [f"-- {found.name}: {found.state}, {found.origin}", text.rstrip("\n")])


def _run_lines(result: RunResult) -> Iterator[str]:
    counts = [
        f"{sum(done.direction == direction for done in result.done)} {verb}"
        for direction, verb in (("down", "rolled back"), ("up", "applied"))
        if any(done.direction == direction for done in result.done)
    ]
    yield f"{', '.join(counts) or 'nothing to do'}; {len(result.pending) or 'nothing'} pending"


def _named(source: str, id_: str, own: str) -> str:
    return id_ if source == own else f"{source}:{id_}"


def _status_lines(found: Status) -> Iterator[str]:
    yield f"database {found.database}, {len(found.applied)} applied, {len(found.pending)} pending"
    if len(found.sources) > 1:
        yield from (f"source {name}: {folder}" for name, folder in found.sources.items())
    rows = [
        [
            migration.state if migration.state != "not configured" else "not configured here",
            _named(migration.source, migration.id, found.own),
            f"{migration.applied_at:%Y-%m-%d %H:%M:%S}" if migration.applied_at else "",
            migration.problem or ("" if migration.reversible else "no rollback"),
        ]
        for migration in found.migrations
    ]
    yield from table(rows) if rows else []
    for problem in found.problems:
        yield f"problem: {problem.message}"
        yield f"   hint: {problem.hint}"
