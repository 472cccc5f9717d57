"""Commands that correct the tracking tables without running migrations: baseline, resolve, repair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent_storage.migrations.errors import DriftFound, HistoryProblem, InvalidRequest
from agent_storage.migrations.files.file import MigrationFile, MigrationKey, find_key
from agent_storage.migrations.history.timelines import Timelines
from agent_storage.migrations.history.tracking import TrackedMigration, TrackingTables
from agent_storage.migrations.results import Done, RunResult
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.run.runner import invalid_indexes
from agent_storage.migrations.run.session import MigrationSession
from agent_storage.migrations.verify.catalogs import beside_database, of_migrations
from agent_storage.migrations.verify.drift import line
from agent_storage.migrations.verify.managed import compare_live, without_ignored
from agent_storage.migrations.verify.shadow import ShadowServer

How = Literal["resume", "applied", "not-applied"]


@dataclass(frozen=True, slots=True)
class Amended:
    """The changes to the tracking tables, one sentence each."""

    changes: list[str]


def baseline(migrator: Migrations, server: ShadowServer, to: str) -> Amended:
    """Record the migrations up to `to` as applied, after checking that the database has the schema they create."""
    with migrator.session() as session, migrator.holding_lock(session) as (tracking, timelines):
        keys = [file.key for file in timelines.files]
        chosen = timelines.files[: keys.index(find_key(to, keys, timelines.own)) + 1]
        expected, live = beside_database(session, of_migrations(server, chosen))
        expected, live = (without_ignored(one, migrator.ignore) for one in (expected, live))
        found = [line(one) for one in compare_live(expected, live).differences if one.severity == "drift"]
        if found:
            raise DriftFound(
                f"the schema of the database differs from that of the migrations up to {chosen[-1].name}",
                lines=found,
                hint="change the migrations or the database until they agree, or choose another id",
            )
        missing = [file for file in chosen if file.key not in timelines.applied]
        with session.connection.transaction():
            for file in missing:
                tracking.record_applied(file, origin="baseline", operation="mark")
    return Amended([f"recorded {file.name} as applied" for file in missing])


def resolve(migrator: Migrations, name: str, how: How) -> RunResult:
    """Resume a migration without a transaction that stopped halfway, or record it as applied or not applied."""
    with migrator.session() as session:
        with migrator.holding_lock(session) as (tracking, timelines):
            stopped = {entry.key: entry for entry in timelines.entries if entry.unfinished}
            if not stopped:
                raise InvalidRequest("no migration has stopped halfway", hint="`storage migrate status` lists them")
            entry = stopped[find_key(name, stopped, timelines.own)]
            file = _file(tracking, timelines, entry)
            done = _resume(migrator, session, tracking, file, entry) if how == "resume" else None
            if done is None:
                _declare(session, tracking, file, applied=how == "applied")
        left = [pending.name for pending in migrator.timelines(session, tracking).pending]
    return RunResult([done] if done else [], left)


def _file(tracking: TrackingTables, timelines: Timelines, entry: TrackedMigration) -> MigrationFile:
    file = next((file for file in timelines.files if file.key == entry.key), None) or tracking.stored(entry.key)
    if file is None:
        raise HistoryProblem(
            f"the SQL of {entry.key.name(timelines.own)} is not known", hint="restore its file in the folder"
        )
    return file


def _resume(
    migrator: Migrations,
    session: MigrationSession,
    tracking: TrackingTables,
    file: MigrationFile,
    entry: TrackedMigration,
) -> Done:
    """Continue after the completed statements, with which the file must still begin."""
    direction, count = entry.direction or "up", entry.done_statements or 0
    _refuse_rewritten(tracking, file, direction, count)
    text = file.up if direction == "up" else file.down
    rest = " ".join(statement.text for statement in text.statements[count:]) if text else ""
    left = [name for name in sorted(invalid_indexes(session.connection)) if name.rpartition(".")[2].strip('"') in rest]
    if left:
        lines = [f"DROP INDEX CONCURRENTLY {name};" for name in left]
        hint = "drop them, then resume"
        raise HistoryProblem(f"{file.name} has left INVALID indexes, which would make it fail", lines=lines, hint=hint)
    with migrator.runner(session, tracking) as runner:
        return runner.resume(file, direction, count)


def _refuse_rewritten(tracking: TrackingTables, file: MigrationFile, direction: str, count: int) -> None:
    stored = tracking.stored(file.key)
    if stored is None:
        return
    now = file.up if direction == "up" else file.down
    then = stored.up if direction == "up" else stored.down
    texts = [[statement.text for statement in text.statements[:count]] if text else [] for text in (now, then)]
    if texts[0] != texts[1]:
        raise HistoryProblem(
            f"the first {count} statements of {file.name}, which have run, were changed",
            hint="change only statements that have not run, or resolve it with --applied or --not-applied",
        )


def _declare(session: MigrationSession, tracking: TrackingTables, file: MigrationFile, *, applied: bool) -> None:
    with session.connection.transaction():
        listed = tracking.is_applied(file.key)
        if applied and not listed:
            tracking.record_applied(file, origin="resolved", operation="mark")
        elif applied:
            tracking.adopt(file)
        elif listed:
            tracking.record_rolled_back(file.key, "unmark")
        else:
            tracking.forget(file.key)


def to_repair(migrator: Migrations) -> list[str]:
    """Return the changes that `repair` would make."""
    with migrator.session() as session:
        tracking = migrator.tracking(session)
        held = tracking.stock_lock()
        unlock = [f"remove stock yoyo's lock of process {held[0]}, which must have ended"] if held else []
        return [*unlock, *(text for text, _ in _repairs(migrator.timelines(session, tracking)))]


def repair(migrator: Migrations) -> Amended:
    """Accept the files as they are, with new checksums and names, and remove a lock that stock yoyo left."""
    with migrator.session() as session:
        tracking = migrator.tracking(session)
        changes = _unlock(tracking)
        with migrator.holding_lock(session) as (tracking, timelines):
            found = _repairs(timelines)
            with session.connection.transaction():
                for _, (old, file) in found:
                    _accept(tracking, old, file)
    migrator.refresh_lockfiles(timelines.files)
    return Amended([*changes, *(text for text, _ in found)])


def _unlock(tracking: TrackingTables) -> list[str]:
    held = tracking.stock_lock()
    if held is None:
        return []
    tracking.break_stock_lock()
    return [f"remove stock yoyo's lock of process {held[0]}"]


def _repairs(timelines: Timelines) -> list[tuple[str, tuple[MigrationKey, MigrationFile]]]:
    """Return the repairs, each as a sentence, the tracked migration, and the file to record for it."""
    files = {file.key: file for file in timelines.files}
    found: list[tuple[str, tuple[MigrationKey, MigrationFile]]] = []
    for problem in timelines.problems():
        key = MigrationKey(problem.source, problem.id)
        name = key.name(timelines.own)
        if problem.kind == "edited":
            found.append((f"accept {name} as its file is now", (key, files[key])))
        elif problem.kind == "renamed" and key in timelines.applied:
            twin = timelines.by_source[key.source].twin(key.id)
            if twin is not None:
                found.append((f"rename {name} to {twin.name}", (key, twin)))
        elif problem.kind == "renamed" and (former := timelines.former(files[key])) is not None:
            found.append((f"record {former.key} as a migration of {key.source}", (former.key, files[key])))
    return found


def _accept(tracking: TrackingTables, old: MigrationKey, file: MigrationFile) -> None:
    if old == file.key:
        tracking.adopt(file)
    else:
        tracking.rename(old, file)
