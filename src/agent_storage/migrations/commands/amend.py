"""Commands that put the books right without running migrations: baseline, resolve, repair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent_storage.migrations.errors import DriftFound, HistoryProblem, InvalidRequest
from agent_storage.migrations.files import lockfile
from agent_storage.migrations.files.file import MigrationFile, find_id
from agent_storage.migrations.history.timeline import Timeline
from agent_storage.migrations.history.tracking import Entry, Ledger
from agent_storage.migrations.results import Done, RunResult
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.run.runner import invalid_indexes
from agent_storage.migrations.run.session import Session
from agent_storage.migrations.verify.drift import differences
from agent_storage.migrations.verify.shadow import ShadowServer
from agent_storage.migrations.verify.sources import of_database, of_migrations

How = Literal["resume", "applied", "not-applied"]


@dataclass(frozen=True, slots=True)
class Amended:
    """What was changed in the books, a sentence each."""

    changes: list[str]


def baseline(migrator: Migrations, server: ShadowServer, to: str) -> Amended:
    """Enter the migrations up to `to` as applied, after proof that the database has what they would have made."""
    with migrator.session() as session, migrator.holding_lock(session) as (ledger, timeline):
        ids = [file.id for file in timeline.files]
        chosen = timeline.files[: ids.index(find_id(to, ids)) + 1]
        found = differences(of_migrations(server, chosen), of_database(session))
        if found:
            raise DriftFound(
                f"the database is not what the migrations up to {chosen[-1].id} make",
                lines=found,
                hint="change the migrations or the database until they agree, or choose another id",
            )
        missing = [file for file in chosen if file.id not in timeline.applied]
        with session.connection.transaction():
            for file in missing:
                ledger.record_applied(file, origin="baseline", operation="mark")
    return Amended([f"entered {file.id} as applied" for file in missing])


def resolve(migrator: Migrations, name: str, how: How) -> RunResult:
    """Settle a migration without a transaction that stopped inside: go on, or say what came of it."""
    with migrator.session() as session:
        with migrator.holding_lock(session) as (ledger, timeline):
            stopped = {entry.id: entry for entry in timeline.entries if entry.unfinished}
            if not stopped:
                raise InvalidRequest("no migration has stopped inside", hint="`storage migrate status` shows them")
            entry = stopped[find_id(name, list(stopped))]
            file = _file(ledger, timeline, entry)
            done = _resume(migrator, session, ledger, file, entry) if how == "resume" else None
            if done is None:
                _declare(session, ledger, file, applied=how == "applied")
        left = [pending.id for pending in migrator.timeline(session, ledger).pending]
    return RunResult([done] if done else [], left)


def _file(ledger: Ledger, timeline: Timeline, entry: Entry) -> MigrationFile:
    file = next((file for file in timeline.files if file.id == entry.id), None) or ledger.stored(entry.id)
    if file is None:
        raise HistoryProblem(f"the text of {entry.id} is not known", hint="put its file back into the folder")
    return file


def _resume(migrator: Migrations, session: Session, ledger: Ledger, file: MigrationFile, entry: Entry) -> Done:
    """Go on after the statements that are done, which the file must still begin with."""
    direction, count = entry.direction or "up", entry.done_statements or 0
    _refuse_rewritten(ledger, file, direction, count)
    text = file.up if direction == "up" else file.down
    rest = " ".join(statement.text for statement in text.statements[count:]) if text else ""
    left = [name for name in sorted(invalid_indexes(session.connection)) if name.rpartition(".")[2].strip('"') in rest]
    if left:
        lines = [f"DROP INDEX CONCURRENTLY {name};" for name in left]
        hint = "drop them, then resume"
        raise HistoryProblem(f"{file.id} has left INVALID indexes, which it would stumble over", lines=lines, hint=hint)
    with migrator.runner(session, ledger) as runner:
        return runner.resume(file, direction, count)


def _refuse_rewritten(ledger: Ledger, file: MigrationFile, direction: str, count: int) -> None:
    stored = ledger.stored(file.id)
    if stored is None:
        return
    now = file.up if direction == "up" else file.down
    then = stored.up if direction == "up" else stored.down
    texts = [[statement.text for statement in text.statements[:count]] if text else [] for text in (now, then)]
    if texts[0] != texts[1]:
        raise HistoryProblem(
            f"the first {count} statements of {file.id}, which are done, were changed",
            hint="change only what has not run yet, or settle it with --applied or --not-applied",
        )


def _declare(session: Session, ledger: Ledger, file: MigrationFile, *, applied: bool) -> None:
    with session.connection.transaction():
        listed = ledger.is_applied(file.id)
        if applied and not listed:
            ledger.record_applied(file, origin="resolved", operation="mark")
        elif applied:
            ledger.adopt(file)
        elif listed:
            ledger.record_rolled_back(file.id, "unmark")
        else:
            ledger.forget(file.id)


def to_repair(migrator: Migrations) -> list[str]:
    """What `repair` would change."""
    with migrator.session() as session:
        ledger = Ledger(session.connection)
        held = ledger.stock_lock()
        unlock = [f"remove stock yoyo's lock of process {held[0]}, which must be gone"] if held else []
        return [*unlock, *(text for text, _ in _repairs(ledger, migrator.timeline(session, ledger)))]


def repair(migrator: Migrations) -> Amended:
    """Accept the files as they are: new checksums, new names; remove what stock yoyo left locked."""
    with migrator.session() as session:
        ledger = Ledger(session.connection)
        changes = _unlock(ledger)
        with migrator.holding_lock(session) as (ledger, timeline):
            found = _repairs(ledger, timeline)
            with session.connection.transaction():
                for _, (old, file) in found:
                    _accept(ledger, old, file)
    lockfile.refresh(migrator.folder, timeline.files)
    return Amended([*changes, *(text for text, _ in found)])


def _unlock(ledger: Ledger) -> list[str]:
    held = ledger.stock_lock()
    if held is None:
        return []
    ledger.break_stock_lock()
    return [f"remove stock yoyo's lock of process {held[0]}"]


def _repairs(ledger: Ledger, timeline: Timeline) -> list[tuple[str, tuple[str, MigrationFile]]]:
    """Sentences, each with the id in the books and the file that is to stand for it."""
    files = {file.id: file for file in timeline.files}
    found: list[tuple[str, tuple[str, MigrationFile]]] = []
    for problem in timeline.problems():
        if problem.kind == "edited":
            found.append((f"accept {problem.id} as its file is now", (problem.id, files[problem.id])))
        elif problem.kind == "renamed":
            twin = timeline.twin(problem.id)
            if twin is not None:
                found.append((f"rename {problem.id} to {twin.id}", (problem.id, twin)))
    return found


def _accept(ledger: Ledger, old: str, file: MigrationFile) -> None:
    if old == file.id:
        ledger.adopt(file)
    else:
        ledger.rename(old, file)
