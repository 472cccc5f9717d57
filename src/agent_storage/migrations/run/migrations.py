"""`Migrations`: apply, roll back and inspect the migrations of the sources in one database."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Literal

import psycopg

from agent_storage.migrations.errors import HistoryProblem, InvalidRequest, MigrationFailure, Pending
from agent_storage.migrations.files import lint, lockfile
from agent_storage.migrations.files.author import existing_ids
from agent_storage.migrations.files.file import MigrationFile, MigrationKey, read_source
from agent_storage.migrations.history.clashes import refuse_clashes
from agent_storage.migrations.history.dependents import refuse_needed
from agent_storage.migrations.history.selection import last_applied, to_apply, to_roll_back
from agent_storage.migrations.history.timeline import refuse
from agent_storage.migrations.history.timelines import Timelines, read_timelines
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
from agent_storage.sources import Source, of_folder, shipped


def _ignore(_: Event) -> None:
    """Discard an event: the default of `on_event`."""


class Migrations:
    """Apply, roll back and inspect the migrations of `sources` in one database.

    By default there is the shipped source alone, or with `folder` the source of that folder of migrations. `up` applies
    the sources in their order. `down` and `redo` work in the source that `own` names, by default the last. `ignore`
    names objects that `drift` leaves out, as `schema.name` with `*`.

    `on_event` is called with each `Event`, also from another thread. Times are in seconds: `wait` limits the wait for
    the migration lock, `lock_timeout` the wait for a lock that a statement needs. When `lock_timeout` expires, the
    migration is rolled back and tried again, up to `retries` times. `schema` is the PostgreSQL schema of the tables,
    which `up` creates. The default is the current one of the connection.
    """

    def __init__(
        self,
        conninfo: str,
        folder: Path | None = None,
        *,
        sources: Sequence[Source] | None = None,
        own: str | None = None,
        ignore: Sequence[str] = (),
        on_event: Callable[[Event], None] | None = None,
        wait: float = 60,
        retries: int = 10,
        lock_timeout: float = 5,
        schema: str | None = None,
    ) -> None:
        self._given = conninfo
        self.schema = schema
        self.sources = _distinct(sources if sources is not None else [of_folder(folder) if folder else shipped()])
        self.own = _named(self.sources, own) if own is not None else self.sources[-1]
        self.ignore = tuple(ignore)
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

    def files(self, *, own_may_be_empty: bool = False) -> list[MigrationFile]:
        """Return the migrations of all sources, in the order in which they run."""
        read = [
            source
            for source in self.sources
            if not (own_may_be_empty and source == self.own and not existing_ids(source.migrations))
        ]
        return in_order([file for source in read for file in read_source(source, own=source == self.own)])

    def tracking(self, session: MigrationSession) -> TrackingTables:
        """Return the tracking tables of the database."""
        return TrackingTables(session.connection, self.own.name)

    def timelines(
        self,
        session: MigrationSession,
        tracking: TrackingTables | None = None,
        files: Sequence[MigrationFile] | None = None,
    ) -> Timelines:
        """Compare the database with the folders, or with `files` that were read from them before."""
        with explained():
            tracking = tracking or self.tracking(session)
            files = self.files() if files is None else files
            return read_timelines(self.sources, self.own.name, files, tracking.entries())

    def runnable(
        self, session: MigrationSession, tracking: TrackingTables | None = None, *, allow_out_of_order: bool = False
    ) -> Timelines:
        """Return the timelines, or raise the error that prevents `up` from starting."""
        tracking = tracking or self.tracking(session)
        timelines = self.timelines(session, tracking)
        lint.refuse(timelines.pending)
        refuse(self._real(session, timelines.problems(allow_out_of_order=allow_out_of_order)))
        refuse_clashes(timelines.pending, timelines, tracking)
        refuse_taken(session, tracking.schema, timelines)
        return timelines

    def status(self) -> Status:
        """Return the state of the database. Writes nothing, and needs only the privilege to read."""
        with self.session() as session:
            timelines = self.timelines(session)
            problems = self._real(session, timelines.problems())
            statuses = timelines.statuses(problems)
            applied = [one for one in statuses if one.state in {"applied", "missing"}]
            return Status(
                session.database,
                {source.name: str(source.migrations) for source in self.sources},
                self.own.name,
                statuses,
                [MigrationKey(one.source, one.id).name(self.own.name) for one in applied],
                [file.name for file in timelines.pending],
                problems,
            )

    def history(self, limit: int | None = None) -> list[HistoryEntry]:
        """Return every migration that was applied or rolled back, the newest first."""
        with self.session() as session, explained():
            return self.tracking(session).history(limit)

    def require_current(self) -> Status:
        """Return `status()`. Raises `HistoryProblem` if there is a problem, `Pending` if a migration is pending."""
        status = self.status()
        refuse(status.problems)
        if status.pending:
            raise pending(status.pending)
        return status

    # Applying and rolling back

    def up(self, count: int | None = None, to: str | None = None, *, allow_out_of_order: bool = False) -> RunResult:
        """Apply the pending migrations of all sources: all, the next `count`, or up to the migration `to`.

        At head this is one short read without a lock, however many replicas start at once. A problem of any source
        prevents it.
        """
        return self._apply(lambda timelines: to_apply(timelines, count, to), allow_out_of_order=allow_out_of_order)

    def _apply(
        self, choose: Callable[[Timelines], list[MigrationFile]], *, allow_out_of_order: bool = False
    ) -> RunResult:
        files = self.files()
        with self.session() as session:
            timelines = self.timelines(session, files=files)
            chosen = choose(timelines)
            if timelines.at_head():
                return RunResult([], [])
            # The files are read once, so the checked files are those that run, however long the lock takes.
            lint.refuse(timelines.pending)
            tracking = self.tracking(session)
            if not timelines.problems(allow_out_of_order=True):  # they are reported first, under the lock
                refuse_clashes(chosen, timelines, tracking)
            refuse_taken(session, tracking.schema, timelines)
            with self._locked(session, files) as locked:
                if locked is None:
                    return RunResult([], [])
                tracking, timelines = locked
                refuse(timelines.problems(allow_out_of_order=allow_out_of_order))
                chosen = choose(timelines)
                refuse_clashes(chosen, timelines, tracking)
                done = self._run(session, tracking, chosen, "up")
        self.refresh_lockfiles(files)
        return RunResult(done, [file.name for file in timelines.pending if file not in chosen])

    def refresh_lockfiles(self, files: Sequence[MigrationFile]) -> None:
        """Update the lock files of the own source and of those that are not shipped."""
        for source in self.sources:
            if source == self.own or not source.shipped:
                lockfile.refresh(source.migrations, [file for file in files if file.source == source.name])

    def down(
        self,
        count: int = 1,
        to: str | None = None,
        all: bool = False,
        *,
        confirmed: Sequence[MigrationKey] | None = None,
    ) -> RunResult:
        """Roll back migrations of the own source: the last `count`, those after `to`, or all, the last applied first.

        Does not ask, whatever is lost. With `confirmed` it raises `HistoryProblem` unless it would roll back exactly
        these. Raises `InvalidRequest` if a migration of another source depends on one of them.
        """
        with self.session() as session:
            with self.holding_lock(session) as (tracking, timelines):
                refuse([problem for problem in timelines.problems() if problem.kind in {"running", "failed"}])
                keys = last_applied(timelines, count, to, everything=all)
                if confirmed is not None and keys != list(confirmed):
                    hint = "run the command again"
                    raise HistoryProblem("other migrations were applied or rolled back since you confirmed", hint=hint)
                done = self._back(session, tracking, timelines, to_roll_back(tracking, timelines, keys))
            return RunResult(done, self._left(session, tracking))

    def roll_back(self, keys: Sequence[MigrationKey]) -> RunResult:
        """Roll back these migrations, in this order, from the copies in the database where their files are missing."""
        if not keys:
            return RunResult([], [])
        with self.session() as session:
            with self.holding_lock(session) as (tracking, timelines):
                done = self._back(session, tracking, timelines, to_roll_back(tracking, timelines, keys))
            return RunResult(done, self._left(session, tracking))

    def _back(
        self,
        session: MigrationSession,
        tracking: TrackingTables,
        timelines: Timelines,
        files: Sequence[MigrationFile],
    ) -> list[Done]:
        refuse_needed(files, timelines, tracking)
        self._refuse_removing(files, timelines, tracking)
        return self._run(session, tracking, files, "down")

    def _refuse_removing(self, files: Sequence[MigrationFile], timelines: Timelines, tracking: TrackingTables) -> None:
        """Raise `InvalidRequest` if the rollback would remove objects of another source. `Migrator` tries it."""

    def _left(self, session: MigrationSession, tracking: TrackingTables) -> list[str]:
        return [file.name for file in self.timelines(session, tracking).pending]

    def redo(self, n: int = 1, *, confirmed: Sequence[MigrationKey] | None = None) -> RunResult:
        """Roll back the last `n` migrations of the own source and apply them again, from their current files."""
        back = self.down(n, confirmed=confirmed)
        if not back.done:
            return back
        own, count = self.own.name, len(back.done)
        try:
            again = self._apply(lambda now: [file for file in now.pending if file.source == own][:count])
        except MigrationFailure as error:
            error.lines.append(f"rolled back and not applied again: {', '.join(done.id for done in back.done)}")
            raise
        return RunResult([*back.done, *again.done], again.pending)

    def ensure_current(self, apply: Literal[True, "wait", "fail"] = True) -> None:
        """Return only if the database has every migration of the sources. Call it when an application starts.

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
            timelines = self.timelines(session)
            refuse(self._real(session, timelines.problems(allow_ahead=True, allow_out_of_order=True)))
            return not timelines.pending

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
    def holding_lock(self, session: MigrationSession) -> Generator[tuple[TrackingTables, Timelines]]:
        """Hold the migration lock, with the tracking tables created and the timelines read under the lock."""
        files = self.files()
        with self._lock(session, lambda: False):
            tracking = open_tracking(session, self.sources, self.own.name, files, self.wait)
            yield tracking, self.timelines(session, tracking, files)

    @contextmanager
    def _locked(
        self, session: MigrationSession, files: Sequence[MigrationFile]
    ) -> Generator[tuple[TrackingTables, Timelines] | None]:
        """Hold the lock for `up`. Yield None if another migrator reached head while this one waited."""
        with self._lock(session, lambda: self.timelines(session, files=files).at_head()) as held:
            if held:
                tracking = open_tracking(session, self.sources, self.own.name, files, self.wait)
                yield tracking, self.timelines(session, tracking, files)
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
                error.lines += describe(self.conninfo, self.own.name, done, current, files, direction)
                raise
            except KeyboardInterrupt as interrupt:
                for line in describe(self.conninfo, self.own.name, done, current, files, direction):
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


def _distinct(sources: Sequence[Source]) -> tuple[Source, ...]:
    """Return the sources. Raises `InvalidRequest` if there is none, or two have one name or one folder."""
    if not sources:
        raise InvalidRequest("there is no source of migrations", hint="name one in sources=[…]")
    for at, source in enumerate(sources):
        for other in sources[:at]:
            if source.name == other.name or source.migrations == other.migrations:
                what = f"are called {source.name}" if source.name == other.name else f"have {source.migrations}"
                raise InvalidRequest(f"two sources {what}", hint="name each folder once: NAME=FOLDER")
    return tuple(sources)


def _named(sources: Sequence[Source], name: str) -> Source:
    found = next((source for source in sources if source.name == name), None)
    if found is None:
        known = ", ".join(source.name for source in sources)
        raise InvalidRequest(f"there is no source {name!r}", hint=f"configured are: {known}")
    return found


def pending(ids: Sequence[str]) -> Pending:
    """Return the error for pending migrations."""
    many = f"{len(ids)} migrations are" if len(ids) != 1 else "1 migration is"
    return Pending(f"{many} pending", lines=list(ids), hint="`storage migrate up` applies them")
