"""Questions to people, decided once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.errors import (
    AlreadyExists,
    InvalidTransition,
    InvalidValue,
    MissingReference,
    NotFound,
    Unavailable,
    WaitTimeout,
)
from agent_storage.repository import Repository, sql
from agent_storage.statements.filters import EVERY, Condition, Joined, Parsed, named
from agent_storage.statements.ids import uuid7
from agent_storage.statements.lists import Found
from agent_storage.statements.where import Group, Where, all_of
from agent_storage.tables.workflows.approval_requests.record import ApprovalRequest, ApprovalStatus, NewApprovalRequest

if TYPE_CHECKING:
    from agent_storage.tables.changes import ApprovalRequestChanges

#: How long `wait` pauses when the database cannot be asked, in seconds.
_PAUSE = 0.5
#: The status of a run that waits for a request, by the request's type.
_WAITING: dict[str, str] = {
    "human_review": "waiting_for_human_review",
    "budget_increase": "waiting_for_budget_approval",
    "workflow_call": "waiting_for_workflow_approval",
}
#: The status is a constant here, so that the index of pending requests serves every plan.
_OPEN = Condition(
    "status", False, "open", "(status = 'pending' AND (expires_at IS NULL OR expires_at > statement_timestamp()))"
)
_NOT_OVERDUE = Condition(
    "status", False, "open", "(status <> 'pending' OR expires_at IS NULL OR expires_at > statement_timestamp())"
)

R = TypeVar("R", bound=ApprovalRequest, default=ApprovalRequest, covariant=True)
N = TypeVar("N", bound=NewApprovalRequest, default=NewApprovalRequest, covariant=True)


class ApprovalRequests(Repository[R, N]):
    """Questions of workflow runs to people; each is decided once."""

    table = "approval_requests"
    references = {"session_id": "workflow_sessions"}
    changes_parent = {"status": "session_id"}

    async def pending(self, where: Where | None = None, limit: int = 100) -> Found[R]:
        """Return the requests that wait for a decision, oldest first; `where` filters as in `find`."""
        return await self.find(all_of(where or {}, {"status": "pending"}), "id", limit)

    @sql(
        "SELECT {columns} FROM {table} WHERE session_id = %(session_id)s ORDER BY id DESC LIMIT %(limit)s",
        repeatable=True,
    )
    async def by_session(self, session_id: UUID, limit: int = 100) -> Found[R]:
        """Return the requests of a run, newest first."""
        ...

    # ---- ask -------------------------------------------------------------------------------------------------------

    @sql("""
        WITH run AS (
            SELECT id AS run_id
              FROM workflow_sessions
             WHERE id = %(new.session_id)s AND status NOT IN ('completed', 'failed')
               FOR NO KEY UPDATE
        ), asked AS (
            INSERT INTO approval_requests ({new.columns}) SELECT {new.values} FROM run
            ON CONFLICT (id) DO NOTHING
            RETURNING *
        ), waiting AS (
            UPDATE workflow_sessions run
               SET status = %(run_status)s
              FROM asked
             WHERE run.id = asked.session_id AND run.status = 'running'
            RETURNING run.id AS run_id
        ), node AS (  -- after the run, so that locks are taken in one order everywhere
            INSERT INTO node_execution_states (session_id, node_id, status, started_at, pending_approval_id)
                   -- without completed_at, error, input, metadata, output, retry_count
            SELECT asked.session_id, asked.node_id, %(node_status)s, clock_timestamp(), asked.id
              FROM asked
              LEFT JOIN waiting ON true
            ON CONFLICT (session_id, node_id) DO UPDATE
               SET status = excluded.status, pending_approval_id = excluded.pending_approval_id
                   -- without completed_at, error, input, metadata, output, retry_count, started_at
        )
        SELECT {asked.columns} FROM asked
    """)
    async def _ask(self, new: N, run_status: str, node_status: str) -> R | None:  # pyright: ignore[reportGeneralTypeIssues]
        """Return the request, or None if its id is taken or its run is not there or has ended."""
        ...

    @sql("SELECT status FROM workflow_sessions WHERE id = %(session_id)s", repeatable=True)
    async def _run_status(self, session_id: UUID) -> str | None:
        """Return the status of a run, or None."""
        ...

    async def ask(self, new: N) -> R:  # pyright: ignore[reportGeneralTypeIssues]
        """Create a request and set its node and its run waiting for the decision, in one statement.

        The decision lets both go on; a paused run stays paused. To ask again with an equal id returns the request that
        exists. Raises `MissingReference` for the run, `InvalidTransition` for a run or node that has ended.
        """
        if new.status != "pending":
            raise InvalidValue(f"{self.table}.status: ask() makes a pending request", table=self.table, column="status")
        node_status = "waiting_for_review" if new.type == "human_review" else "waiting_for_approval"
        asked = await self._ask(new, _WAITING[new.type], node_status)
        return asked or await self._asked(new)

    async def _asked(self, new: N) -> R:  # pyright: ignore[reportGeneralTypeIssues]
        found = await self.get(new.id) if new.id else None
        if found is None:
            run = await self._run_status(new.session_id)
            if run is None:
                missing = f"{self.table}.session_id refers to a row that does not exist; create the run first"
                raise MissingReference(missing, table=self.table, column="session_id")
            raise InvalidTransition(f"workflow_sessions {new.session_id} cannot ask: its status is {run}")
        if (found.session_id, found.node_id, found.type) != (new.session_id, new.node_id, new.type):
            raise AlreadyExists(f"{self.table} {new.id} is another question: choose another id", table=self.table)
        return found

    async def ask_and_wait(self, new: N, timeout: float | None = None) -> R:  # pyright: ignore[reportGeneralTypeIssues]
        """Ask as `ask` does, wait for the decision, and return the decided request.

        After a `WaitTimeout` or a restart, call it again with an equal `id`, or `wait(id)`. Raises as both do.
        """
        given = new if new.id else new.model_copy(update={"id": uuid7()})
        self.runner.listen("approval_requests")  # refused in a transaction, before anything is asked
        return await self.wait((await self.ask(given)).id, timeout)

    # ---- decide ----------------------------------------------------------------------------------------------------

    @sql("""
        WITH run AS (  -- locked before the request, as the deletion of a run does
            SELECT id AS run_id
              FROM workflow_sessions
             WHERE id = (SELECT session_id FROM {table} WHERE id = %(id)s)
               FOR NO KEY UPDATE
        )
        UPDATE {table} request
           SET status = %(status)s, resolved_by = %(by)s, resolution_notes = %(notes)s  -- a trigger sets resolved_at
          FROM run
         WHERE id = %(id)s AND session_id = run_id AND status = 'pending'
           AND (expires_at IS NULL OR expires_at > clock_timestamp())
        RETURNING {request.columns}
    """)
    async def _decide(self, id: UUID, status: ApprovalStatus, by: str, notes: str | None = None) -> R | None:
        """Return the decided request, or None if it is not pending."""
        ...

    @sql("""
        WITH runs AS (
            SELECT id AS run_id
              FROM workflow_sessions
             WHERE id IN (SELECT session_id FROM {table} WHERE id = ANY(%(ids)s))
             ORDER BY id
               FOR NO KEY UPDATE
        )
        UPDATE {table} request
           SET status = 'expired'
          FROM runs
         WHERE id = ANY(%(ids)s) AND session_id = run_id AND status = 'pending'
           AND (%(early)s OR expires_at <= clock_timestamp())
        RETURNING {request.columns}
    """)
    async def _expire(self, ids: list[UUID], early: bool) -> list[R]:
        """Expire those of the requests that are pending and overdue, or all that are pending. Return them."""
        ...

    @sql("""
        WITH runs AS (
            SELECT id AS run_id
              FROM workflow_sessions
             WHERE id IN (SELECT session_id FROM {table}
                           WHERE status = 'pending' AND expires_at <= statement_timestamp())
             ORDER BY id
               FOR NO KEY UPDATE SKIP LOCKED
        ), overdue AS (
            SELECT id AS request_id
              FROM {table}
              JOIN runs ON run_id = session_id
             WHERE status = 'pending' AND expires_at <= statement_timestamp()
             ORDER BY id
               FOR NO KEY UPDATE OF {table} SKIP LOCKED
        )
        UPDATE {table} request
           SET status = 'expired'
          FROM overdue
         WHERE id = request_id
        RETURNING {request.columns}
    """)
    async def expire_overdue(self) -> list[R]:
        """Expire all pending requests whose time has run out, let their runs go on, and return them.

        Requests that another session decides or expires meanwhile are left to it.
        """
        ...

    async def approve(self, id: UUID, by: str, notes: str | None = None) -> R:
        """Approve a pending request; its run goes on. Raises `InvalidTransition` with the decision, `NotFound`."""
        return await self._decide(id, "approved", by, notes) or await self._decided(id)

    async def reject(self, id: UUID, by: str, reason: str | None = None) -> R:
        """Reject a pending request; its run goes on. Raises `InvalidTransition` with the decision, `NotFound`."""
        return await self._decide(id, "rejected", by, reason) or await self._decided(id)

    async def expire(self, id: UUID) -> R:
        """Expire a pending request now, overdue or not; its run goes on. Raises `InvalidTransition`, `NotFound`."""
        expired = await self._expire([id], True)
        return expired[0] if expired else await self._decided(id)

    async def _decided(self, id: UUID) -> R:
        request = await self.require(id)
        if request.status == "pending":
            raise InvalidTransition(f"approval_requests {id} expired at {request.expires_at}", table=self.table)
        by = f" by {request.resolved_by}" if request.resolved_by else ""
        raise InvalidTransition(
            f"approval_requests {id} was {request.status}{by} at {request.resolved_at}", table=self.table
        )

    # ---- wait ------------------------------------------------------------------------------------------------------

    @sql("SELECT {columns} FROM {table} WHERE id = ANY(%(ids)s) ORDER BY resolved_at, id", repeatable=True)
    async def _of(self, ids: list[UUID]) -> list[R]:
        """Return these requests: those that are decided in the order of their decisions, then the pending ones."""
        ...

    @sql(
        """
        SELECT extract(epoch FROM min(expires_at) - clock_timestamp())::float8
          FROM {table}
         WHERE id = ANY(%(ids)s) AND status = 'pending'
        """,
        repeatable=True,
    )
    async def _seconds_left(self, ids: list[UUID]) -> float | None:
        """Return the seconds until the first of the requests expires, by the clock of the server."""
        ...

    async def wait(self, id: UUID, timeout: float | None = None) -> R:
        """Wait until the request is decided or expired, and return it. Notified, never polling.

        A broken connection is opened again. Raises `WaitTimeout` after `timeout` seconds, `NotFound`, also when the
        request or its run is deleted meanwhile.
        """
        return await self.wait_any([id], timeout)

    async def wait_any(self, ids: Sequence[UUID], timeout: float | None = None) -> R:
        """Wait until one of the requests is decided or expired, and return the first that was.

        Raises `WaitTimeout` after `timeout` seconds, `NotFound` if one of them is not there and none is decided.
        """
        asked = list(ids)
        if not asked:
            raise InvalidValue(f"{self.table}: wait_any needs a request", table=self.table, column="id")
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.runner.listen("approval_requests", *map(str, asked)) as signal:
            while True:
                decided, pause = await self._look(asked)
                if decided is not None:
                    return decided
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    named = f"{self.table} {asked[0]}" + (f" and {len(asked) - 1} others" if len(asked) > 1 else "")
                    raise WaitTimeout(f"{named} was not decided within {timeout:g} s", table=self.table)
                await signal.wait(min((given for given in (left, pause) if given is not None), default=None))

    async def _look(self, ids: list[UUID]) -> tuple[R | None, float | None]:
        """Return the first decided request, and the seconds after which to look again without a notification."""
        try:
            found = await self._of(ids)
            if found and found[0].status != "pending":
                return found[0], None
            if missing := set(ids) - {request.id for request in found}:
                error = NotFound(f"{self.table} has no row {min(missing)}", table=self.table)
                error.id = min(missing)
                raise error
            left = None
            if any(request.expires_at for request in found):
                left = await self._seconds_left(ids)
            if left is not None and left <= 0:
                expired = await self._expire(ids, False)
                return (expired[0] if expired else None), _PAUSE
        except Unavailable:
            return None, _PAUSE
        return None, left

    def _where(self, where: Where | None, *, needed: str | None = None) -> Parsed:
        """Leave overdue requests out of what a filter by status selects: they are pending no more."""
        form, values = super()._where(where, needed=needed)
        if form != EVERY and "status" in named(form):
            form = Joined("and", (form, _OPEN if _wants_pending(where) else _NOT_OVERDUE))
        return form, values

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[ApprovalRequestChanges]) -> R: ...  # noqa: D102


def _wants_pending(where: Where | None) -> bool:
    """Return whether a filter selects pending requests alone."""
    if isinstance(where, Mapping):
        return "pending" in (where.get("status"), where.get("status__eq"))
    return isinstance(where, Group) and where.joined == "and" and any(map(_wants_pending, where.members))
