"""The commands that look and prove: plan, check, drift, diff, lint, test, show, locks, doctor."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from agent_storage.cli.migrate import app
from agent_storage.cli.migrate.planned import plan_lines, plan_up
from agent_storage.cli.migrate.terminal import (
    Db,
    Folder,
    Json,
    Quiet,
    ShadowUrl,
    Tables,
    end,
    shadowing,
    table,
    terminal,
)

if TYPE_CHECKING:
    from agent_storage.migrations.commands.doctor import Locks
    from agent_storage.migrations.files.lint import LintFinding
    from agent_storage.migrations.migrator import Migrator
    from agent_storage.migrations.verify.drift import Comparison
    from agent_storage.migrations.verify.plan import Plan


@app.command()
def plan(
    locks: Annotated[bool, typer.Option("--locks", help="Trace locks and rewrites in a shadow database.")] = False,
    db: Db = None,
    folder: Folder = None,
    shadow_url: ShadowUrl = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what `up` would run and, with `--locks`, which locks it takes on how many rows. Changes nothing.

    Example: `storage migrate plan --locks`
    """
    with terminal(as_json=as_json, quiet=quiet) as shown:
        migrator = shown.migrator(db, folder)
        found = _plan_with_locks(migrator, shadow_url) if locks else plan_up(migrator)
        shown.result(found, plan_lines(found))


def _plan_with_locks(migrator: Migrator, shadow_url: str | None) -> Plan:
    from agent_storage.migrations.history.tracking import TrackingTables
    from agent_storage.migrations.verify import plan
    from agent_storage.migrations.verify.shadow import open_shadow
    from agent_storage.migrations.verify.sources import as_applied

    with (
        migrator.session() as session,
        shadowing(migrator, shadow_url) as server,
        server.database() as conninfo,
        open_shadow(conninfo) as shadow,
    ):
        tracking = TrackingTables(session.connection)
        timeline = migrator.runnable(session, tracking)
        return plan.with_locks(shadow, session.connection, as_applied(tracking, timeline), timeline.pending)


