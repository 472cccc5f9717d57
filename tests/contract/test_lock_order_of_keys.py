"""Statements that lock rows of several tables, or make the same keys: 120 concurrent callers, no deadlock."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from agent_storage import AlreadyExists, Conflict, InvalidTransition, NotFound, StillReferenced, Storage, uuid7
from agent_storage.types import (
    NewApprovalRequest,
    NewBoard,
    NewBudgetEntry,
    NewBudgetPool,
    NewBudgetReservation,
    NewConversation,
    NewLlmExecution,
    NewMessage,
    NewModel,
    NewProject,
    NewProjectFile,
    NewProvider,
    NewSession,
    NewTicket,
    NewTicketTask,
    NewToolConfig,
    NewToolResult,
    NewWorkflow,
)

from .test_lock_order import CALLERS, Call, Rows, all_go_through, crowd, delete, delete_one, some

__all__ = ["crowd"]

FEW = range(30)


@pytest.fixture
async def rows(storage: Storage) -> Rows:
    """Rows that callers share; see each scenario."""
    ids: Rows = {}

    async def add(table: str, news: list[Any]) -> list[UUID]:
        made = await getattr(storage, table).create_many(news)
        ids[table] = [row.id for row in made]
        return ids[table]

    projects = await add("projects", [NewProject(name="p", path=str(n)) for n in FEW])
    providers = await add("providers", [NewProvider(name=str(n), kind="k") for n in range(3)])
    models = await add("models", [NewModel(provider_id=providers[n % 3], name=str(n)) for n in FEW])
    talks = await add("conversations", [NewConversation(project_id=one, model_id=models[0]) for one in projects])
    await add(
        "messages",
        [NewMessage(conversation_id=talks[0], role="user", content="x", model_id=models[-1 - n]) for n in FEW],
    )
    await add("tool_configs", [NewToolConfig(name=str(n), transport="stdio") for n in FEW])
    await add("boards", [NewBoard(name=str(n), slug=f"b{n}") for n in FEW])
    await add("sessions", [NewSession(agent="a") for _ in FEW])
    tickets = await add("tickets", [NewTicket(project_id=projects[-1 - n], title="t") for n in FEW])
    await add("ticket_tasks", [NewTicketTask(ticket_id=tickets[-1 - n // 3], content="c") for n in range(90)])
    workflow = await storage.workflows.create(NewWorkflow(name="w", definition={}))
    ids["workflow_sessions"] = [(await storage.workflow_sessions.create_from(workflow.id)).id for _ in FEW]
    await add(
        "approval_requests",
        [
            NewApprovalRequest(
                session_id=ids["workflow_sessions"][-1 - n // 4], node_id=str(n), type="human_review",
                expires_at=datetime.now(UTC) + timedelta(seconds=-1 if n % 4 == 0 else 60),
            )
            for n in range(120)
        ],
    )  # fmt: skip
    await add("budget_pools", [NewBudgetPool(total_budget=Decimal(1000)) for _ in FEW])
    return ids


def keyed(table: str, make: Any, *, ids: bool = False, copies: int = 1) -> Call:
    """A `create_many` of the same keys from every caller, each in another order: one makes the rows."""

    async def call(storage: Storage, rows: Rows, dice: random.Random) -> None:
        news = [make(rows, n) for n in range(30 * copies)]
        dice.shuffle(news)
        with suppress(AlreadyExists):
            made = await getattr(storage, table).create_many(
                [new.model_copy(update={"id": uuid7()}) for new in news] if ids else news
            )
            names = [name for name in ("path", "slug", "name", "key") if hasattr(news[0], name)]
            assert [getattr(row, names[0]) for row in made] == [getattr(new, names[0]) for new in news]

    return call


class Undone(Exception):
    """Rolls a transaction back, so that other callers find the rows again."""


def undone(call: Call) -> Call:
    async def undo(storage: Storage, rows: Rows, dice: random.Random) -> None:
        with suppress(Undone):
            async with storage.transaction() as transaction:
                await call(transaction, rows, dice)
                raise Undone

    return undo


async def create_with_two_parents(storage: Storage, rows: Rows, dice: random.Random) -> None:
    one, other = some(rows["sessions"], dice, 2)
    with suppress(NotFound):
        await storage.sessions.create(NewSession(agent="c", parent_session_id=one, forked_from_session_id=other))


async def adopt(storage: Storage, rows: Rows, dice: random.Random) -> None:
    one, other, child = some(rows["sessions"], dice, 3)
    with suppress(NotFound, Conflict):
        await storage.sessions.update(max(one, other, child), parent_session_id=one, forked_from_session_id=other)


async def transfer_as_row(storage: Storage, rows: Rows, dice: random.Random) -> None:
    one, other = some(rows["budget_pools"], dice, 2)
    with suppress(NotFound, Conflict):
        await storage.budget_entries.create(
            NewBudgetEntry(pool_id=one, to_pool_id=other, kind="transfer", amount=Decimal(1))
        )


async def delete_pools(storage: Storage, rows: Rows, dice: random.Random) -> None:
    with suppress(StillReferenced):
        await storage.budget_pools.delete_many(some(rows["budget_pools"], dice, 3))


async def fork(storage: Storage, rows: Rows, dice: random.Random) -> None:
    with suppress(NotFound):
        await storage.conversations.fork(rows["conversations"][0])


async def result(storage: Storage, rows: Rows, dice: random.Random) -> None:
    with suppress(NotFound):
        await storage.tool_results.create(
            NewToolResult(
                conversation_id=rows["conversations"][0], message_id=dice.choice(rows["messages"]),
                tool_config_id=dice.choice(rows["tool_configs"]), tool_name="t", tool_call_id="c",
            )
        )  # fmt: skip


async def conversation(storage: Storage, rows: Rows, dice: random.Random) -> None:
    with suppress(NotFound):
        await storage.conversations.create(
            NewConversation(project_id=dice.choice(rows["projects"]), model_id=dice.choice(rows["models"]))
        )


def decide(change: Any) -> Call:
    """A change of one request or of several, which another caller may have decided or deleted."""

    async def call(storage: Storage, rows: Rows, dice: random.Random) -> None:
        with suppress(Conflict, NotFound):
            await change(storage.approval_requests, some(rows["approval_requests"], dice, 12))

    return call


DECISIONS = [
    decide(lambda requests, ids: requests.approve(ids[0], "ada")),
    decide(lambda requests, ids: requests.expire(ids[0])),
    decide(lambda requests, ids: requests.expire_overdue()),
    decide(lambda requests, ids: requests.update(ids[0], status="rejected", resolved_by="bob")),
    decide(lambda requests, ids: requests.update_many(ids, {"status": "approved", "resolved_by": "eve"})),
    decide(lambda requests, ids: requests.update_where({"id__in": ids}, {"status": "expired"})),
    decide(lambda requests, ids: requests.delete(ids[0])),
    decide(lambda requests, ids: requests.delete_many(ids)),
    decide(lambda requests, ids: requests.delete_where({"id__in": ids})),
]


async def ask(storage: Storage, rows: Rows, dice: random.Random) -> None:
    run = dice.choice(rows["workflow_sessions"])
    with suppress(NotFound, Conflict):
        await storage.approval_requests.ask(NewApprovalRequest(session_id=run, node_id="n", type="human_review"))


async def work(storage: Storage, rows: Rows, dice: random.Random) -> None:
    """A run's calls, and what they cost."""
    run, pool = dice.choice(rows["workflow_sessions"]), dice.choice(rows["budget_pools"])
    with suppress(NotFound, Conflict):
        await storage.llm_executions.create_many([NewLlmExecution(session_id=run, node_id="n", success=True)] * 3)
        await storage.budget_pools.spend(pool, Decimal(1), session_id=run)
        held = await storage.budget_pools.reserve(pool, Decimal(2), session_id=run)
        await storage.budget_pools.settle(held.id, Decimal(1))


