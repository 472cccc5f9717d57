"""Statements that lock several rows lock them in one order: 120 concurrent callers with shuffled ids, no deadlock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from agent_storage import InvalidTransition, NotFound, Storage, uuid7
from agent_storage.errors import Retryable
from agent_storage.types import (
    NewApprovalRequest,
    NewBudgetPool,
    NewCheckpoint,
    NewConversation,
    NewExecutionState,
    NewMessage,
    NewModel,
    NewNodeExecutionState,
    NewProject,
    NewProjectFile,
    NewProvider,
    NewSession,
    NewStreamEvent,
    NewTicket,
    NewTicketTask,
    NewWorkflow,
)

CALLERS = 120
#: Rows that all callers share, by table.
Rows = dict[str, list[UUID]]
Call = Callable[[Storage, Rows, random.Random], Awaitable[object]]


@pytest.fixture
async def crowd(migrated: str) -> AsyncIterator[Storage]:
    """A storage on which sixty statements run at once, each on a separate connection."""
    async with Storage(migrated, pool_max=60, pool_timeout=60, multiplex=0) as opened:
        yield opened


@pytest.fixture
async def rows(storage: Storage) -> Rows:
    """Thirty rows in each table that callers share, linked so that parents and children are in different orders."""
    ids: Rows = {}

    async def add(table: str, news: list[Any]) -> list[UUID]:
        made = await getattr(storage, table).create_many(news)
        ids[table] = [row.id for row in made]
        return ids[table]

    few = range(30)
    providers = await add("providers", [NewProvider(name=str(n), kind="k") for n in few])
    models = await add("models", [NewModel(provider_id=providers[-1 - n], name=str(n)) for n in few])
    projects = await add("projects", [NewProject(name="p", path=str(n)) for n in few])
    talks = await add("conversations", [NewConversation(project_id=projects[n], model_id=models[-1 - n]) for n in few])
    await add("messages", [NewMessage(conversation_id=talks[-1 - n], role="user", content="x") for n in few])
    tickets = await add("tickets", [NewTicket(project_id=projects[-1 - n], title="t") for n in few])
    await add("ticket_tasks", [NewTicketTask(ticket_id=tickets[-1 - n // 3], content="c") for n in range(90)])
    await add("project_files", [NewProjectFile(project_id=projects[0], path=str(99 - n), checksum="0") for n in few])
    first = await add("sessions", [NewSession(agent="a") for _ in few])
    ids["children"] = [
        row.id
        for row in await storage.sessions.create_many(
            [NewSession(agent="b", parent_session_id=first[-1 - n], forked_from_session_id=first[n // 2]) for n in few]
        )
    ]
    kept = await add("checkpoints", [NewCheckpoint(agent_id=str(n), state=1) for n in few])
    await storage.checkpoints.create_many([NewCheckpoint(agent_id="x", state=1, parent_id=one) for one in kept[::-1]])
    workflow = await storage.workflows.create(NewWorkflow(name="w", definition={}))
    ids["workflow_sessions"] = [(await storage.workflow_sessions.create_from(workflow.id)).id]
    nodes = [NewNodeExecutionState(session_id=ids["workflow_sessions"][0], node_id=str(99 - n)) for n in few]
    await storage.execution_states.save(NewExecutionState(session_id=ids["workflow_sessions"][0]), nodes)
    ids["node_execution_states"] = [row.id for row in await storage.node_execution_states.find()]
    pool = await storage.budget_pools.create(NewBudgetPool(total_budget=Decimal(1_000_000)))
    ids["budget_pools"] = [(await storage.budget_pools.allocate(pool.id, Decimal(1000))).id for _ in few]
    return ids


def some(ids: list[UUID], dice: random.Random, number: int = 12) -> list[UUID]:
    return dice.sample(ids, number)


def many(table: str, make: Callable[[UUID], Any], parents: str, *, ids: bool = False) -> Call:
    """A `create_many` of rows of shuffled parents, with ids or not; a parent that is gone meanwhile is no deadlock."""

    async def call(storage: Storage, rows: Rows, dice: random.Random) -> None:
        news = [make(parent) for parent in some(rows[parents], dice)]
        with suppress(NotFound):
            await getattr(storage, table).create_many(
                [new.model_copy(update={"id": uuid7()}) for new in news] if ids else news
            )

    return call


async def repeated(storage: Storage, rows: Rows, dice: random.Random) -> None:
    """The same thirty tickets with ids from every caller, each in another order."""
    news = [NewTicket(id=UUID(int=n + 1), project_id=rows["projects"][n], title="t") for n in range(30)]
    assert len(await storage.tickets.create_many(dice.sample(news, 30))) == 30


def update(table: str, rows_of: str | None = None, **changes: Any) -> Call:
    return lambda s, r, dice: getattr(s, table).update_many(some(r[rows_of or table], dice), changes)


def delete(table: str, number: int = 6) -> Call:
    return lambda s, r, dice: getattr(s, table).delete_many(some(r[table], dice, number))


def delete_one(table: str) -> Call:
    return lambda s, r, dice: getattr(s, table).delete(dice.choice(r[table]))


def delete_where(table: str) -> Call:
    return lambda s, r, dice: getattr(s, table).delete_where({"id__in": some(r[table], dice, 6)})


messages = many("messages", lambda p: NewMessage(conversation_id=p, role="user", content="x"), "conversations")
of_models = many("conversations", lambda p: NewConversation(model_id=p), "models")
of_projects = many("tickets", lambda p: NewTicket(project_id=p, title="t"), "projects")
tasks = many("ticket_tasks", lambda p: NewTicketTask(ticket_id=p, content="c"), "tickets")
events = many("stream_events", lambda p: NewStreamEvent(stream_id=str(p)), "tickets")
children = many("sessions", lambda p: NewSession(agent="c", parent_session_id=p), "sessions")


async def replies(storage: Storage, rows: Rows, dice: random.Random) -> None:
    """Messages by shuffled models in reply to shuffled messages, whose conversations are in another order."""
    with suppress(NotFound):
        await storage.messages.create_many(_replies(rows, dice))


def _replies(rows: Rows, dice: random.Random) -> list[NewMessage]:
    talks = dict(zip(rows["messages"], reversed(rows["conversations"]), strict=True))
    return [
        NewMessage(conversation_id=talks[parent], role="assistant", content="x", model_id=model, parent_id=parent)
        for parent, model in zip(some(rows["messages"], dice), some(rows["models"], dice), strict=True)
    ]


async def replies_with_ids(storage: Storage, rows: Rows, dice: random.Random) -> None:
    with suppress(NotFound):
        await storage.messages.create_many([new.model_copy(update={"id": uuid7()}) for new in _replies(rows, dice)])


async def append(storage: Storage, rows: Rows, dice: random.Random) -> None:
    with suppress(NotFound):
        await storage.messages.append(
            dice.choice(rows["conversations"]), "user", "x", model_id=dice.choice(rows["models"])
        )


async def thousands(storage: Storage, rows: Rows, dice: random.Random) -> None:
    news = [NewTicketTask(ticket_id=one, content="c") for one in some(rows["tickets"], dice, 11) * 100]
    await storage.ticket_tasks.create_many(news)


async def reorder(storage: Storage, rows: Rows, dice: random.Random) -> None:
    ticket = (await storage.ticket_tasks.require(dice.choice(rows["ticket_tasks"]))).ticket_id
    ids = [row.id for row in await storage.ticket_tasks.by_ticket(ticket)]
    await storage.ticket_tasks.reorder(ticket, some(ids, dice, len(ids)))


async def sync(storage: Storage, rows: Rows, dice: random.Random) -> None:
    project = rows["projects"][0]
    files = [NewProjectFile(project_id=project, path=str(70 + n), checksum=str(dice.random())) for n in range(30)]
    await storage.project_files.sync(project, dice.sample(files, 25))


async def save(storage: Storage, rows: Rows, dice: random.Random) -> None:
    session = rows["workflow_sessions"][0]
    nodes = [NewNodeExecutionState(session_id=session, node_id=str(70 + n), output=1) for n in range(30)]
    await storage.execution_states.save(NewExecutionState(session_id=session), dice.sample(nodes, 12))


async def expire(storage: Storage, rows: Rows, dice: random.Random) -> None:
    overdue = datetime.now(UTC) - timedelta(seconds=1)
    news = [
        NewApprovalRequest(
            session_id=rows["workflow_sessions"][0], node_id="n", type="human_review", expires_at=overdue
        )
    ]
    made = await storage.approval_requests.create_many(news * 10)

    async def change() -> None:
        with suppress(InvalidTransition):  # another caller has expired them
            await storage.approval_requests.update_many([row.id for row in dice.sample(made, 10)], {"context": {}})

    await asyncio.gather(change(), storage.approval_requests.expire_overdue())
    await storage.approval_requests.expire_overdue()


async def prune(storage: Storage, rows: Rows, dice: random.Random) -> None:
    await storage.checkpoints.prune(max_per_agent=dice.randrange(3), keep_latest=False)


async def adopt(storage: Storage, rows: Rows, dice: random.Random) -> None:
    """Shuffled children get another parent, which takes the lock of the genealogy after those of the rows."""
    with suppress(NotFound):
        await storage.sessions.update_many(
            some(rows["children"], dice), {"parent_session_id": dice.choice(rows["sessions"])}
        )


async def move(storage: Storage, rows: Rows, dice: random.Random) -> None:
    with suppress(NotFound):
        await storage.tickets.update_many(some(rows["tickets"], dice), {"project_id": dice.choice(rows["projects"])})


async def depend(storage: Storage, rows: Rows, dice: random.Random) -> None:
    """Tasks of shuffled tickets that depend on the tasks there, created and changed."""
    with suppress(NotFound):
        found = await storage.ticket_tasks.find({"id__in": some(rows["ticket_tasks"], dice)}, limit=12)
        news = [NewTicketTask(ticket_id=one.ticket_id, content="d", depends_on=[one.id]) for one in found]
        made = await storage.ticket_tasks.create_many(dice.sample(news, len(news)))
        for one in made[:3]:
            await storage.ticket_tasks.update(one.id, depends_on=[])


def update_spend(storage: Storage, rows: Rows, dice: random.Random) -> Awaitable[object]:
    return storage.budget_pools.spend(dice.choice(rows["budget_pools"]), Decimal(1))


#: Every statement that locks several rows, alone and beside those that lock the same rows from another side.
TOGETHER: dict[str, tuple[Call, ...]] = {
    "messages.create_many": (messages,),
    "messages.create_many by models and parents, deletes of these": (
        replies,
        append,
        delete_one("models"),
        delete("models", 2),
        delete("messages", 2),
        delete("conversations", 2),
    ),
    "update_many": (update("tickets", title="x"),),
    "update_many of a key": (update("projects", name="x"), of_projects),
    "create_many of messages with ids by models and parents, deletes of these": (
        replies_with_ids,
        replies,
        delete("models", 2),
        delete("messages", 2),
        delete("conversations", 2),
    ),
    "create_many of tickets with ids, deletes of their projects": (
        many("tickets", lambda p: NewTicket(project_id=p, title="t"), "projects", ids=True),
        of_projects,
        delete("projects", 3),
    ),
    "create_many of sessions with ids, deletes of their parents": (
        many("sessions", lambda p: NewSession(agent="c", parent_session_id=p), "sessions", ids=True),
        children,
        delete("sessions", 3),
    ),
    "create_many of tasks with ids, updates and deletes of their tickets": (
        many("ticket_tasks", lambda p: NewTicketTask(ticket_id=p, content="c"), "tickets", ids=True),
        tasks,
        update("tickets", title="x"),
        delete("tickets", 3),
    ),
    "create_many of the same tickets with the same ids": (repeated,),
    "ticket_tasks.create_many": (tasks,),
    "ticket_tasks.create_many of thousands": (thousands, tasks, update("tickets", title="x")),
    "ticket_tasks.reorder": (reorder, update("ticket_tasks", content="x")),
    "ticket_tasks.depends_on": (depend, depend, update("ticket_tasks", done=True), delete("ticket_tasks", 1)),
    "stream_events.create_many": (events,),
    "project_files.sync": (sync, update("project_files", summary="x"), delete("project_files", 2)),
    "execution_states.save": (save, update("node_execution_states", error="x")),
    "approval_requests.expire_overdue": (expire,),
    "checkpoints.prune": (prune, update("checkpoints", name="x"), delete("checkpoints", 2)),
    "budget_pools.spend": (update_spend, update("budget_pools", metadata={"x": 1})),
    "delete_many and delete_where": (
        delete("tickets"),
        delete_where("tickets"),
        update("tickets", title="x"),
        of_projects,
    ),
    "tickets that change their project, deletes of projects": (
        move,
        lambda s, r, dice: s.projects.delete_many(some(r["projects"], dice, 3)),
    ),
    "deletes of projects, whose tickets and tasks go": (
        delete("projects", 2),
        delete_one("projects"),
        of_projects,
        tasks,
        update("tickets", title="x"),
        update("ticket_tasks", done=True),
        update("conversations", title="x"),
    ),
    "deletes of conversations, whose messages go": (
        delete("conversations", 2),
        messages,
        append,
        update("messages", metadata={"x": 1}),
    ),
    "deletes of providers, whose models go and leave conversations": (
        delete("providers", 2),
        of_models,
        append,
        update("conversations", title="x"),
        update("messages", metadata={"x": 1}),
    ),
    "deletes of sessions, whose children lose them": (
        delete("sessions", 2),
        delete_where("sessions"),
        lambda s, r, dice: s.sessions.delete_many(some(r["children"] + r["sessions"], dice, 3)),
        children,
        adopt,
        update("sessions", "children", agent="x"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOGETHER)
async def test_120_concurrent_callers_with_shuffled_ids_do_not_deadlock(
    crowd: Storage, migrated: str, rows: Rows, name: str
) -> None:
    calls = TOGETHER[name]
    callers = [calls[n % len(calls)](crowd, rows, random.Random(n)) for n in range(CALLERS)]
    await all_go_through(migrated, callers, rarely=2 if name == "update_many of a key" else 0)


async def all_go_through(migrated: str, callers: list[Awaitable[object]], rarely: int = 0) -> None:
    """Wait for all. At most `rarely` of them may be `Retryable`.

    A row that refers to another one and is made between the moment when a statement reads what refers to a row and that
    when it locks it is locked later, out of the order.
    """
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if 0 < len(failed) <= rarely and all(isinstance(one, Retryable) for one in failed):
        return
    assert failed == []
    with psycopg.connect(migrated, autocommit=True) as connection:
        counted = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert connection.execute(counted).fetchone() == (0,)