@app.command()
def check(
    no_db: Annotated[bool, typer.Option("--no-db", help="Only what concerns the files.")] = False,
    no_schema: Annotated[bool, typer.Option("--no-schema", help="There is no declared schema to compare.")] = False,
    db: Db = None,
    folder: Folder = None,
    tables: Tables = None,
    shadow_url: ShadowUrl = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The one command for CI: lint, history, up-down-up, declared schema against migrations, drift.

    Example: `storage migrate check` on a database at head, or `storage migrate check --no-db` for the files alone
    """
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.verify.check import check as run
        from agent_storage.migrations.verify.declared import TABLES

        migrator = shown.migrator(db, folder)
        with shadowing(migrator, shadow_url) as server:
            report = run(migrator, server, tables=None if no_schema else tables or TABLES, live=not no_db)
        lines = [
            text
            for part in report.parts
            for text in [
                f"{'failed' if part.exit_code else 'ok':<7} {part.name}",
                *(f"  {line}" for line in part.lines),
            ]
        ]
        shown.result({"exit_code": report.exit_code, "parts": report.parts}, lines)
        end(report.exit_code)


@app.command()
def drift(
    fix_sql: Annotated[bool, typer.Option("--fix-sql", help="Print only the SQL that repairs it.")] = False,
    db: Db = None,
    folder: Folder = None,
    shadow_url: ShadowUrl = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how the database differs from what its applied migrations make; exit 4 if it does. Only reads.

    Example: `storage migrate drift --fix-sql > repair.sql`
    """
    with terminal(as_json=as_json, quiet=quiet) as shown:
        migrator = shown.migrator(db, folder)
        found = migrator.drift(shadow_url=shadow_url)
        shown.result(
            found, found.sql if fix_sql else _comparison_lines(found, "the database is what the migrations make")
        )
        end(4 if found.drift else 0)


@app.command()
def diff(
    source: Annotated[str, typer.Argument(metavar="FROM", help="schema, migrations or db")],
    target: Annotated[str, typer.Argument(metavar="TO", help="schema, migrations or db")],
    fix_sql: Annotated[bool, typer.Option("--fix-sql", help="Print only the SQL that turns FROM into TO.")] = False,
    db: Db = None,
    folder: Folder = None,
    tables: Tables = None,
    shadow_url: ShadowUrl = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare any two of the declared schema, the migrations and the database; exit 4 if they differ.

    Example: `storage migrate diff migrations schema`
    """
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.verify.declared import TABLES
        from agent_storage.migrations.verify.drift import diff as compare
        from agent_storage.migrations.verify.sources import source as named

        migrator = shown.migrator(db, folder)
        with shadowing(migrator, shadow_url) as server:
            found = compare(migrator, server, named(source), named(target), tables or TABLES)
        shown.result(found, found.sql if fix_sql else _comparison_lines(found, f"{source} and {target} agree"))
        end(4 if found.drift else 0)


def _comparison_lines(found: Comparison, agreed: str) -> Iterator[str]:
    from agent_storage.migrations.verify.drift import line

    if not found.drift:
        yield agreed
    for difference in found.differences:
        yield line(difference) if difference.severity == "drift" else f"(for information) {line(difference)}"
        if difference.sql and difference.severity == "drift":
            yield from (f"    {text}" for text in difference.sql.splitlines())


@app.command()
def lint(
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are errors.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Applied migrations too, for squawk.")] = False,
    fix_lock: Annotated[bool, typer.Option("--fix-lock", help="Rewrite migrations.lock first.")] = False,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Lint migration files by twelve rules, and by squawk if it is installed.

    Exit 7 for errors, with `--strict` for warnings too. squawk looks at the newest migration, or at all with `--all`.

    Example: `storage migrate lint --strict`
    """
    with terminal(as_json=as_json) as shown:
        from agent_storage.migrations.files import lint, lockfile
        from agent_storage.migrations.files.file import VERSIONS, read_folder
        from agent_storage.migrations.verify import squawk

        place = (folder or VERSIONS).resolve()
        files = read_folder(place)
        if fix_lock:
            lockfile.write(place, files)
        found = lint.lint_folder(place, files)
        program = squawk.find()
        if program is not None:
            found += squawk.lint(program, files if all_ else files[-1:])
        shown.result({"findings": found, "squawk": program is not None}, _finding_lines(found))
        end(7 if any(strict or finding.severity == "error" for finding in found) else 0)


def _finding_lines(found: list[LintFinding]) -> Iterator[str]:
    for finding in found:
        yield str(finding)
        if finding.hint:
            yield f"    {finding.hint}"
    if not found:
        yield "nothing found"


@app.command(name="test")
def try_out(
    db: Db = None, folder: Folder = None, shadow_url: ShadowUrl = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Test rollbacks: each migration up, down and up in a shadow database, comparing the catalog at each step.

    Example: `storage migrate test`
    """
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.verify.trial import up_down_up

        migrator = shown.migrator(db, folder)
        with shadowing(migrator, shadow_url) as server:
            tried = up_down_up(migrator, server)
        lines = [
            text
            for one in tried
            for text in [
                f"{'failed' if one.faults else 'ok' if one.reversible else 'up only':<7} {one.id}",
                *(f"  {fault}" for fault in one.faults),
            ]
        ]
        shown.result({"migrations": tried}, lines)
        end(7 if any(one.faults for one in tried) else 0)


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="In full, its beginning, or the name after the time.")],
    down: Annotated[bool, typer.Option("--down", help="The way back.")] = False,
    db: Db = None,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Print a migration's SQL: the file's, or the database's copy if the file is gone.

    Example: `storage migrate show add_orders_note --down`
    """
    with terminal(as_json=as_json) as shown:
        from agent_storage.migrations.commands.show import show as find

        migrator = shown.migrator(db, folder)
        found = find(migrator, id)
        text = (found.down_sql or "") if down else found.up_sql
        shown.result(found, [f"-- {found.id}: {found.state}, {found.source}", text.rstrip("\n")])


@app.command()
def locks(db: Db = None, folder: Folder = None, as_json: Json = False) -> None:
    """List who migrates, who waits for whose lock, and whose transaction has long been open.

    Example: `storage migrate locks`
    """
    with terminal(as_json=as_json) as shown:
        from agent_storage.migrations.commands.doctor import locks as find

        migrator = shown.migrator(db, folder)
        found = find(migrator)
        shown.result(found, _lock_lines(found))


def _lock_lines(found: Locks) -> Iterator[str]:
    yield from (f"migrating: {holder}" for holder in found.migrating)
    for waiting in found.waiting:
        yield f"waiting:   {waiting.waiter}"
        yield from (f"  held by  {holder}" for holder in waiting.held_by)
    yield from (f"open long: {holder}" for holder in found.long)
    if not (found.migrating or found.waiting or found.long):
        yield "no running migrator, no waiting session, no transaction older than a minute"


@app.command()
def doctor(db: Db = None, folder: Folder = None, as_json: Json = False) -> None:
    """Look at everything that makes migrations fail at the wrong moment; exit 7 if anything needs attention.

    Example: `storage migrate doctor`
    """
    with terminal(as_json=as_json) as shown:
        from agent_storage.migrations.commands.doctor import examine

        migrator = shown.migrator(db, folder)
        found = examine(migrator)
        rows = [["ok" if one.ok else "look", one.name, one.message] for one in found]
        hints = [f"hint ({one.name}): {one.hint}" for one in found if not one.ok and one.hint]
        shown.result({"diagnoses": found}, [*table(rows), *hints])
        end(0 if all(one.ok for one in found) else 7)
