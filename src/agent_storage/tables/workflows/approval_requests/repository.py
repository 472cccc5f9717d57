"""Questions to people, decided once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.errors import InvalidTransition, Unavailable, WaitTimeout
from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.statements.where import Where, all_of
from agent_storage.tables.workflows.approval_requests.record import ApprovalRequest, ApprovalStatus, NewApprovalRequest

if TYPE_CHECKING:
    from agent_storage.tables.changes import ApprovalRequestChanges

#: How long `wait` pauses when the database cannot be asked, in seconds.
_PAUSE = 0.5

R = TypeVar("R", bound=ApprovalRequest, default=ApprovalRequest, covariant=True)
N = TypeVar("N", bound=NewApprovalRequest, default=NewApprovalRequest, covariant=True)


class ApprovalRequests(Repository[R, N]):
    """Questions of workflow runs to people; each is decided once."""

    table = "approval_requests"

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

    @sql("""
        UPDATE {table}
           SET status = %(status)s, resolved_at = clock_timestamp(), resolved_by = %(by)s, resolution_notes = %(notes)s
         WHERE id = %(id)s AND status = 'pending' AND (expires_at IS NULL OR expires_at > clock_timestamp())
        RETURNING {columns}
    """)
    async def _decide(self, id: UUID, status: ApprovalStatus, by: str, notes: str | None = None) -> R | None:
        """Return the decided request, or None if it is not pending."""
        ...

    @sql("""
        UPDATE {table}
           SET status = 'expired', resolved_at = clock_timestamp()
         WHERE status = 'pending' AND expires_at <= clock_timestamp()
        RETURNING {columns}
    """)
    async def expire_overdue(self) -> list[R]:
        """Expire all pending requests whose time has run out, wake those that wait for them, and return them."""
        ...

    @sql(
        "SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM {table} WHERE id = %(id)s",
        repeatable=True,
    )
    async def _seconds_left(self, id: UUID) -> float | None:
        """Return the seconds until the request expires, by the clock of the server."""
        ...

    async def approve(self, id: UUID, by: str, notes: str | None = None) -> R:
        """Approve a pending request. Raises `InvalidTransition` that names the decision, `NotFound`."""
        return await self._decide(id, "approved", by, notes) or await self._decided(id)

    async def reject(self, id: UUID, by: str, reason: str | None = None) -> R:
        """Reject a pending request. Raises `InvalidTransition` that names the decision, `NotFound`."""
        return await self._decide(id, "rejected", by, reason) or await self._decided(id)

    async def wait(self, id: UUID, timeout: float | None = None) -> R:
        """Wait until the request is decided or expired, and return it. Notified, never polling.

        A broken connection is opened again. Raises `WaitTimeout` after `timeout` seconds, `NotFound`.
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

    async def _look(self, id: UUID) -> tuple[R | None, float | None]:
        """Return the request, and the seconds after which to look again without a notification."""
        try:
            request = await self.require(id)
            if request.status != "pending" or request.expires_at is None:
                return request, None
            left = await self._seconds_left(id)
            if left is not None and left <= 0:
                await self.expire_overdue()
                return await self.require(id), _PAUSE
        except Unavailable:
            return None, _PAUSE
        return request, left

    async def _decided(self, id: UUID) -> R:
        request = await self.require(id)
        if request.status == "pending":
            raise InvalidTransition(f"approval_requests {id} expired at {request.expires_at}", table=self.table)
        by = f" by {request.resolved_by}" if request.resolved_by else ""
        raise InvalidTransition(
            f"approval_requests {id} was {request.status}{by} at {request.resolved_at}", table=self.table
        )

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[ApprovalRequestChanges]) -> R: ...  # noqa: D102