async def pause(storage: Storage, rows: Rows, dice: random.Random) -> None:
    run = dice.choice(rows["workflow_sessions"])
    with suppress(InvalidTransition, NotFound):
        await storage.workflow_sessions.pause(run)
        await storage.workflow_sessions.resume(run)


async def move_tasks(storage: Storage, rows: Rows, dice: random.Random) -> None:
    with suppress(NotFound):
        await storage.ticket_tasks.update_many(
            some(rows["ticket_tasks"], dice), {"ticket_id": dice.choice(rows["tickets"][:6])}
        )


async def move_task(storage: Storage, rows: Rows, dice: random.Random) -> None:
    with suppress(NotFound):
        await storage.ticket_tasks.update(dice.choice(rows["ticket_tasks"]), ticket_id=dice.choice(rows["tickets"][:6]))


async def reorder(storage: Storage, rows: Rows, dice: random.Random) -> None:
    ticket = dice.choice(rows["tickets"][:6])
    ids = [row.id for row in await storage.ticket_tasks.by_ticket(ticket)]
    with suppress(Conflict, NotFound, ValueError):
        await storage.ticket_tasks.reorder(ticket, some(ids, dice, len(ids)))


async def add_tasks(storage: Storage, rows: Rows, dice: random.Random) -> None:
    tickets = some(rows["tickets"][:6], dice, 5)
    with suppress(NotFound):
        await storage.ticket_tasks.create_many([NewTicketTask(ticket_id=one, content="c") for one in tickets])


