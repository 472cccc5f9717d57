"""Runs that wait for approvals, go on with the decision, pause, resume, and retry a node."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from agent_storage import (
    AlreadyExists,
    InvalidTransition,
    InvalidValue,
    MissingReference,
    NotFound,
    Retryable,
    StorageError,
    WaitTimeout,
)
from agent_storage.types import NewApprovalRequest, NewExecutionState, NewNodeExecutionState, NewWorkflow

KINDS = [
    ("human_review", "waiting_for_human_review", "waiting_for_review"),
    ("budget_increase", "waiting_for_budget_approval", "waiting_for_approval"),
    ("workflow_call", "waiting_for_workflow_approval", "waiting_for_approval"),
]


async def start(face: Any, *nodes: str, status: Any = "running") -> Any:
    workflow = await face.workflows.create(NewWorkflow(name="w", definition={}))
    run = await face.workflow_sessions.create_from(workflow.id)
    states = [NewNodeExecutionState(session_id=run.id, node_id=node, status=status) for node in nodes]
    await face.execution_states.save(NewExecutionState(session_id=run.id), states)
    return run


def question(run: Any, node: str = "a", type: Any = "human_review", **fields: Any) -> NewApprovalRequest:
    return NewApprovalRequest(session_id=run.id, node_id=node, type=type, **fields)


async def statuses(face: Any, run: Any) -> tuple[str, str, dict[str, str]]:
    state = await face.execution_states.get_by(session_id=run.id)
    session = await face.workflow_sessions.require(run.id)
    return session.status, state.status, {node.node_id: node.status for node in state.nodes}


@pytest.mark.parametrize(("type", "run_status", "node_status"), KINDS)
async def test_ask_sets_run_state_and_node_waiting_and_the_decision_lets_them_go_on(
    face: Any, type: Any, run_status: str, node_status: str
) -> None:
    for decide in ("approve", "reject", "expire", "update", "expire_overdue", "delete"):
        run = await start(face, "a", "b")
        soon = datetime.now(UTC) + timedelta(seconds=0.05 if decide == "expire_overdue" else 3600)
        asked = await face.approval_requests.ask(question(run, type=type, context={"n": 1}, expires_at=soon))
        assert (asked.status, asked.context) == ("pending", {"n": 1})
        assert await statuses(face, run) == (run_status, run_status, {"a": node_status, "b": "running"})
        node = await face.node_execution_states.get_by(session_id=run.id, node_id="a")
        assert node.pending_approval_id == asked.id
        if decide == "expire_overdue":
            while not await face.approval_requests.expire_overdue():
                pass
        elif decide == "update":
            await face.approval_requests.update_many([asked.id], {"status": "approved", "resolved_by": "ada"})
        else:
            await getattr(face.approval_requests, decide)(
                asked.id, *(["ada"] if decide in ("approve", "reject") else [])
            )
        assert await statuses(face, run) == ("running", "running", {"a": "running", "b": "running"}), decide


async def test_a_node_without_a_state_is_created_waiting(face: Any) -> None:
    run = await start(face)
    asked = await face.approval_requests.ask(question(run))
    node = await face.node_execution_states.get_by(session_id=run.id, node_id="a")
    assert (node.status, node.pending_approval_id, node.started_at is not None) == (
        "waiting_for_review",
        asked.id,
        True,
    )


async def test_a_run_with_several_questions_goes_on_with_the_last_decision(face: Any) -> None:
    run = await start(face, "a", "b", "c")
    rows = face.approval_requests
    first = await rows.ask(question(run, "a", "budget_increase"))
    second = await rows.ask(question(run, "b", "human_review"))
    overdue = await rows.ask(question(run, "c", "workflow_call", expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert (await statuses(face, run))[0] == "waiting_for_budget_approval"
    await rows.approve(first.id, "ada")
    assert await statuses(face, run) == (
        "waiting_for_human_review",
        "waiting_for_human_review",
        {"a": "running", "b": "waiting_for_review", "c": "waiting_for_approval"},
    )
    await rows.reject(second.id, "ada")
    assert (await statuses(face, run))[0] == "running"  # an overdue request holds nothing
    assert [item.id for item in await rows.expire_overdue()] == [overdue.id]
    assert await statuses(face, run) == ("running", "running", {"a": "running", "b": "running", "c": "running"})


@pytest.mark.parametrize("isolation", [None, "repeatable read", "serializable"])
async def test_of_many_decisions_of_one_run_at_once_the_last_lets_it_go_on(storage: Any, isolation: Any) -> None:
    nodes = [f"n{number}" for number in range(40)]
    run = await start(storage, *nodes)
    asked = [await storage.approval_requests.ask(question(run, node)) for node in nodes]
    random.shuffle(asked)

    async def decide(request: Any) -> None:
        while True:
            try:
                async with storage.transaction(isolation) as tx:
                    await tx.approval_requests.approve(request.id, "ada")
                return
            except Retryable:
                continue

    await asyncio.gather(*map(decide, asked))
    assert await statuses(storage, run) == ("running", "running", dict.fromkeys(nodes, "running"))


async def test_deciding_asking_saving_pausing_and_deleting_at_once_never_deadlock(storage: Any) -> None:
    runs = [await start(storage, "a", "b") for _ in range(8)]
    refused: list[str] = []

    async def guarded(call: Any) -> None:
        try:
            await call
        except (InvalidTransition, NotFound):
            refused.append("by the state machine")

    def calls(run: Any, turn: int) -> list[Any]:
        rows, past = storage.approval_requests, datetime.now(UTC) - timedelta(seconds=1)
        states = [NewNodeExecutionState(session_id=run.id, node_id=node, status="running") for node in ("b", "a")]

        async def ask_and_decide(node: str) -> None:
            asked = await rows.ask(question(run, node))
            await asyncio.gather(*(guarded(verb(asked.id, "ada")) for verb in (rows.approve, rows.reject)))

        found = [
            ask_and_decide("a"),
            ask_and_decide("b"),
            rows.ask(question(run, "a", expires_at=past)),
            rows.expire_overdue(),
            rows.expire_overdue(),
            storage.execution_states.save(NewExecutionState(session_id=run.id), states),
            storage.workflow_sessions.pause(run.id),
            storage.workflow_sessions.resume(run.id),
        ]
        return [*found, storage.workflow_sessions.delete(run.id)] if turn == 3 and run in runs[::2] else found

    for turn in range(4):
        work = [guarded(call) for run in runs for call in calls(run, turn)]
        random.shuffle(work)
        await asyncio.gather(*work)
    assert refused


async def test_ask_is_refused_for_a_run_or_node_that_has_ended_and_changes_nothing(face: Any) -> None:
    run = await start(face, "done", status="completed")
    with pytest.raises(InvalidTransition, match="from completed to waiting_for_review"):
        await face.approval_requests.ask(question(run, "done"))
    assert await statuses(face, run) == ("running", "running", {"done": "completed"})
    await face.workflow_sessions.complete(run.id)
    with pytest.raises(InvalidTransition, match=f"{run.id} cannot ask: its status is completed"):
        await face.approval_requests.ask(question(run))
    with pytest.raises(MissingReference, match="session_id refers to a row that does not exist"):
        await face.approval_requests.ask(question(run).model_copy(update={"session_id": uuid4()}))
    with pytest.raises(InvalidValue, match="makes a pending request"):
        await face.approval_requests.ask(question(run, status="approved", resolved_by="eve"))
    assert await face.approval_requests.count() == 0


async def test_to_ask_again_with_an_equal_id_returns_the_request_and_holds_nothing(face: Any) -> None:
    run, rows = await start(face, "a"), face.approval_requests
    new = question(run, id=uuid4())
    asked = await rows.ask(new)
    assert await rows.ask(new) == asked
    decided = await rows.approve(asked.id, "ada")
    assert await rows.ask(new) == await rows.ask_and_wait(new, 1) == decided
    assert (await statuses(face, run))[0] == "running"
    with pytest.raises(AlreadyExists, match="another question"):
        await rows.ask(new.model_copy(update={"node_id": "b"}))


async def test_ask_from_fifty_tasks_with_one_id_makes_one_request(storage: Any) -> None:
    run = await start(storage, "a")
    new = question(run, id=uuid4())
    made = await asyncio.gather(*(storage.approval_requests.ask(new) for _ in range(50)))
    assert {item.id for item in made} == {new.id}
    assert await storage.approval_requests.count() == 1


async def test_ask_and_wait_returns_the_decision_of_another_task(storage: Any) -> None:
    run = await start(storage, *"abcdef")
    rows = storage.approval_requests
    waiting = [asyncio.create_task(rows.ask_and_wait(question(run, node), 30)) for node in "abcdef"]
    decided: set[Any] = set()
    while len(decided) < 6:
        for item in await rows.pending({"session_id": run.id}):
            await rows.approve(item.id, "ada")
            decided.add(item.id)
    assert {item.id for item in await asyncio.gather(*waiting)} == decided
    assert (await statuses(storage, run))[0] == "running"


async def test_ask_and_wait_that_times_out_stays_asked(face: Any) -> None:
    run, rows = await start(face, "a"), face.approval_requests
    with pytest.raises(WaitTimeout) as caught:
        await rows.ask_and_wait(question(run), 0.05)
    (asked,) = await rows.pending()
    assert str(asked.id) in str(caught.value)
    assert (await statuses(face, run))[0] == "waiting_for_human_review"


async def test_ask_and_wait_in_a_transaction_is_refused_before_it_asks(storage: Any) -> None:
    run = await start(storage, "a")
    async with storage.transaction() as tx:
        with pytest.raises(StorageError, match="needs the storage itself"):
            await tx.approval_requests.ask_and_wait(question(run))
    assert await storage.approval_requests.count() == 0
    async with storage.transaction() as tx:
        assert (await tx.approval_requests.ask(question(run))).status == "pending"


async def test_a_paused_run_stays_paused_and_resumes_to_what_it_waits_for(face: Any) -> None:
    run, runs = await start(face, "a"), face.workflow_sessions
    asked = await face.approval_requests.ask(question(run, type="budget_increase"))
    with pytest.raises(InvalidTransition, match="cannot resume: its status is waiting_for_budget_approval"):
        await runs.resume(run.id)
    assert (await runs.pause(run.id)).status == "paused"
    assert (await runs.resume(run.id)).status == "waiting_for_budget_approval"
    await runs.pause(run.id)
    await face.approval_requests.approve(asked.id, "ada")
    assert await statuses(face, run) == ("paused", "paused", {"a": "running"})
    assert (await runs.resume(run.id)).status == "running"
    await runs.pause(run.id, "waiting_for_human_review")
    assert (await runs.resume(run.id)).status == "running"  # it waited for no request
    with pytest.raises(InvalidTransition, match="cannot resume: its status is running"):
        await runs.resume(run.id)
    await runs.pause(run.id)
    await face.approval_requests.ask(question(run))
    assert await statuses(face, run) == ("paused", "paused", {"a": "waiting_for_review"})
    with pytest.raises(InvalidValue):
        await runs.pause(run.id, "running")


async def test_a_run_that_is_resumed_while_its_last_request_is_decided_runs(storage: Any) -> None:
    for _ in range(40):
        run = await start(storage, "a")
        asked = await storage.approval_requests.ask(question(run))
        await storage.workflow_sessions.pause(run.id)
        await asyncio.gather(
            storage.workflow_sessions.resume(run.id), storage.approval_requests.approve(asked.id, "ada")
        )
        assert await statuses(storage, run) == ("running", "running", {"a": "running"})


async def test_the_execution_state_follows_the_run_until_it_has_ended_itself(face: Any) -> None:
    run, runs = await start(face), face.workflow_sessions
    await runs.pause(run.id)
    assert (await face.execution_states.get_by(session_id=run.id)).status == "paused"
    await runs.fail(run.id)
    state = await face.execution_states.get_by(session_id=run.id)
    assert state.status == "failed" and state.completed_at is not None
    cancelled = await start(face)
    await face.execution_states.save(NewExecutionState(session_id=cancelled.id, status="cancelled"))
    await runs.complete(cancelled.id)
    assert (await face.execution_states.get_by(session_id=cancelled.id)).status == "cancelled"
    with pytest.raises(InvalidTransition, match="cancelled is final"):
        await face.execution_states.save(NewExecutionState(session_id=cancelled.id))


async def test_retry_sets_a_failed_node_pending_and_its_failed_run_running(face: Any) -> None:
    run, nodes = await start(face, "a", "b"), face.node_execution_states
    await nodes.set(run.id, "a", status="failed", error="e", output=1, completed_at=datetime.now(UTC), input={"q": 1})
    await face.workflow_sessions.fail(run.id)
    node = await nodes.retry(run.id, "a")
    assert (node.status, node.retry_count, node.error, node.output, node.input) == ("pending", 1, None, None, {"q": 1})
    assert node.started_at is node.completed_at is None
    assert await statuses(face, run) == ("running", "running", {"a": "pending", "b": "running"})
    assert (await face.execution_states.get_by(session_id=run.id)).completed_at is None
    with pytest.raises(InvalidTransition, match=f"{node.id} cannot retry: its status is pending"):
        await nodes.retry(run.id, "a")
    with pytest.raises(NotFound, match="no node 'c'"):
        await nodes.retry(run.id, "c")
    await nodes.set(run.id, "a", status="failed")
    await face.workflow_sessions.pause(run.id)
    assert (await nodes.retry(run.id, "a")).retry_count == 2
    assert (await statuses(face, run))[0] == "paused"
    await nodes.set(run.id, "a", status="failed")
    await face.workflow_sessions.resume(run.id)
    await face.workflow_sessions.complete(run.id)
    with pytest.raises(InvalidTransition, match="cannot retry: its run is completed"):
        await nodes.retry(run.id, "a")


async def test_of_fifty_retries_at_once_one_counts(storage: Any) -> None:
    run = await start(storage, "a", status="failed")
    await storage.workflow_sessions.fail(run.id)
    results = await asyncio.gather(
        *(storage.node_execution_states.retry(run.id, "a") for _ in range(50)), return_exceptions=True
    )
    assert sum(isinstance(result, InvalidTransition) for result in results) == 49
    node = await storage.node_execution_states.get_by(session_id=run.id, node_id="a")
    assert (node.status, node.retry_count) == ("pending", 1)


def test_the_migration_repairs_what_older_releases_allowed(database: str) -> None:
    from agent_storage.migrations.migrator import Migrator

    migrator = Migrator(database)
    migrator.up(to="20261121235000_immutable_columns")
    with psycopg.connect(database, autocommit=True) as raw:
        raw.execute("INSERT INTO workflow_sessions (id, workflow_snapshot) VALUES (gen_random_uuid(), '{}')")
        raw.execute("""
            INSERT INTO approval_requests (session_id, node_id, type, status, resolved_by)
            SELECT id, old, 'human_review', old, 'ada'
              FROM workflow_sessions, unnest('{pending,approved,rejected,expired}'::text[]) AS of (old)
        """)
        migrator.up()
        rows = raw.execute("SELECT status, resolved_by, resolved_at IS NULL FROM approval_requests ORDER BY node_id")
        assert rows.fetchall() == [
            ("approved", "ada", False),
            ("expired", "ada", False),
            ("pending", None, True),
            ("rejected", "ada", False),
        ]
