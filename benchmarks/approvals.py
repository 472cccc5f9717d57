"""Part of `benchmarks.domains`: the latency from a decision to the end of `wait`."""

from __future__ import annotations

import asyncio
import statistics
import time
from uuid import UUID

from agent_storage import Storage
from agent_storage.types import NewApprovalRequest, NewWorkflowSession

from .figures import Figure, percentile


async def approvals(conninfo: str, count: int) -> list[Figure]:
    """From the call that decides to the return of `wait()`, the commit included; and what the call alone takes."""
    async with Storage(conninfo) as storage:
        session = await storage.workflow_sessions.create(NewWorkflowSession(workflow_snapshot={}))
        pairs = [await decided(storage, session.id) for _ in range(count)]
    waited, alone = ([pair[place] * 1000 for pair in pairs] for place in (0, 1))
    note = f"of {count}"
    return [
        Figure("approval, decide to wait() returning", "median", statistics.median(waited), "ms", note),
        Figure("approval, decide to wait() returning", "p99", percentile(waited, 0.99), "ms", note),
        Figure("approval, decide to wait() returning", "decide alone, median", statistics.median(alone), "ms", note),
    ]


async def decided(storage: Storage, session: UUID) -> tuple[float, float]:
    new = NewApprovalRequest(session_id=session, node_id="review", type="human_review")
    request = await storage.approval_requests.create(new)

    async def wait() -> float:
        await storage.approval_requests.wait(request.id, timeout=10)
        return time.perf_counter()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0.03)  # it has looked and listens now
    started = time.perf_counter()
    await storage.approval_requests.approve(request.id, "bench")
    returned = time.perf_counter()
    return await waiting - started, returned - started