async def synchronise(storage: Storage, rows: Rows, dice: random.Random) -> None:
    files = [file(rows, n) for n in FEW]
    await storage.project_files.sync(rows["projects"][0], dice.sample(files, 25))


def file(rows: Rows, n: int) -> NewProjectFile:
    return NewProjectFile(project_id=rows["projects"][0], path=f"f{n}", checksum="0")


#: Pauses between the rows of an INSERT and between the checks of its foreign keys, so that callers overlap.
PAUSES = """
CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF random() < 0.05 THEN
        PERFORM pg_sleep(0.001);
    END IF;
    RETURN NEW;
END
$$;
DO $$
DECLARE
    made record;
BEGIN
    FOR made IN SELECT oid::regclass AS of FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
    LOOP
        EXECUTE format('CREATE TRIGGER pause BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION pause()', made.of);
    END LOOP;
    FOR made IN
        SELECT tgrelid::regclass AS of, tgname FROM pg_trigger
         WHERE tgname LIKE 'RI_ConstraintTrigger_c_%' AND tgtype & 4 <> 0
    LOOP
        EXECUTE format('CREATE TRIGGER %I AFTER INSERT ON %s FOR EACH ROW EXECUTE FUNCTION pause()',
                       made.tgname || '_pause', made.of);
    END LOOP;
END
$$
"""

UNDONE = {table: undone(delete(table, 9)) for table in ("sessions", "models", "workflow_sessions", "tickets")}
projects = keyed("projects", lambda rows, n: NewProject(name="q", path=f"new {n}"))
TOGETHER: dict[str, tuple[Call, ...]] = {
    "sessions.create with two parents, deletes of both": (create_with_two_parents, adopt, UNDONE["sessions"]),
    "a transfer as a row of the ledger, deletes of its pools": (transfer_as_row, transfer_as_row, delete_pools),
    "create_many of the same keys": (
        projects,
        keyed("projects", lambda rows, n: NewProject(name="q", path=f"new {n}"), ids=True),
    ),
    "create_many of the same keys in chunks": (
        keyed("projects", lambda rows, n: NewProject(name="q", path=f"new {n}"), copies=40),
    ),
    "create_many of the same keys with secrets": (
        keyed("providers", lambda rows, n: NewProvider(name=f"new {n}", kind="k", api_key="secret")),
    ),
    "create_many of the same keys of one parent": (
        keyed("models", lambda rows, n: NewModel(provider_id=rows["providers"][0], name=f"new {n}")),
    ),
    "create_many of the same reservations and entries": (
        keyed("budget_reservations", lambda rows, n: NewBudgetReservation(
            pool_id=rows["budget_pools"][n], amount=Decimal(1), key=f"new {n}")),
        keyed("budget_entries", lambda rows, n: NewBudgetEntry(
            pool_id=rows["budget_pools"][n], amount=Decimal(1), kind="spend", key=f"new {n}")),
    ),
    "project_files.sync beside create_many of the same paths": (synchronise, keyed("project_files", file)),
    "conversations.fork, deletes of models": (fork, fork, UNDONE["models"]),
    "conversations.create with project and model, deletes of these": (
        conversation,
        delete("projects", 2),
        delete("models", 2),
        delete_one("providers"),
        delete("conversations", 2),
    ),
    "tool_results.create, deletes of message, conversation and tool": (
        result,
        delete("messages", 2),
        delete("tool_configs", 2),
        delete("conversations", 1),
    ),
    "decisions, however they are made": (*DECISIONS, *map(undone, DECISIONS), ask),
    "decisions and deletes of runs": (*map(undone, DECISIONS), ask, UNDONE["workflow_sessions"], work, pause),
    "tasks that change their ticket, reorders": (move_tasks, move_task, reorder, add_tasks),
    "tasks that change their ticket, deletes of tickets": (move_tasks, reorder, add_tasks, UNDONE["tickets"]),
}  # fmt: skip


@pytest.mark.parametrize("name", TOGETHER)
async def test_120_concurrent_callers_do_not_deadlock(crowd: Storage, migrated: str, rows: Rows, name: str) -> None:
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(PAUSES)
    calls = TOGETHER[name]
    callers = [calls[n % len(calls)](crowd, rows, random.Random(n)) for n in range(CALLERS)]
    await all_go_through(migrated, callers, rarely=2 if name.startswith("sessions.create with two parents") else 0)
