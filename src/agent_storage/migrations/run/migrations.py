"""`Migrations`: those of one folder in one database; what applies them, rolls them back and says where they stand."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import psycopg

from agent_storage.migrations.errors import MigrationFailure, Pending
from agent_storage.migrations.files import lint, lockfile
from agent_storage.migrations.files.file import VERSIONS, MigrationFile, read_folder
from agent_storage.migrations.history.selection import last_applied, to_apply, to_roll_back
from agent_storage.migrations.history.timeline import Timeline, read_timeline, refuse
from agent_storage.migrations.history.tracking import Ledger
from agent_storage.migrations.results import Direction, Done, Event, HistoryEntry, Problem, RunResult, Status
from agent_storage.migrations.run.failure import describe
from agent_storage.migrations.run.lock import Holder, holders, migration_lock, pauses
from agent_storage.migrations.run.opening import open_books
from agent_storage.migrations.run.runner import Runner
from agent_storage.migrations.run.session import Session, explained, open_session
from agent_storage.migrations.run.watch import Watch


def _ignore(_: Event) -> None:
    """What happens to events that nobody asked for."""


class Migrations:
    """Applies, rolls back and inspects the migrations of one folder in one database.

    `folder` defaults to the migrations that the package ships. `on_event` is told what happens while it does, from
    another thread too. Times are in seconds: `wait` for the migration lock, `lock_timeout` for a lock that a statement
    needs; when that runs out, the migration is rolled back and tried again, `retries` times.
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
    ) -> None:
        self.conninfo = conninfo
        self.folder = (folder or VERSIONS).resolve()
        self.notify = on_event or _ignore
        self.wait = wait
        self.retries = retries
        self.lock_timeout = lock_timeout

    # What it says

    def files(self) -> list[MigrationFile]:
        """The migrations of the folder."""
        return read_folder(self.folder)

    def timeline(
        self, session: Session, ledger: Ledger | None = None, files: Sequence[MigrationFile] | None = None
    ) -> Timeline:
        """One reading of the database against the folder, or against `files` that were read from it before."""
        with explained():
            ledger = ledger or Ledger(session.connection)
            return read_timeline(self.files() if files is None else files, ledger.entries())

    def runnable(self, session: Session, ledger: Ledger | None = None, *, allow_out_of_order: bool = False) -> Timeline:
        """A reading that `up` would accept; raises what keeps `up` from starting."""
        timeline = self.timeline(session, ledger)
        lint.refuse(timeline.pending)
        refuse(self._real(session, timeline.problems(allow_out_of_order=allow_out_of_order)))
        return timeline

    def status(self) -> Status:
        """Where the database stands. Writes nothing; a role that may only read will do."""
        with self.session() as session:
            timeline = self.timeline(session)
            problems = self._real(session, timeline.problems())
            return Status(session.database, str(self.folder), timeline.statuses(problems), problems)

    def history(self, limit: int | None = None) -> list[HistoryEntry]:
        """What was ever applied and rolled back here, the newest first."""
        with self.session() as session, explained():
            return Ledger(session.connection).history(limit)

    def require_current(self) -> Status:
        """`status()`, with an error if anything is wrong (`HistoryProblem`) or pending (`Pending`)."""
        status = self.status()
        refuse(status.problems)
        if status.pending:
            raise pending(status.pending)
        return status

    # What it does

    def up(self, count: int | None = None, to: str | None = None, *, allow_out_of_order: bool = False) -> RunResult:
        """Apply what is pending: all, the next `count`, or as far as the migration `to`.

        At head this is one short read, without a lock, however many replicas start at once.
        """
        files = self.files()
        with self.session() as session:
            timeline = self.timeline(session, files=files)
            if timeline.at_head() and to is None:
                return RunResult([], [])
            # The files are read once: what is looked at here is what runs, however long the lock takes.
            lint.refuse(timeline.pending)
            with self._locked(session, files) as locked:
                if locked is None:
                    return RunResult([], [])
                ledger, timeline = locked
                refuse(timeline.problems(allow_out_of_order=allow_out_of_order))
                done = self._run(session, ledger, to_apply(timeline, count, to), "up")
            left = self.timeline(session, ledger, files).pending
        lockfile.refresh(self.folder, files)
        return RunResult(done, [file.id for file in left])

    def down(self, count: int = 1, to: str | None = None, all: bool = False) -> RunResult:
        """Roll back the last `count` applied migrations, those after `to`, or all; the last applied goes first."""
        with self.session() as session:
            with self.holding_lock(session) as (ledger, timeline):
                refuse([problem for problem in timeline.problems() if problem.kind in {"running", "failed"}])
                chosen = to_roll_back(ledger, timeline, last_applied(timeline, count, to, everything=all))
                done = self._run(session, ledger, chosen, "down")
            return RunResult(done, [file.id for file in self.timeline(session, ledger).pending])

    def take_back(self, ids: Sequence[str]) -> RunResult:
        """Roll back exactly these migrations, in this order, with the database's own copies of their SQL if need be."""
        if not ids:
            return RunResult([], [])
        with self.session() as session:
            with self.holding_lock(session) as (ledger, timeline):
                done = self._run(session, ledger, to_roll_back(ledger, timeline, ids), "down")
            return RunResult(done, [file.id for file in self.timeline(session, ledger).pending])

    def redo(self, n: int = 1) -> RunResult:
        """Roll the last `n` migrations back and apply them again, as their files are now."""
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
        """For the start of an application: return only if the database has every migration of the folder.

        `True` applies what is missing, "wait" waits `wait` seconds until somebody else has, "fail" raises `Pending`.
        A database that is ahead, because a newer version of the application was here, is current.
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

    def _real(self, session: Session, problems: list[Problem]) -> list[Problem]:
        """The problems without that of a migration that somebody is running at this moment."""
        if any(problem.kind == "running" for problem in problems) and holders(session.connection):
            return [problem for problem in problems if problem.kind != "running"]
        return problems

    # How it does it

    @contextmanager
    def session(self) -> Generator[Session]:
        """A connection for one command."""
        with open_session(self.conninfo, lock_timeout_ms=round(self.lock_timeout * 1000)) as session:
            session.connection.add_notice_handler(self._notice)
            with explained():
                yield session

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        self.notify(Event("notice", f"{notice.severity}: {notice.message_primary}"))

    @contextmanager
    def holding_lock(self, session: Session) -> Generator[tuple[Ledger, Timeline]]:
        """Hold the migration lock, with the tables there and both sides freshly read."""
        files = self.files()
        with self._lock(session, lambda: False):
            ledger = open_books(session, files, self.wait)
            yield ledger, self.timeline(session, ledger, files)

    @contextmanager
    def _locked(self, session: Session, files: Sequence[MigrationFile]) -> Generator[tuple[Ledger, Timeline] | None]:
        """Hold the lock for `up`; None if, while waiting for it, somebody else finished the job."""
        with self._lock(session, lambda: self.timeline(session, files=files).at_head()) as held:
            if held:
                ledger = open_books(session, files, self.wait)
                yield ledger, self.timeline(session, ledger, files)
            else:
                yield None

    @contextmanager
    def _lock(self, session: Session, needless: Callable[[], bool]) -> Generator[bool]:
        if session.pooled:
            # A session's lock would stay on a server connection that the pooler gives to others: each migration's
            # transaction takes the lock for itself.
            yield True
            return
        with migration_lock(session.connection, wait=self.wait, waiting=self._waiting, needless=needless) as held:
            yield held

    def _waiting(self, found: Sequence[Holder]) -> None:
        who = "; ".join(map(str, found)) or "its holder is just leaving"
        self.notify(Event("waiting", f"waiting for the migration lock: {who}"))

    def _run(
        self, session: Session, ledger: Ledger, files: Sequence[MigrationFile], direction: Direction
    ) -> list[Done]:
        done: list[Done] = []
        current: MigrationFile | None = None
        with self.runner(session, ledger) as runner:
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
    def runner(self, session: Session, ledger: Ledger) -> Generator[Runner]:
        """A runner on the session, with its watch."""
        watch = Watch(self.conninfo, self.notify, max(0.02, min(0.5, self.lock_timeout / 4)))
        try:
            yield Runner(
                session,
                ledger,
                watch,
                self.notify,
                wait=self.wait,
                retries=self.retries,
                lock_timeout_ms=round(self.lock_timeout * 1000),
            )
        finally:
            watch.close()


def pending(ids: Sequence[str]) -> Pending:
    """The error for migrations that nobody asked to apply."""
    many = f"{len(ids)} migrations are" if len(ids) != 1 else "1 migration is"
    return Pending(f"{many} pending", lines=list(ids), hint="`storage migrate up` applies them")
