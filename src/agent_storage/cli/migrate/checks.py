"""The commands of the panel "Checks": check, diff, doctor, locks."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from agent_storage.cli.context import AsJson, Db, taught
from agent_storage.cli.migrate import app
from agent_storage.cli.migrate.terminal import Folder, Quiet, ShadowUrl, Tables, end, shadowing, table, terminal
from agent_storage.migrations.results import CheckName, Side

if TYPE_CHECKING:
    from agent_storage.migrations.commands.doctor import Locks
    from agent_storage.migrations.verify.check import CheckReport
    from agent_storage.migrations.verify.drift import Comparison

PANEL = "Checks"


@app.command(
    rich_help_panel=PANEL,
    epilog=taught(
        "storage migrate check",
        "storage migrate check --no-db",
        "storage migrate check --only test",
        "storage migrate check --only lint --strict",
        codes=(0, 1, 2, 3, 4, 5, 7, 8, 130),
    ),
)
def check(
    only: Annotated[
        list[CheckName] | None, typer.Option("--only", help="Run this check. Repeat the option for several.")
    ] = None,
    no_db: Annotated[bool, typer.Option("--no-db", help="Leave out history and drift.")] = False,
    no_schema: Annotated[bool, typer.Option("--no-schema", help="Leave out schema: there is no declared one.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Treat warnings of lint and unmanaged objects as errors.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Let squawk read all files, not the newest alone.")] = False,
    fix_lock: Annotated[bool, typer.Option("--fix-lock", help="Write migrations.lock first.")] = False,
    db: Db = None,
    folder: Folder = None,
    tables: Tables = None,
    shadow_url: ShadowUrl = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run all checks for CI, or some of them. The database is only read.

    lint: rules for safe files, and squawk if it is installed.

    history: pending, edited, missing and failed migrations.

    test: each migration up, down and up in a shadow database, the catalog compared at each step.

    schema: what the migrations make, compared with the declared schema.

    drift: the database, compared with what its applied migrations make.
    """
    left_out = {CheckName.HISTORY, CheckName.DRIFT} if no_db else set[CheckName]()
    left_out |= {CheckName.SCHEMA} if no_schema else set()
    chosen = [name for name in CheckName if name in (only or CheckName) and name not in left_out]
    if not chosen:
        raise typer.BadParameter("no check is left to run", param_hint="--only")
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.files import lockfile
        from agent_storage.migrations.verify.check import check as run

        migrator = shown.migrator(db, folder, connects=chosen != [CheckName.LINT])
        if fix_lock:
            files = migrator.files()
            for source in migrator.sources:
                if source == migrator.own or not source.shipped:
                    lockfile.write(source.migrations, [file for file in files if file.source == source.name])
        report = run(
            migrator,
            lambda: shadowing(migrator, shadow_url),
            chosen,
            tables=tables,
            strict=strict,
            every=every,
        )
        shown.result({"exit_code": report.exit_code, "parts": report.parts}, _report_lines(report))
        end(report.exit_code)


def _report_lines(report: CheckReport) -> Iterator[str]:
    for part in report.parts:
        yield f"{'failed' if part.exit_code else 'ok':<7} {part.name}"
        yield from (f"  {line}" for line in part.lines)


@app.command(
    rich_help_panel=PANEL,
    epilog=taught(
        "storage migrate diff",
        "storage migrate diff --fix-sql > repair.sql",
        "storage migrate diff migrations schema",
        codes=(0, 1, 2, 4, 5, 8, 130),
    ),
)
def diff(
    source: Annotated[Side, typer.Argument(metavar="[FROM]", help="schema, migrations, applied or db.")] = "db",
    target: Annotated[Side, typer.Argument(metavar="[TO]", help="schema, migrations, applied or db.")] = "applied",
    fix_sql: Annotated[bool, typer.Option("--fix-sql", help="Print only the SQL that turns FROM into TO.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Objects of the database that no source has made are differences, too.")
    ] = False,
    db: Db = None,
    folder: Folder = None,
    tables: Tables = None,
    shadow_url: ShadowUrl = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare two of: declared schema, migrations of the sources, applied migrations, database.

    Without arguments, show how the database differs from what its applied migrations make (drift). The database is
    only read. Tables and other objects that no configured source has made are listed as not managed.
    """
    with terminal(as_json=as_json, quiet=quiet) as shown:
        from agent_storage.migrations.verify.drift import diff as compare

        migrator = shown.migrator(db, folder)
        with shadowing(migrator, shadow_url) as server:
            found = compare(migrator, server, source, target, tables, strict=strict)
        shown.result(found, found.sql if fix_sql else _comparison_lines(found))
        end(4 if found.drift else 0)


def _comparison_lines(found: Comparison) -> Iterator[str]:
    from agent_storage.migrations.verify.drift import line

    if not found.drift:
        yield f"{found.actual} and {found.expected} agree"
    for finding in found.differences:
        yield line(finding) if finding.severity == "drift" else f"(for information) {line(finding)}"
        if finding.sql and finding.severity == "drift":
            yield from (f"    {text}" for text in finding.sql.splitlines())
    yield from (f"not managed: {one.kind} {one.object}" for one in found.unmanaged)


@app.command(rich_help_panel=PANEL, epilog=taught("storage migrate doctor", codes=(0, 2, 7, 8, 130)))
def doctor(db: Db = None, folder: Folder = None, as_json: AsJson = False) -> None:
    """Report what could make a migration fail: server, role, locks, history, INVALID indexes, leftovers."""
    with terminal(as_json=as_json) as shown:
        from agent_storage.migrations.commands.doctor import examine

        found = examine(shown.migrator(db, folder))
        rows = [["ok" if one.ok else "look", one.name, one.message] for one in found]
        hints = [f"hint ({one.name}): {one.hint}" for one in found if not one.ok and one.hint]
        shown.result({"diagnoses": found}, [*table(rows), *hints])
        end(0 if all(one.ok for one in found) else 7)


@app.command(rich_help_panel=PANEL, epilog=taught("storage migrate locks", codes=(0, 2, 8, 130)))
def locks(db: Db = None, folder: Folder = None, as_json: AsJson = False) -> None:
    """List running migrators, sessions that wait for a lock with its holder, and transactions older than a minute."""
    with terminal(as_json=as_json) as shown:
        from agent_storage.migrations.commands.doctor import locks as find

        found = find(shown.migrator(db, folder))
        shown.result(found, _lock_lines(found))


def _lock_lines(found: Locks) -> Iterator[str]:
    yield from (f"migrating: {holder}" for holder in found.migrating)
    for waiting in found.waiting:
        yield f"waiting:   {waiting.waiter}"
        yield from (f"  held by  {holder}" for holder in waiting.held_by)
    yield from (f"open long: {holder}" for holder in found.long)
    if not (found.migrating or found.waiting or found.long):
        yield "no migrator runs, no session waits for a lock, no transaction is older than a minute"
