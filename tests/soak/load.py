"""The load: workers of both faces that write to every domain, and repeat each call until it is acknowledged.

A call has an id, a key or a name of its caller's, so that it can be repeated after an unknown outcome.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from agent_storage import (
    BudgetExceeded,
    InvalidTransition,
    PoolTimeout,
    Retryable,
    StatementTimeout,
    StorageError,
    Unavailable,
    uuid7,
)
from agent_storage.types import (
    NewApprovalRequest,
    NewBoard,
    NewBudgetPool,
    NewCheckpoint,
    NewConversation,
    NewProject,
    NewSession,
    NewTask,
    NewTicket,
    NewTicketTask,
    NewWorkflowSession,
)

from ..database.test_storm import driven
from ..database.test_whole_or_nothing import Waited, plain

#: Errors of a fault, after which a call is repeated.
OF_A_FAULT = (Unavailable, Retryable, StatementTimeout)
#: How many conversations, streams and budgets the workers share.
SHARED = 4


@dataclass
class Journal:
    """What callers were told. Written after a call returned."""

    #: Ids of acknowledged rows, by table.
    rows: dict[str, list[UUID]] = field(default_factory=dict)
    #: Keys of acknowledged spendings, and the tasks that were said to be complete.
    spent: list[str] = field(default_factory=list)
    completed: list[UUID] = field(default_factory=list)
    #: Acknowledged increments of the counter, and those of unknown outcome.
    counted: int = 0
    perhaps_counted: int = 0
    acknowledged: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    last: float = 0.0

    def keep(self, table: str, *ids: UUID) -> None:
        """Record acknowledged rows."""
        self.rows.setdefault(table, []).extend(ids)

    def acknowledge(self) -> None:
        """Record that a call returned."""
        self.acknowledged += 1
        self.last = time.monotonic()


@dataclass
class Shared:
    """Rows that all workers write to."""

    conversations: list[UUID]
    streams: list[str]
    budgets: list[UUID]
    root: UUID
    counter: UUID
    project: UUID


async def prepare(storage: Any) -> Shared:
    """Make the rows that all workers write to."""
    root = await storage.budget_pools.create(NewBudgetPool(total_budget=Decimal(10**9)))
    budgets = [await storage.budget_pools.allocate(root.id, Decimal(10**7 if n else 50)) for n in range(SHARED)]
    chats = [await storage.conversations.create(NewConversation(title="shared")) for _ in range(SHARED)]
    counter = await storage.conversations.create(NewConversation(title="counter", metadata={"n": 0}))
    project = await storage.projects.create(NewProject(name="soak", path=f"soak/{uuid7()}"))
    streams = [f"soak {uuid7()}" for _ in range(SHARED)]
    return Shared([one.id for one in chats], streams, [one.id for one in budgets], root.id, counter.id, project.id)


class Worker:
    """One task, or one thread of the sync face."""

    def __init__(self, storage: Any, shared: Shared, journal: Journal, seed: int, over: Callable[[], bool]) -> None:
        self.storage = storage
        self.shared = shared
        self.journal = journal
        self.chance = random.Random(seed)
        self.over = over
        self.waits = isinstance(storage, Waited)

    async def run(self) -> None:
        """Do one unit after the other until it is over. The last one is repeated until it is acknowledged."""
        units = [
            *(self.message, self.event, self.spending, self.task, self.ticket, self.checkpoint, self.batch),
            *(self.counter, self.reading, self.approval, self.reservation, self.message, self.event),
        ]
        while not self.over():
            unit = self.many if self.chance.random() < 0.01 else self.chance.choice(units)
            try:
                await unit()
            except Exception as error:
                self.journal.faults.append(f"{unit.__name__}: {type(error).__module__}.{type(error).__name__}: {error}")

    async def until(self, call: Callable[[], Awaitable[Any]], *also: type[StorageError]) -> Any:
        """Repeat a call until it is acknowledged; an error of `also` is an answer. Some calls are cancelled."""
        while True:
            try:
                if not self.waits and self.chance.random() < 0.01:
                    async with asyncio.timeout(self.chance.uniform(0, 0.02)):
                        result = await call()
                else:
                    result = await call()
            except also as error:
                self.journal.acknowledge()
                return error
            except OF_A_FAULT as error:
                self.journal.errors[type(error).__name__] += 1
                self.journal.outcomes[error.outcome] += 1
                pause = 0.1 if isinstance(error, Unavailable) and not isinstance(error, PoolTimeout) else 0.01
                await self.pause(pause)
            except TimeoutError:  # ours; the package's are errors of a fault
                self.journal.errors["cancelled"] += 1
            else:
                self.journal.acknowledge()
                return result

    async def pause(self, seconds: float) -> None:
        """Wait, in the way of the face."""
        if self.waits:
            time.sleep(seconds)
        else:
            await asyncio.sleep(seconds)

    async def whole(self, work: Callable[[Any], Awaitable[Any]], **how: Any) -> Any:
        """Run a transaction with the package's own repetitions."""
        if self.waits:
            return plain(self.storage).run(lambda tx: driven(work(Waited(tx))), **how)  # type: ignore[arg-type]
        return await self.storage.run(work, **how)

    async def message(self) -> None:
        """Append a message. Positions have no gaps."""
        row, chat = uuid7(), self.chance.choice(self.shared.conversations)
        made = await self.until(lambda: self.storage.messages.append(chat, "user", f"message {row}", id=row))
        assert made.id == row
        self.journal.keep("messages", row)

    async def event(self) -> None:
        """Publish an event. Sequences have no gaps."""
        row, stream = uuid7(), self.chance.choice(self.shared.streams)
        await self.until(lambda: self.storage.stream_events.publish(stream, data={"id": str(row)}, id=row))
        self.journal.keep("stream_events", row)

    async def spending(self) -> None:
        """Spend from a budget, one of which is soon exhausted."""
        key, pool = str(uuid7()), self.chance.choice(self.shared.budgets)
        amount = Decimal(self.chance.randint(1, 9))
        told = await self.until(lambda: self.storage.budget_pools.spend(pool, amount, key=key), BudgetExceeded)
        if not isinstance(told, BudgetExceeded):
            self.journal.spent.append(key)

    async def reservation(self) -> None:
        """Reserve and settle."""
        key, pool = str(uuid7()), self.chance.choice(self.shared.budgets[1:])
        held = await self.until(lambda: self.storage.budget_pools.reserve(pool, Decimal(5), key=key))
        await self.until(lambda: self.storage.budget_pools.settle(held.id, Decimal(3), key=f"{key} settled"))
        self.journal.spent.append(f"{key} settled")

    async def task(self) -> None:
        """Take a task through its states. A transition that was made before is refused."""
        session, row = uuid7(), uuid7()
        await self.until(lambda: self.storage.sessions.create(NewSession(id=session, agent="soak")))
        await self.until(lambda: self.storage.tasks.create(NewTask(id=row, session_id=session)))
        await self.until(lambda: self.storage.tasks.start(row), InvalidTransition)
        await self.until(lambda: self.storage.tasks.complete(row, {"done": True}), InvalidTransition)
        self.journal.keep("sessions", session)
        self.journal.completed.append(row)

    async def ticket(self) -> None:
        """Make a ticket and its tasks in one transaction."""
        row, tasks = uuid7(), [uuid7(), uuid7()]

        async def work(tx: Any) -> None:
            await tx.tickets.create(NewTicket(id=row, project_id=self.shared.project, title=f"ticket {row}"))
            await tx.ticket_tasks.create_many(
                [NewTicketTask(id=one, ticket_id=row, content="do", position=n) for n, one in enumerate(tasks, 1)]
            )

        await self.until(lambda: self.whole(work))
        self.journal.keep("tickets", row)
        self.journal.keep("ticket_tasks", *tasks)

    async def checkpoint(self) -> None:
        """Store the state of an agent."""
        row = uuid7()
        new = NewCheckpoint(id=row, agent_id="soak", state={"step": 1, "text": "x" * 500})
        await self.until(lambda: self.storage.checkpoints.store(new))
        self.journal.keep("checkpoints", row)

    async def approval(self) -> None:
        """Ask, approve, and wait for the decision."""
        run, row = uuid7(), uuid7()
        new = NewApprovalRequest(id=row, session_id=run, node_id="n", type="human_review")
        await self.until(
            lambda: self.storage.workflow_sessions.create(NewWorkflowSession(id=run, workflow_snapshot={"nodes": []}))
        )
        await self.until(lambda: self.storage.approval_requests.create(new))
        await self.until(lambda: self.storage.approval_requests.approve(row, "soak"), InvalidTransition)
        decided = await self.until(lambda: self.storage.approval_requests.wait(row, timeout=20.0))
        assert decided.status == "approved", decided.status
        self.journal.keep("workflow_sessions", run)
        self.journal.keep("approval_requests", row)

    async def batch(self) -> None:
        """Make three boards in a batch."""
        news = [NewBoard(id=uuid7(), name="batch", slug=f"batch {uuid7()}") for _ in range(3)]

        async def call() -> None:
            async with self.storage.batch() as batch:
                for new in news:
                    batch.add(plain(batch).boards.create, new)

        await self.until(call)
        self.journal.keep("boards", *(new.id for new in news if new.id))

    async def many(self) -> None:
        """Make so many boards that they travel in chunks."""
        news = [NewBoard(id=uuid7(), name="many", slug=f"many {uuid7()}") for _ in range(1100)]
        await self.until(lambda: self.storage.boards.create_many(news))
        self.journal.keep("boards", *(new.id for new in news if new.id))

    async def counter(self) -> None:
        """Read and add one, serializably. An unknown outcome is not repeated."""

        async def work(tx: Any) -> None:
            chat = await tx.conversations.require(self.shared.counter)
            await tx.conversations.update(chat.id, metadata={"n": chat.metadata["n"] + 1})

        try:
            await self.whole(work, isolation="serializable", attempts=50)
        except OF_A_FAULT as error:
            self.journal.errors[type(error).__name__] += 1
            self.journal.outcomes[error.outcome] += 1
            self.journal.perhaps_counted += error.outcome == "unknown"
        else:
            self.journal.counted += 1
            self.journal.acknowledge()

    async def reading(self) -> None:
        """Read a page, a stream of rows, and a row that was acknowledged."""
        ids = self.journal.rows.get("messages")

        async def call() -> None:
            await self.storage.boards.page(limit=20)
            async with self.storage.messages.stream({"conversation_id": self.shared.conversations[0]}) as rows:
                number = 0
                async for _ in rows:
                    number += 1
                    if number == 200:
                        break
            if ids:
                await self.storage.messages.require(self.chance.choice(ids))

        await self.until(call)


async def follow(storage: Any, stream: str, journal: Journal, over: Callable[[], bool], seen: list[int]) -> None:
    """Follow a stream until it is over: each event once, in order."""
    while not over():
        try:
            async with storage.stream_events.follow(stream, after=seen[-1] if seen else 0) as events:
                while not over():
                    async with asyncio.timeout(0.5):
                        seen.append((await anext(events)).sequence)
        except OF_A_FAULT as error:
            journal.errors[f"follow: {type(error).__name__}"] += 1
            await asyncio.sleep(0.1)
        except TimeoutError:
            pass
        except Exception as error:
            journal.faults.append(f"follow: {type(error).__module__}.{type(error).__name__}: {error}")
            return
