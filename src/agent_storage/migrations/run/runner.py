"""Run one migration, up or down: its statements one by one, and the tracking tables in the same transaction."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.rows import scalar_row

from agent_storage.migrations.errors import HistoryProblem, InvalidRequest, LockNotObtained, MigrationFailure
from agent_storage.migrations.files.file import MigrationFile, SqlText
from agent_storage.migrations.files.lint import sets_for_session
from agent_storage.migrations.files.report import statement_failed
from agent_storage.migrations.files.splitter import SqlStatement
from agent_storage.migrations.history.tracking import TrackingTables
from agent_storage.migrations.results import Direction, Done, Event
from agent_storage.migrations.run import lock
from agent_storage.migrations.run.batch import batches, send
from agent_storage.migrations.run.session import MigrationSession, explain, is_lost
from agent_storage.migrations.run.watch import Watch
from agent_storage.search_path import OF_SESSION

#: Lock time-out, deadlock, serialization failure: the whole migration is rolled back and may run again.
RETRYABLE = {"55P03", "40P01", "40001"}

_INVALID_INDEXES = f"""
SELECT format('%I.%I', n.nspname, c.relname)
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT i.indisvalid AND c.relkind = 'i' AND n.nspname = {OF_SESSION}
 ORDER BY 1
"""  # noqa: S608  # of constants

_BEGIN = """
SELECT pg_backend_pid(), set_config('lock_timeout', %s, %s), set_config('statement_timeout', %s, %s)
"""


@dataclass
class MigrationRun:
    """A migration in one direction, and its progress: `at` a statement, or `ending` with tracking and COMMIT."""

    file: MigrationFile
    direction: Direction
    sql: SqlText
    at: SqlStatement | None = None
    origin: int = 0
    ending: bool = False
    pid: int = 0

    def move(self, statement: SqlStatement, origin: int) -> None:
        """Set the current statement, and the offset in the file from which positions of the server count."""
        self.at, self.origin = statement, origin

    @property
    def total(self) -> int:
        """The number of statements."""
        return len(self.sql.statements)

    def done(self, started: float, attempts: int = 1) -> Done:
        """Return the result."""
        spent = _milliseconds(started)
        return Done(self.file.id, self.direction, self.total, spent, attempts, self.file.source)


class MigrationRunner:
    """Run migrations on one session, which holds the migration lock unless it is pooled."""

    def __init__(
        self,
        session: MigrationSession,
        tracking: TrackingTables,
        watch: Watch,
        notify: Callable[[Event], None],
        *,
        wait: float,
        retries: int,
        lock_timeout_ms: int,
    ) -> None:
        self._session = session
        self._connection = session.connection
        self._tracking = tracking
        self._watch = watch
        self._notify = notify
        self._wait = wait
        self._retries = retries
        self._lock_timeout_ms = lock_timeout_ms

    def refuse_pooled(self, files: Sequence[MigrationFile]) -> None:
        """Raise `InvalidRequest` for files that cannot run behind a transaction pooler."""
        for file in files if self._session.pooled else ():
            what = "runs without a transaction" if not file.transactional else ""
            if any(sets_for_session(statement) for statement in file.up.statements):
                what = "uses SET without LOCAL"
            if what:
                hint = "set STORAGE_MIGRATE_URL to the server itself"
                raise InvalidRequest(f"{file.name} {what}, which is not safe behind a transaction pooler", hint=hint)

    def up(self, file: MigrationFile) -> Done | None:
        """Apply a migration. Return None if another migrator has applied it."""
        return self._run(MigrationRun(file, "up", file.up))

    def down(self, file: MigrationFile) -> Done | None:
        """Roll back a migration. Return None if another migrator has rolled it back."""
        return self._run(MigrationRun(file, "down", file.down or SqlText("")))

    def resume(self, file: MigrationFile, direction: Direction, done: int) -> Done:
        """Resume a run without a transaction after `done` statements."""
        text = file.up if direction == "up" else file.down or SqlText("")
        return self._run_bare(MigrationRun(file, direction, text), done)

    def _run(self, work: MigrationRun) -> Done | None:
        verb = "applying" if work.direction == "up" else "rolling back"
        self._watch.blocked_by = []
        self._tell(work, "start", f"{verb} {work.file.name} ({work.total} statement{'s' * (work.total != 1)})")
        done = self._run_in_transaction(work) if work.file.transactional else self._run_bare(work, 0)
        if done is None:
            self._tell(work, "skipped", f"{work.file.name}: another migrator was faster")
        else:
            verb = "applied" if work.direction == "up" else "rolled back"
            self._tell(work, "done", f"{verb} {work.file.name} in {done.duration_ms} ms")
        return done

    def _run_in_transaction(self, work: MigrationRun) -> Done | None:
        started = time.monotonic()
        for attempt in range(1, self._retries + 2):
            try:
                self._session.reset()
                if not self._attempt(work, started):
                    return None
                return work.done(started, attempt)
            except psycopg.Error as error:
                if error.sqlstate not in RETRYABLE or attempt > self._retries:
                    raise self._failure(error, work, attempt) from error
                self._back_off(error, work, attempt)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, work: MigrationRun, started: float) -> bool:
        """Run one transaction. Return False, without changes, if the migration is in the wanted state already."""
        work.at, work.ending = None, False
        for pause in lock.tries(self._wait):
            with self._connection.transaction():
                if lock.try_lock(self._connection, transaction=True):
                    if self._tracking.is_applied(work.file.key) == (work.direction == "up"):
                        return False
                    self._execute_all(work)
                    self._record(work, started)
                    return True
            if pause is None:
                break
            time.sleep(pause)
        raise lock.not_obtained(lock.holders(self._connection), self._wait)

    def _execute_all(self, work: MigrationRun) -> None:
        self._begin(work, work.sql.timeout("lock-timeout", self._lock_timeout_ms), local=True)
        for batch in batches(work.sql.statements):
            self._execute(work, batch)
            if self._connection.info.transaction_status != psycopg.pq.TransactionStatus.INTRANS:
                raise InvalidRequest(f"{work.file.name}: statement {batch[0].number} ended the manager's transaction")
        work.at, work.ending = None, True

    def _execute(self, work: MigrationRun, batch: Sequence[SqlStatement]) -> None:
        work.move(batch[0], batch[0].offset)
        first, last = batch[0].number, batch[-1].number
        which = f"statement {first}" if first == last else f"statements {first} to {last}"
        event = Event("statement", f"{work.file.name}: {which} of {work.total}", work.file.id, first, work.total)
        self._notify(event)
        with self._watch.over(work.pid, event):
            if len(batch) == 1:
                self._connection.execute(batch[0].text.encode())
            else:
                send(self._connection, work.sql.text, batch, work.move)

    def _record(self, work: MigrationRun, started: float) -> None:
        if any(statement.starts_with("SET") for statement in work.sql.statements):
            self._connection.execute("RESET SESSION AUTHORIZATION; RESET ROLE")
        if work.direction == "up":
            self._tracking.record_applied(work.file, duration_ms=_milliseconds(started))
        else:
            self._tracking.record_rolled_back(work.file.key)

    def _run_bare(self, work: MigrationRun, done: int) -> Done:
        """Run without a transaction: each statement commits by itself."""
        started = time.monotonic()
        self._session.reset()
        invalid = invalid_indexes(self._connection)
        try:
            self._tracking.begin(work.file, work.direction, done)
            for statement in work.sql.statements[done:]:
                # A concurrent build waits for old transactions without blocking others, so it has no lock_timeout.
                default = 0 if "CONCURRENTLY" in statement.words else self._lock_timeout_ms
                self._begin(work, work.sql.timeout("lock-timeout", default), local=False)
                self._execute(work, [statement])
                self._tracking.advance(work.file.key, statement.number)
            self._session.reset()
            self._refuse_invalid(work, invalid)
            work.at, work.ending = None, True
            with self._connection.transaction():
                self._record(work, started)
        except psycopg.Error as error:
            raise self._stopped(self._failure(error, work, 1), work, invalid) from error
        except KeyboardInterrupt:
            self._note_failure(work, "interrupted")
            raise
        return work.done(started)

    def _refuse_invalid(self, work: MigrationRun, before: set[str]) -> None:
        left = sorted(invalid_indexes(self._connection) - before)
        if left:
            self._note_failure(work, f"left INVALID indexes: {', '.join(left)}")
            lines = [f"DROP INDEX CONCURRENTLY {name};" for name in left]
            message = f"{work.file.name} has left INVALID indexes"
            raise HistoryProblem(message, lines=lines, hint=_resume_hint(work))

    def _stopped(self, failure: MigrationFailure, work: MigrationRun, before: set[str]) -> MigrationFailure:
        """Record the failure of a run without a transaction, and add the INVALID indexes that it left."""
        self._note_failure(work, failure.message)
        done = work.at.number - 1 if work.at else work.total
        failure.lines.append(
            f"statements 1 to {done} of {work.file.name} are committed" if done else "nothing was done"
        )
        if not self._connection.broken and not self._connection.closed:
            for name in sorted(invalid_indexes(self._connection) - before):
                failure.lines.append(f"left an INVALID index, to be dropped by hand: DROP INDEX CONCURRENTLY {name};")
        failure.hint = _resume_hint(work)
        return failure

    def _note_failure(self, work: MigrationRun, error: str) -> None:
        try:
            self._session.reset()
            self._tracking.fail(work.file.key, error)
        except psycopg.Error:
            return  # the connection is lost; state `running` without a lock means the same

    def _failure(self, error: psycopg.Error, work: MigrationRun, attempts: int) -> MigrationFailure:
        if is_lost(error) or (work.at is None and not work.ending):
            return explain(error)
        path = work.file.path if work.direction == "up" else work.file.rollback_path
        failed = statement_failed(error, path, work.sql, work.at, work.origin)
        if error.sqlstate != "55P03":
            return failed
        found = self._watch.blocked_by
        lines = [f"held by {holder}" for holder in found] or ["the session that held the lock was not observed"]
        tried = f"gave up after {attempts} attempt{'s' * (attempts != 1)}"
        return LockNotObtained(
            f"{failed.message}; {tried}",
            lines=[*failed.lines, *lines],
            hint="end that session or wait for it; --retries, --lock-timeout or `-- lock-timeout: 5s` allow more time",
            sqlstate=error.sqlstate,
        )

    def _back_off(self, error: psycopg.Error, work: MigrationRun, attempt: int) -> None:
        pause = min(10.0, 0.25 * 2 ** min(attempt, 6)) * random.uniform(0.5, 1.0)  # noqa: S311
        reason = error.diag.message_primary or "conflict"
        message = f"{work.file.name}: {reason}; rolled back, attempt {attempt + 1} in {pause:.1f} s"
        self._tell(work, "retry", message)
        time.sleep(pause)

    def _begin(self, work: MigrationRun, lock_timeout_ms: int, *, local: bool) -> None:
        """Set the time-outs, for the transaction or the session, and read the backend's pid, in one round trip."""
        values = (f"{lock_timeout_ms}ms", local, f"{work.sql.timeout('statement-timeout', 0)}ms", local)
        row = self._connection.execute(_BEGIN, values).fetchone()
        work.pid = row[0] if row else 0

    def _tell(self, work: MigrationRun, kind: str, message: str) -> None:
        self._notify(Event(kind, message, work.file.id, None, work.total))


def _resume_hint(work: MigrationRun) -> str:
    return f"correct the cause, then `storage migrate resolve {work.file.name} --resume`"


def _milliseconds(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def invalid_indexes(connection: psycopg.Connection) -> set[str]:
    """Return the indexes of the schema that a failed or interrupted CREATE INDEX CONCURRENTLY left."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return set(cursor.execute(_INVALID_INDEXES.encode()).fetchall())
