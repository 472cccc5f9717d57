"""Run files of seed data. They run every time, unlike migrations, so their statements must be repeatable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from agent_storage.migrations.errors import InvalidRequest, LintFailed
from agent_storage.migrations.files import lint
from agent_storage.migrations.files.file import MigrationFile, SqlText
from agent_storage.migrations.history.timeline import refuse
from agent_storage.migrations.results import Done, RunResult
from agent_storage.migrations.run.migrations import Migrations, pending
from agent_storage.migrations.run.replay import run


def seed_files(path: Path) -> list[Path]:
    """Return the seed files: `path` itself, or every `*.sql` of the folder, by name."""
    found = [path] if path.is_file() else sorted(path.glob("*.sql")) if path.is_dir() else []
    if not found:
        raise InvalidRequest(
            f"{path} contains no seed files", hint="write INSERT ... ON CONFLICT DO NOTHING into a .sql file"
        )
    return found


def seed(migrator: Migrations, paths: Sequence[Path]) -> RunResult:
    """Run the files, each in a transaction, on a database that is at head, with the migration lock held."""
    files = [MigrationFile(path.stem, path, SqlText.read(path)) for path in paths]
    _refuse_unsafe(files)
    done: list[Done] = []
    with migrator.session() as session, migrator.holding_lock(session) as (_, timelines):
        refuse(timelines.problems())
        if timelines.pending:
            raise pending([file.name for file in timelines.pending])
        for file in files:
            started = time.monotonic()
            run(session.connection, file, "up")
            spent = round((time.monotonic() - started) * 1000)
            done.append(Done(file.id, "up", len(file.up.statements), spent))
    return RunResult(done, [])


def _refuse_unsafe(files: Sequence[MigrationFile]) -> None:
    rules = {"transaction-control", "psql-command", "encoding", "needs-no-transaction"}
    found = [finding for file in files for finding in lint.lint_file(file) if finding.rule in rules]
    if found:
        raise LintFailed(str(found[0]), hint=found[0].hint, lines=[str(finding) for finding in found[1:]])
