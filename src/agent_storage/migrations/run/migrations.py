"""`Migrations`: apply, roll back and inspect the migrations of one folder in one database."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Literal

import psycopg

from agent_storage.migrations.errors import MigrationFailure, Pending
from agent_storage.migrations.files import lint, lockfile
from agent_storage.migrations.files.file import VERSIONS, MigrationFile, read_folder
from agent_storage.migrations.history.selection import last_applied, to_apply, to_roll_back
from agent_storage.migrations.history.timeline import Timeline, read_timeline, refuse
from agent_storage.migrations.history.tracking import TrackingTables
from agent_storage.migrations.history.yoyo import in_order
from agent_storage.migrations.results import Direction, Done, Event, HistoryEntry, Problem, RunResult, Status
from agent_storage.migrations.run.failure import describe
from agent_storage.migrations.run.lock import Holder, holders, migration_lock, pauses
from agent_storage.migrations.run.opening import open_tracking
from agent_storage.migrations.run.runner import MigrationRunner
from agent_storage.migrations.run.session import MigrationSession, explained, open_session
from agent_storage.migrations.run.taken import refuse_taken
from agent_storage.migrations.run.watch import Watch
from agent_storage.search_path import in_schema


def _ignore(_: Event) -> None:
    """Discard an event: the default of `on_event`."""


class Migrations:
    """Apply, roll back and inspect the migrations of one folder in one database.

    `folder` defaults to the migrations of the package. `on_event` is called with each `Event`, also from another
    thread. Times are in seconds: `wait` limits the wait for the migration lock, `lock_timeout` the wait for a lock
    that a statement needs. When `lock_timeout` expires, the migration is rolled back and tried again, up to `retries`
    times. `schema` is the PostgreSQL schema of the tables, which `up` creates. The default is the current one of the
    connection.
    """

    def __init__(
        self,
        conninfo: str,
        folder: Path | None = None,
        *,
        on_event: Callable[[Event], None] | None = None,
        wait: float = 60,
        retries: int = 10,
        lock_timeout: float = 5,
        schema: str | None = None,
    ) -> None:
        self._given = conninfo
        self.schema = schema
        self.folder = (folder or VERSIONS).resolve()
        self.notify = on_event or _ignore
        self.wait = wait
        self.retries = retries
        self.lock_timeout = lock_timeout

    @cached_property
    def conninfo(self) -> str:
        """The connection string, with the schema. The first use connects if a schema was given."""
        with explained():
            return self._given if self.schema is None else in_schema(self._given, self.schema)

    # Reading

    def files(self) -> list[MigrationFile]:
        """Return the migrations of the folder, in the order in which they run."""
        return in_order(read_folder(self.folder))

    def timeline(
        self,
        session: MigrationSession,
        tracking: TrackingTables | None = None,
        files: Sequence[MigrationFile] | None = None,
    ) -> Timeline:
        """Compare the database with the folder, or with `files` that were read from it before."""
        with explained():
            tracking = tracking or TrackingTables(session.connection)
            return read_timeline(self.files() if files is None else files, tracking.entries())

    def runnable(
        self, session: MigrationSession, tracking: TrackingTables | None = None, *, allow_out_of_order: bool = False
    ) -> Timeline:
        """Return the timeline, or raise the error that prevents `up` from starting."""
        tracking = tracking or TrackingTables(session.connection)
        timeline = self.timeline(session, tracking)
        lint.refuse(timeline.pending)
        refuse_taken(session, tracking, timeline.pending)
        refuse(self._real(session, timeline.problems(allow_out_of_order=allow_out_of_order)))
        return timeline

    def status(self) -> Status:
        """Return the state of the database. Writes nothing, and needs only the privilege to read."""
        with self.session() as session:
            timeline = self.timeline(session)
            problems = self._real(session, timeline.problems())
            return Status(session.database, str(self.folder), timeline.statuses(problems), problems)

    def history(self, limit: int | None = None) -> list[HistoryEntry]:
        """Return every migration that was applied or rolled back, the newest first."""
        with self.session() as session, explained():
            return TrackingTables(session.connection).history(limit)

    def require_current(self) -> Status:
        """Return `status()`. Raises `HistoryProblem` if there is a problem, `Pending` if a migration is pending."""
        status = self.status()
        refuse(status.problems)
        if status.pending:
            raise pending(status.pending)
        return status

    # Applying and rolling back

    def up(self, count: int | None = None, to: str | None = None, *, allow_out_of_order: bool = False) -> RunResult:
        """Apply the pending migrations: all, the next `count`, or up to the migration `to`.

        At head this is one short read without a lock, however many replicas start at once.
        """
        files = self.files()
        with self.session() as session:
            timeline = self.timeline(session, files=files)
            if timeline.at_head() and to is None:
                return RunResult([], [])
            # The files are read once, so the checked files are those that run, however long the lock takes.
            lint.refuse(timeline.pending)
            refuse_taken(session, TrackingTables(session.connection), timeline.pending)
            with self._locked(session, files) as locked:
                if locked is None:
                    return RunResult([], [])
                tracking, timeline = locked
                refuse(timeline.problems(allow_out_of_order=allow_out_of_order))
                chosen = to_apply(timeline, count, to)
                done = self._run(session, tracking, chosen, "up")
        lockfile.refresh(self.folder, files)
        return RunResult(done, [file.id for file in timeline.pending if file not in chosen])

    def down(self, count: int = 1, to: str | None = None, all: bool = False) -> RunResult:
        """Roll back the last `count` applied migrations, those after `to`, or all, the last applied first."""
        with self.session() as session:
            with self.holding_lock(session) as (tracking, timeline):
                refuse([problem for problem in timeline.problems() if problem.kind in {"running", "failed"}])
                chosen = to_roll_back(tracking, timeline, last_applied(timeline, count, to, everything=all))
                done = self._run(session, tracking, chosen, "down")
            return RunResult(done, [file.id for file in self.timeline(session, tracking).pending])

    def roll_back(self, ids: Sequence[str]) -> RunResult:
        """Roll back these migrations, in this order, from the copies in the database where their files are missing."""
        if not ids:
            return RunResult([], [])
        with self.session() as session:
            with self.holding_lock(session) as (tracking, timeline):
                done = self._run(session, tracking, to_roll_back(tracking, timeline, ids), "down")
            return RunResult(done, [file.id for file in self.timeline(session, tracking).pending])

    def redo(self, n: int = 1) -> RunResult:
        """Roll back the last `n` migrations and apply them again, from their current files."""
        back = self.down(n)
        if not back.done:
            return back
        try:
            again = self.up(len(back.done))
        except MigrationFailure as error:
            error.lines.append(f"rolled back and not applied again: {', '.join(done.id for done in back.done)}")
            raise
        return RunResult([*back.done, *again.done], again.pending)

    def ensure_current(self, apply: Literal[True, "wait", "fail"] = True) -> None:
        """Return only if the database has every migration of the folder. Call it when an application starts.

        `True` applies the missing ones, "wait" waits up to `wait` seconds until another process has applied them,
        "fail" raises `Pending`. A database that a newer version of the application has migrated is current.
        """
        if apply is True and not self._is_current():
            self.up()
        elif apply == "wait":
            for pause in pauses(self.wait):
                if self._is_current():
                    return
                time.sleep(pause)
        if apply is not True and not self._is_current():
            raise pending(self.status().pending)

    def _is_current(self) -> bool:
        with self.session() as session:
            timeline = self.timeline(session)
            refuse(self._real(session, timeline.problems(allow_ahead=True, allow_out_of_order=True)))
            return not timeline.pending

    def _real(self, session: MigrationSession, problems: list[Problem]) -> list[Problem]:
        """Return the problems without that of a migration that is running now."""
        if any(problem.kind == "running" for problem in problems) and holders(session.connection):
            return [problem for problem in problems if problem.kind != "running"]
        return problems

    # Sessions and locks

    @contextmanager
    def session(self) -> Generator[MigrationSession]:
        """Open a session for one command."""
        with open_session(self.conninfo, lock_timeout_ms=round(self.lock_timeout * 1000)) as session:
            session.connection.add_notice_handler(self._notice)
            with explained():
                yield session

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        self.notify(Event("notice", f"{notice.severity}: {notice.message_primary}"))

    @contextmanager
    def holding_lock(self, session: MigrationSession) -> Generator[tuple[TrackingTables, Timeline]]:
        """Hold the migration lock, with the tracking tables created and the timeline read under the lock."""
        files = self.files()
        with self._lock(session, lambda: False):
            tracking = open_tracking(session, files, self.wait)
            yield tracking, self.timeline(session, tracking, files)

    @contextmanager
    def _locked(
        self, session: MigrationSession, files: Sequence[MigrationFile]
    ) -> Generator[tuple[TrackingTables, Timeline] | None]:
        """Hold the lock for `up`. Yield None if another migrator reached head while this one waited."""
        with self._lock(session, lambda: self.timeline(session, files=files).at_head()) as held:
            if held:
                tracking = open_tracking(session, files, self.wait)
                yield tracking, self.timeline(session, tracking, files)
            else:
                yield None

    @contextmanager
    def _lock(self, session: MigrationSession, needless: Callable[[], bool]) -> Generator[bool]:
        if session.pooled:
            # A session lock would remain on a server connection that the pooler gives to other clients, so the
            # transaction of each migration takes the lock instead.
            yield True
            return
        with migration_lock(session.connection, wait=self.wait, waiting=self._waiting, needless=needless) as held:
            yield held

    def _waiting(self, found: Sequence[Holder]) -> None:
        held_by = "; ".join(map(str, found)) or "its holder has just ended"
        self.notify(Event("waiting", f"waiting for the migration lock: {held_by}"))

    def _run(
        self, session: MigrationSession, tracking: TrackingTables, files: Sequence[MigrationFile], direction: Direction
    ) -> list[Done]:
        done: list[Done] = []
        current: MigrationFile | None = None
        with self.runner(session, tracking) as runner:
            runner.refuse_pooled(files)
            try:
                for current in files:
                    result = runner.up(current) if direction == "up" else runner.down(current)
                    if result is not None:
                        done.append(result)
            except MigrationFailure as error:
                error.lines += describe(self.conninfo, done, current, files, direction)
                raise
            except KeyboardInterrupt as interrupt:
                for line in describe(self.conninfo, done, current, files, direction):
                    interrupt.add_note(line)
                raise
        return done

    @contextmanager
    def runner(self, session: MigrationSession, tracking: TrackingTables) -> Generator[MigrationRunner]:
        """Yield a runner on the session, with its watch."""
        watch = Watch(self.conninfo, self.notify, max(0.02, min(0.5, self.lock_timeout / 4)))
        try:
            yield MigrationRunner(
                session,
                tracking,
                watch,
                self.notify,
                wait=self.wait,
                retries=self.retries,
                lock_timeout_ms=round(self.lock_timeout * 1000),
            )
        finally:
            watch.close()


def pending(ids: Sequence[str]) -> Pending:
    """Return the error for pending migrations."""
    many = f"{len(ids)} migrations are" if len(ids) != 1 else "1 migration is"
    return Pending(f"{many} pending", lines=list(ids), hint="`storage migrate up` applies them")
