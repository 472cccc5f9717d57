"""Life cycles: no public method moves a row to a status that its guard refuses."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID, uuid4

import psycopg
import pytest

from agent_storage import InvalidTransition, StorageError, sync
from agent_storage.statements.records import Input, Money, bare, columns
from agent_storage.tables import REPOSITORIES
from agent_storage.types import (
    NewApprovalRequest,
    NewBudgetPool,
    NewConversation,
    NewExecutionState,
    NewNodeExecutionState,
    NewProject,
    NewSession,
    NewTask,
    NewTicket,
    NewToolResult,
    NewWorkflow,
    NewWorkflowSession,
)

WAITING = ("paused", "waiting_for_human_review", "waiting_for_budget_approval", "waiting_for_workflow_approval")

#: The statuses that a method may lead to, by table, method and present status. All else leaves the row as it is.
ALLOWED: dict[str, dict[str, dict[str, set[str]]]] = {
    "sessions": {
        "start": {"idle": {"running"}},
        "complete": {"running": {"completed"}},
        "fail": {"idle": {"failed"}, "running": {"failed"}},
    },
    "tasks": {
        "start": {"created": {"running"}},
        "complete": {"running": {"completed"}},
        "fail": {"created": {"failed"}, "running": {"failed"}},
    },
    "tool_results": {
        "start": {"pending": {"running"}},
        "complete": {"pending": {"success"}, "running": {"success"}},
        "fail": {key: {"error", "timeout", "cancelled"} for key in ("pending", "running")},
    },
    "workflow_sessions": {
        "pause": {"running": set(WAITING), **{key: {"paused"} for key in WAITING[1:]}},
        "resume": {key: {"running"} for key in WAITING},
        "complete": {"running": {"completed"}},
        "fail": {key: {"failed"} for key in ("running", *WAITING)},
    },
    "approval_requests": {
        "approve": {"pending": {"approved"}},
        "reject": {"pending": {"rejected"}},
        "expire": {"pending": {"expired"}},
    },
    "budget_pools": {
        "suspend": {"active": {"suspended"}, "exhausted": {"suspended"}},
        "resume": {"suspended": {"active"}},
        "spend": {"active": {"active"}},
        "refund": {"active": {"active"}, "exhausted": {"active"}, "suspended": {"suspended"}},
        "increase": {"active": {"active"}, "exhausted": {"active"}, "suspended": {"suspended"}},
        "decrease": {"active": {"active"}, "suspended": {"suspended"}},
        "reserve": {"active": {"active"}},
    },
}
RUN_MOVES = {
    "running": {*WAITING, "completed", "failed"},
    "paused": {"running", *WAITING[1:], "failed"},
    **{key: {"running", "failed", *WAITING} - {key} for key in WAITING[1:]},
    "failed": {"running"},
}
STATE_MOVES = {
    "pending": {"running", *WAITING, "completed", "failed", "cancelled"},
    **{key: {"running", *WAITING, "completed", "failed", "cancelled"} - {key} for key in ("running", *WAITING)},
    "failed": {"running", "cancelled"},
}
NODE_WAITS = {"waiting_for_approval", "waiting_for_review"}
NODE_MOVES = {
    "pending": {"running", "completed", "failed", "skipped", *NODE_WAITS},
    **{key: {"running", "completed", "failed", "skipped", *NODE_WAITS} - {key} for key in ("running", *NODE_WAITS)},
    "failed": {"pending", "running", "skipped"},
}
#: The statuses that may follow a status, by table, whatever statement makes the change.
MOVES: dict[str, dict[str, set[str]]] = {
    "sessions": {"idle": {"running", "failed"}, "running": {"completed", "failed"}},
    "tasks": {"created": {"running", "failed"}, "running": {"completed", "failed"}},
    "tool_results": {
        "pending": {"running", "success", "error", "timeout", "cancelled"},
        "running": {"success", "error", "timeout", "cancelled"},
    },
    "workflow_sessions": RUN_MOVES,
    "execution_states": STATE_MOVES,
    "node_execution_states": NODE_MOVES,
    "approval_requests": {"pending": {"approved", "rejected", "expired"}},
}
#: Methods that write whatever field they are told, which MOVES limits, and methods that delete.
UNGUARDED = {"update", "update_many"}
DELETING = {"delete", "delete_many", "delete_where"}
#: The fields that a transition writes.
GUARDED = ("status", "started_at", "completed_at", "result", "error", "resolved_at", "resolved_by", "used_budget")


def makers(storage: sync.Storage) -> dict[str, Callable[[str], Any]]:
    """Functions that create a row in a status, by table."""
    chat = storage.conversations.create(NewConversation())
    session = storage.sessions.create(NewSession(agent="a"))
    workflow = storage.workflows.create(NewWorkflow(name="w", definition={}))
    run = storage.workflow_sessions.create_from(workflow.id)
    call: dict[str, Any] = {"conversation_id": chat.id, "tool_call_id": "c", "tool_name": "t"}
    asked: dict[str, Any] = {"session_id": run.id, "node_id": "n", "type": "human_review"}
    decided: dict[str, Any] = {"resolved_at": datetime.now(UTC), "resolved_by": "ada"}

    def pool(status: str) -> Any:
        made = storage.budget_pools.create(NewBudgetPool(total_budget=10))
        storage.budget_pools.spend(made.id, 10 if status == "exhausted" else 5)
        return storage.budget_pools.update(made.id, status=status)

    return {
        "sessions": lambda status: storage.sessions.create(NewSession(agent="a", status=status)),
        "tasks": lambda status: storage.tasks.create(NewTask(session_id=session.id, status=status)),
        "tool_results": lambda status: storage.tool_results.create(NewToolResult(status=status, **call)),
        "workflow_sessions": lambda status: storage.workflow_sessions.create(
            NewWorkflowSession(workflow_id=workflow.id, workflow_snapshot={}, status=status)
        ),
        "approval_requests": lambda status: storage.approval_requests.create(
            NewApprovalRequest(status=status, **asked, **(decided if status != "pending" else {}))
        ),
        "execution_states": lambda status: storage.execution_states.create(
            NewExecutionState(session_id=storage.workflow_sessions.create_from(workflow.id).id, status=status)
        ),
        "node_execution_states": lambda status: storage.node_execution_states.create(
            NewNodeExecutionState(session_id=run.id, node_id=uuid4().hex, status=status)
        ),
        "budget_pools": pool,
    }


def guesses(name: str, annotation: Any, row: Any, statuses: tuple[str, ...]) -> list[Any]:
    """Arguments for a parameter: the row's id wherever an id may go, and every status wherever one may go."""
    if annotation == Money:
        return [1]
    kind = bare(annotation)
    if isinstance(kind, TypeVar):
        kind = kind.__bound__
    if kind is UUID or kind is Any:
        return [row.id]
    if kind is str:
        return [*statuses] if "status" in name else ["x"]
    if get_origin(kind) is Literal:
        return [*statuses, *get_args(kind)]
    if kind is float:
        return [0.001]
    if kind in (int, bool):
        return [kind(1)]
    if inspect.isclass(kind) and issubclass(kind, Input):
        return [kind(**{name: getattr(row, name) for name in columns(kind) if hasattr(row, name)})]
    if get_origin(kind) in (Union, UnionType):
        return [guess for one in get_args(kind) for guess in guesses(name, one, row, statuses)]
    if get_origin(kind) in (list, Sequence):
        inner = get_args(kind)[0]
        return [[one] for one in guesses(name, inner, row, statuses)] if inner is not str else [[*statuses]]
    return [{"id": row.id}]


