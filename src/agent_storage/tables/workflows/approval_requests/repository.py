"""Questions to people, decided once."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import UUID

from agent_storage.errors import Conflict, Unavailable, WaitTimeout
from agent_storage.repository import Repository, sql
from agent_storage.statements.filters import Where
from agent_storage.tables.workflows.approval_requests.record import ApprovalRequest, ApprovalStatus, NewApprovalRequest

#: How long `wait` pauses when the database cannot be asked, in seconds.
_PAUSE = 0.5


class ApprovalRequests(Repository[ApprovalRequest, NewApprovalRequest]):
    """Decisions that a run requires before it continues. Each is decided once."""

    table = "approval_requests"

    async def pending(self, where: Where | None = None, limit: int = 100) -> list[ApprovalRequest]:
        """Return the undecided requests, oldest first; `where` filters them as in `find`."""
        return await self.find({**(where or {}), "status": "pending"}, "id", limit)

    @sql("SELECT {columns} FROM {table} WHERE session_id = %(session_id)s ORDER BY id LIMIT %(limit)s", repeatable=True)
    async def of_session(self, session_id: UUID, limit: int = 1000) -> list[ApprovalRequest]:
        """The requests of a run, oldest first."""
        ...

    @sql("""
        UPDATE {table}
           SET status = %(status)s, resolved_at = clock_timestamp(), resolved_by = %(by)s, resolution_notes = %(notes)s
         WHERE id = %(id)s AND status = 'pending' AND (expires_at IS NULL OR expires_at > clock_timestamp())
        RETURNING {columns}
    """)
    async def decide(
        self, id: UUID, status: ApprovalStatus, by: str, notes: str | None = None
    ) -> ApprovalRequest | None:
        """The request, decided; None when it is not pending any more."""
        ...

    @sql("""
        UPDATE {table}
           SET status = 'expired', resolved_at = clock_timestamp()
         WHERE status = 'pending' AND expires_at <= clock_timestamp()
        RETURNING {columns}
    """)
    async def expire_overdue(self) -> list[ApprovalRequest]:
        """Expire the overdue requests and return them. Calls that wait for them are notified."""
        ...

    async def approve(self, id: UUID, by: str, notes: str | None = None) -> ApprovalRequest:
        """Approve. Raises `Conflict` with the user and time if it was decided, or if it expired; `NotFound`."""
        return await self.decide(id, "approved", by, notes) or await self._decided(id)

    async def reject(self, id: UUID, by: str, reason: str | None = None) -> ApprovalRequest:
        """Reject. Raises `Conflict` with the user and time if it was decided, or if it expired; `NotFound`."""
        return await self.decide(id, "rejected", by, reason) or await self._decided(id)

    async def wait(self, id: UUID, timeout: float | None = None) -> ApprovalRequest:
        """Wait until the request is decided or expired, and return it. Waits for a notification without polling.

        Reconnects after a lost connection. Raises `WaitTimeout` after `timeout` seconds, `NotFound`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.runner.listen("approval_requests", str(id)) as signal:
            while True:
                request, pause = await self._look(id)
                if request is not None and request.status != "pending":
                    return request
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise WaitTimeout(f"approval_requests {id} was not decided within {timeout:g} s", table=self.table)
                await signal.wait(min((given for given in (left, pause) if given is not None), default=None))

    async def _look(self, id: UUID) -> tuple[ApprovalRequest | None, float | None]:
        """Return the request, and the seconds after which to look again without a notification."""
        try:
            request = await self.require(id)
            if request.status != "pending" or request.expires_at is None:
                return request, None
            left = (request.expires_at - datetime.now(UTC)).total_seconds()
            if left <= 0:
                await self.expire_overdue()
                return await self.require(id), _PAUSE
        except Unavailable:
            return None, _PAUSE
        return request, left

    async def _decided(self, id: UUID) -> ApprovalRequest:
        request = await self.require(id)
        if request.status == "pending":
            raise Conflict(f"approval_requests {id} expired at {request.expires_at}", table=self.table)
        by = f" by {request.resolved_by}" if request.resolved_by else ""
        raise Conflict(f"approval_requests {id} was {request.status}{by} at {request.resolved_at}", table=self.table)
