"""`check`: every check for CI in one command."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from agent_storage.migrations.errors import MigrationFailure
from agent_storage.migrations.files import lint
from agent_storage.migrations.results import CheckName
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.verify import squawk
from agent_storage.migrations.verify.declared import declares
from agent_storage.migrations.verify.drift import diff, drift, line
from agent_storage.migrations.verify.shadow import ShadowServer
from agent_storage.migrations.verify.trial import up_down_up

#: The exit code if several parts fail: the most serious first.
_ORDER = (8, 2, 5, 7, 1, 4, 3)


@dataclass(frozen=True, slots=True)
class CheckPart:
    """One part of the check. `exit_code` is 0 if it passed."""

    name: CheckName
    exit_code: int
    lines: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All parts, in the order in which they ran."""

    parts: list[CheckPart]

    @property
    def exit_code(self) -> int:
        """The exit code of the whole."""
        codes = {part.exit_code for part in self.parts}
        return next((code for code in _ORDER if code in codes), max(codes, default=0))


def check(
    migrator: Migrations,
    shadows: Callable[[], AbstractContextManager[ShadowServer]],
    names: Collection[CheckName] = tuple(CheckName),
    *,
    tables: Path | None = None,
    strict: bool = False,
    every: bool = False,
) -> CheckReport:
    """Run the named checks. `shadows` opens a server for shadow databases; lint and history need none.

    With `strict`, warnings of lint are errors, and objects that no source has made are drift. With `every`, squawk
    reads all files instead of the newest.
    """
    with ExitStack() as stack:
        server = cache(lambda: stack.enter_context(shadows()))
        steps: dict[CheckName, Callable[[], CheckPart]] = {
            CheckName.LINT: lambda: _lint(migrator, strict=strict, every=every),
            CheckName.HISTORY: lambda: _history(migrator),
            CheckName.TEST: lambda: _trial(migrator, server()),
            CheckName.SCHEMA: lambda: _schema(migrator, server(), tables),
            CheckName.DRIFT: lambda: _drift(migrator, server(), strict=strict),
        }
        return CheckReport([_run(name, step) for name, step in steps.items() if name in names])


def _run(name: CheckName, step: Callable[[], CheckPart]) -> CheckPart:
    try:
        return step()
    except MigrationFailure as error:
        return CheckPart(name, error.exit_code, [error.message, *error.lines, *([error.hint] if error.hint else [])])


def _lint(migrator: Migrations, *, strict: bool, every: bool) -> CheckPart:
    program = squawk.find()
    found: list[lint.LintFinding] = []
    files = migrator.files()
    for source in migrator.sources:
        of_source = [file for file in files if file.source == source.name]
        found += lint.lint_folder(source.migrations, of_source)
        if program is not None and (every or source == migrator.own):
            found += squawk.lint(program, of_source if every else of_source[-1:])
    failed = any(strict or finding.severity == "error" for finding in found)
    lines = [line for finding in found for line in (str(finding), f"    {finding.hint}") if line.strip()]
    return CheckPart(CheckName.LINT, 7 if failed else 0, lines)


def _history(migrator: Migrations) -> CheckPart:
    status = migrator.status()
    if status.problems:
        return CheckPart(CheckName.HISTORY, 5, [problem.message for problem in status.problems])
    return CheckPart(CheckName.HISTORY, 3 if status.pending else 0, [f"pending: {id_}" for id_ in status.pending])


def _trial(migrator: Migrations, server: ShadowServer) -> CheckPart:
    tried = up_down_up(migrator, server)
    lines = [f"{one.name}: {fault}" for one in tried for fault in one.faults]
    lines += [f"{one.name}: irreversible, up only" for one in tried if not one.reversible]
    return CheckPart(CheckName.TEST, 7 if any(one.faults for one in tried) else 0, lines)


def _schema(migrator: Migrations, server: ShadowServer, tables: Path | None) -> CheckPart:
    if tables is None and not any(map(declares, migrator.sources)):
        return CheckPart(CheckName.SCHEMA, 0, ["no source has a schema.sql"])
    found = diff(migrator, server, "migrations", "schema", tables).drift
    return CheckPart(CheckName.SCHEMA, 4 if found else 0, [line(finding) for finding in found])


def _drift(migrator: Migrations, server: ShadowServer, *, strict: bool) -> CheckPart:
    found = drift(migrator, server, strict=strict)
    lines = [*map(line, found.drift), *(f"not managed: {one.kind} {one.object}" for one in found.unmanaged)]
    return CheckPart(CheckName.DRIFT, 4 if found.drift else 0, lines)