def calls(method: Any, row: Any, statuses: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The arguments of a few calls of a method."""
    parameters = inspect.signature(method, eval_str=True).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    required = [p for p in named if p.default is p.empty]
    optional = [p for p in named if p.default is not p.empty and get_origin(bare(p.annotation)) is Literal]
    if any(p.name == "timeout" for p in named):
        required = [p for p in named if p.default is p.empty or p.name == "timeout"]
    for some in (required, required + optional):
        for values in itertools.product(*(guesses(p.name, p.annotation, row, statuses) for p in some)):
            yield dict(zip([p.name for p in some], values, strict=True))


def state(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in GUARDED if hasattr(row, name)}


def call(method: Any, arguments: dict[str, Any]) -> Exception | None:
    parameters = inspect.signature(method).parameters.values()
    positional = [arguments.pop(p.name) for p in parameters if p.kind is p.POSITIONAL_ONLY]
    try:
        method(*positional, **arguments)
    except (StorageError, TypeError) as error:
        return error
    return None


@pytest.mark.parametrize("table", ALLOWED)
def test_no_public_method_gets_around_the_guard_of_a_transition(sync_storage: sync.Storage, table: str) -> None:
    repository: Any = getattr(sync_storage, table)
    make = makers(sync_storage)[table]
    statuses: tuple[str, ...] = get_args(bare(columns(repository.new)["status"].annotation))
    names = [name for name in dir(repository) if not name.startswith("_") and callable(getattr(repository, name))]
    reads = {name for name, statement in repository.statements().items() if statement.repeatable}
    names = [name for name in names if name not in UNGUARDED | DELETING | reads | {"record", "new"}]
    assert ALLOWED[table].keys() <= set(names)
    for name, status in itertools.product(names, statuses):
        method, allowed = getattr(repository, name), ALLOWED[table].get(name, {}).get(status)
        for arguments in list(calls(method, make(status), statuses)):
            row = make(status)
            given = next(iter(calls(method, row, statuses))) | {
                key: value for key, value in arguments.items() if isinstance(value, str | int | float)
            }
            error = call(method, given)
            after = repository.require(row.id)
            if allowed is None:
                assert state(after) == state(row), (name, status, arguments)
                assert name not in ALLOWED[table] or error is not None, (name, status, arguments)
            else:
                assert after.status in allowed | ({status} if error else set()), (name, status, arguments)


@pytest.mark.parametrize("table", ALLOWED)
def test_repeating_a_transition_is_an_invalid_transition_that_names_the_status(
    sync_storage: sync.Storage, table: str
) -> None:
    repository: Any = getattr(sync_storage, table)
    make = makers(sync_storage)[table]
    for name, moves in ALLOWED[table].items():
        if table == "budget_pools" and name not in ("suspend", "resume"):
            continue
        row = make(next(iter(moves)))
        method = getattr(repository, name)
        more = [arg for arg in ("by", "error") if arg in inspect.signature(method).parameters]
        once = method(row.id, **dict.fromkeys(more, "x"))
        with pytest.raises(InvalidTransition, match=f"{row.id}.* {once.status}"):
            method(row.id, **dict.fromkeys(more, "x"))
        assert repository.require(row.id) == once


@pytest.mark.parametrize("table", MOVES)
def test_update_update_many_and_raw_sql_move_a_status_where_it_may_go_and_nowhere_else(
    sync_storage: sync.Storage, migrated: str, table: str
) -> None:
    repository: Any = getattr(sync_storage, table)
    make = makers(sync_storage)[table]
    statuses: tuple[str, ...] = get_args(bare(columns(repository.new)["status"].annotation))
    raw = psycopg.connect(migrated, autocommit=True)

    def by_sql(id: UUID, changes: dict[str, Any]) -> None:
        names = ", ".join(f"{name} = %s" for name in changes)
        try:
            raw.execute(f"UPDATE {table} SET {names} WHERE id = %s", [*changes.values(), id])  # pyright: ignore
        except psycopg.Error as error:
            assert error.sqlstate == "AS001"
            raise InvalidTransition("refused") from error

    ways: list[Callable[[UUID, dict[str, Any]], object]] = [
        lambda row_id, changes: repository.update(row_id, **changes),
        lambda row_id, changes: repository.update_many([row_id], changes),
        by_sql,
    ]
    for old, new, way in itertools.product(statuses, statuses, ways):
        row = make(old)
        changes: dict[str, Any] = {"status": new}
        if new in ("approved", "rejected") and old != new:
            changes["resolved_by"] = "bob"
        if new == old or new in MOVES[table].get(old, ()):
            way(row.id, changes)
            assert repository.require(row.id).status == new
        else:
            with pytest.raises(InvalidTransition):
                way(row.id, changes)
            assert repository.require(row.id) == row
    raw.close()


def test_a_refused_move_names_the_row_both_statuses_and_what_may_follow(sync_storage: sync.Storage) -> None:
    task = makers(sync_storage)["tasks"]("created")
    with pytest.raises(InvalidTransition) as caught:
        sync_storage.tasks.update(task.id, status="completed")
    assert str(caught.value) == (
        f"tasks: status of row {task.id} cannot change from created to completed (constraint tasks_status_transition); "
        "after created may follow: running, failed (statement tasks.update)"
    )
    assert (caught.value.table, caught.value.column) == ("tasks", "status")
    with pytest.raises(InvalidTransition, match="; completed is final"):
        sync_storage.tasks.update(
            sync_storage.tasks.create(task.model_copy(update={"id": uuid4(), "status": "completed"})).id,
            status="failed",
        )


def test_every_declared_statement_that_writes_a_status_of_a_guarded_table_is_private() -> None:
    public = {
        f"{table}.{name}"
        for table in ALLOWED
        for name, statement in REPOSITORIES[table].statements().items()
        if not name.startswith("_") and "UPDATE" in statement.text
    }
    assert public == {"approval_requests.expire_overdue"}


async def test_archive_and_restore_are_idempotent_and_leave_lists_alike(face: Any) -> None:
    project = await face.projects.upsert(NewProject(name="p", path="p"))
    for repository, row in (
        (face.conversations, await face.conversations.create(NewConversation())),
        (face.tickets, await face.tickets.create(NewTicket(project_id=project.id, title="t"))),
    ):
        archived = await repository.archive(row.id)
        assert (await repository.archive(row.id)).archived_at == archived.archived_at
        assert await repository.find() == []
        assert await repository.count() == 0
        assert [item.id for item in await repository.find({"archived_at__is_null": False})] == [row.id]
        assert (await repository.require(row.id)).archived_at is not None
        assert (await repository.restore(row.id)).archived_at is None
        assert (await repository.restore(row.id)).archived_at is None
        assert [item.id for item in await repository.find()] == [row.id]
