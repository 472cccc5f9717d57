"""`check`: every check for CI in one command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent_storage.migrations.errors import MigrationFailure
from agent_storage.migrations.files import lint
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.verify.declared import TABLES
from agent_storage.migrations.verify.drift import diff, drift, line
from agent_storage.migrations.verify.shadow import ShadowServer
from agent_storage.migrations.verify.trial import up_down_up

#: The exit code if several parts fail: the most serious first.
_ORDER = (8, 2, 5, 7, 1, 4, 3)


@dataclass(frozen=True, slots=True)
class CheckPart:
    """One part of the check. `exit_code` is 0 if it passed."""

    name: str
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
    migrator: Migrations, server: ShadowServer, *, tables: Path | None = TABLES, live: bool = True
) -> CheckReport:
    """Run lint, history, up-down-up, declared schema and drift.

    `live=False` skips the parts that read the live database, `tables=None` that of the declared schema.
    """
    steps: dict[str, Callable[[], CheckPart]] = {"lint": lambda: _lint(migrator)}
    if live:
        steps["history"] = lambda: _history(migrator)
    steps["up, down, up"] = lambda: _trial(migrator, server)
    if tables is not None:
        steps["schema agrees"] = lambda: _schema(migrator, server, tables)
    if live:
        steps["drift"] = lambda: _drift(migrator, server)
    return CheckReport([_run(name, step) for name, step in steps.items()])


def _run(name: str, step: Callable[[], CheckPart]) -> CheckPart:
    try:
        return step()
    except MigrationFailure as error:
        return CheckPart(name, error.exit_code, [error.message, *error.lines, *([error.hint] if error.hint else [])])


def _lint(migrator: Migrations) -> CheckPart:
    found = lint.lint_folder(migrator.folder, migrator.files())
    errors = any(finding.severity == "error" for finding in found)
    return CheckPart("lint", 7 if errors else 0, [str(finding) for finding in found])


def _history(migrator: Migrations) -> CheckPart:
    status = migrator.status()
    if status.problems:
        return CheckPart("history", 5, [problem.message for problem in status.problems])
    return CheckPart("history", 3 if status.pending else 0, [f"pending: {id_}" for id_ in status.pending])


def _trial(migrator: Migrations, server: ShadowServer) -> CheckPart:
    lines = list(_faults(migrator, server))
    return CheckPart("up, down, up", 7 if lines else 0, lines)


def _faults(migrator: Migrations, server: ShadowServer) -> Iterator[str]:
    for tried in up_down_up(migrator, server):
        yield from (f"{tried.id}: {fault}" for fault in tried.faults)


def _schema(migrator: Migrations, server: ShadowServer, tables: Path) -> CheckPart:
    found = diff(migrator, server, "migrations", "schema", tables).drift
    return CheckPart("schema agrees", 4 if found else 0, [line(difference) for difference in found])


def _drift(migrator: Migrations, server: ShadowServer) -> CheckPart:
    found = drift(migrator, server).drift
    return CheckPart("drift", 4 if found else 0, [line(difference) for difference in found])
