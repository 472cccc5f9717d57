"""Workflow runs: snapshots, execution states, model and tool calls."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from agent_storage import Conflict, InvalidValue, MissingReference, NotFound
from agent_storage.types import (
    NewBudgetPool,
    NewExecutionState,
    NewLlmExecution,
    NewNodeExecutionState,
    NewToolCallLog,
    NewWorkflow,
    NewWorkflowSession,
)

DEFINITION = {"nodes": [{"id": "plan"}, {"id": "write"}], "edges": [["plan", "write"]]}


async def run(face: Any) -> Any:
    workflow = await face.workflows.create(NewWorkflow(name="Article", version="2", definition=DEFINITION))
    return await face.workflow_sessions.create_from(workflow.id, {"by": "ada"})


async def test_a_run_keeps_the_definition_that_it_started_with(face: Any) -> None:
    session = await run(face)
    assert (session.workflow_snapshot, session.status, session.metadata) == (DEFINITION, "running", {"by": "ada"})
    await face.workflows.update(session.workflow_id, definition={"nodes": []})
    assert await face.workflow_sessions.require(session.id) == session
    for change in ({"workflow_snapshot": {}}, {"workflow_snapshot": None}):
        with pytest.raises((Conflict, InvalidValue), match="workflow_snapshot"):
            await face.workflow_sessions.update(session.id, **change)
    paused = await face.workflow_sessions.update(session.id, status="paused", workflow_snapshot=DEFINITION)
    await face.workflows.delete(session.workflow_id)
    orphan = await face.workflow_sessions.require(session.id)
    assert (orphan.workflow_id, orphan.workflow_snapshot, orphan.status) == (None, DEFINITION, paused.status)
    with pytest.raises(NotFound, match="workflows has no row"):
        await face.workflow_sessions.create_from(uuid4())


async def test_versions_and_runs_of_a_workflow_are_listed_newest_first(face: Any) -> None:
    one = await face.workflows.create(NewWorkflow(name="w", version="1", definition={}))
    two = await face.workflows.create(NewWorkflow(name="w", version="2", definition={}))
    same = await face.workflows.create(NewWorkflow(name="w", version="2", definition={}))
    assert await face.workflows.by_name("w") == [same, two, one]
    runs = [await face.workflow_sessions.create_from(one.id) for _ in range(3)]
    assert await face.workflow_sessions.by_workflow(one.id) == runs[::-1]
    assert await face.workflow_sessions.by_status("running", limit=1) == [runs[2]]
    mine = uuid4()
    assert (await face.workflow_sessions.create_from(one.id, id=mine)).id == mine
    imported = await face.workflow_sessions.create(NewWorkflowSession(workflow_snapshot=[1], status="completed"))
    assert imported.workflow_snapshot == [1]


async def test_a_state_with_500_nodes_is_saved_and_read_back_equal(face: Any) -> None:
    session = await run(face)
    pool = await face.budget_pools.create(NewBudgetPool(total_budget=Decimal(5)))
    now = datetime.now(UTC)
    inputs = [None, False, 0, "", "\x00"]
    nodes = [
        NewNodeExecutionState(
            session_id=session.id,
            node_id=f"node {n:03}",
            status="completed",
            input=inputs[n % 5],
            output={"n": n},
            started_at=now,
            retry_count=n % 3,
            metadata={"deep": [{"\x00": n}]},
        )
        for n in range(500)
    ]
    state = NewExecutionState(
        session_id=session.id, budget_pool_id=pool.id, current_node_id="node 003", started_at=now, context={"x": 0.1}
    )
    saved = await face.execution_states.save(state, nodes)
    assert [node.node_id for node in saved.nodes] == [node.node_id for node in nodes]
    for stored, given in zip(saved.nodes, nodes, strict=True):
        assert (stored.input, stored.output, stored.started_at) == (given.input, given.output, given.started_at)
        assert (stored.metadata, stored.retry_count) == (given.metadata, given.retry_count)
    assert await face.execution_states.get_by(session_id=session.id) == saved
    assert (await face.execution_states.require(saved.id)).session_id == session.id
    assert await face.execution_states.get_by(session_id=uuid4()) is None


async def test_saving_again_changes_what_is_named_and_leaves_other_nodes(face: Any) -> None:
    session = await run(face)
    node = {"session_id": session.id}
    nodes = [NewNodeExecutionState(node_id=name, **node) for name in ("a", "b")]
    first = await face.execution_states.save(NewExecutionState(session_id=session.id), nodes)
    again = await face.execution_states.save(
        NewExecutionState(session_id=session.id, status="completed"),
        [
            NewNodeExecutionState(node_id="b", status="failed", error="e", **node),
            NewNodeExecutionState(node_id="c", **node),
        ],
    )
    assert (again.id, again.status, again.created_at) == (first.id, "completed", first.created_at)
    assert [(item.node_id, item.status) for item in again.nodes] == [
        ("a", "pending"),
        ("b", "failed"),
        ("c", "pending"),
    ]
    assert again.nodes[0] == first.nodes[0]
    assert await face.execution_states.get_by(session_id=session.id) == again


async def test_a_save_that_cannot_be_whole_is_refused_whole(face: Any) -> None:
    session, other = await run(face), await run(face)
    state = NewExecutionState(session_id=session.id)
    twice = [NewNodeExecutionState(session_id=session.id, node_id="a")] * 2
    foreign = [NewNodeExecutionState(session_id=other.id, node_id="a")]
    for wrong in (twice, foreign):
        with pytest.raises(InvalidValue, match="each node of session"):
            await face.execution_states.save(state, wrong)
    with pytest.raises(MissingReference):
        await face.execution_states.save(NewExecutionState(session_id=uuid4()))
    assert await face.execution_states.count() == await face.node_execution_states.count() == 0


async def test_set_makes_a_node_or_changes_what_is_named_and_no_more(face: Any) -> None:
    session = await run(face)
    await face.node_execution_states.set(session.id, "plan", status="running", input={"q": 1}, retry_count=2)
    changed = await face.node_execution_states.set(session.id, "plan", status="completed", output="")
    assert (changed.status, changed.input, changed.output, changed.retry_count) == ("completed", {"q": 1}, "", 2)
    cleared = await face.node_execution_states.set(session.id, "plan", input=None)
    assert (cleared.input, cleared.status) == (None, "completed")
    assert await face.node_execution_states.by_session(session.id) == [cleared]
    with pytest.raises(InvalidValue, match="bogus"):
        await face.node_execution_states.set(session.id, "plan", bogus=1)
    with pytest.raises(MissingReference):
        await face.node_execution_states.set(uuid4(), "plan")


async def test_set_from_50_tasks_at_once_makes_one_row_and_loses_no_field(storage: Any) -> None:
    session = await run(storage)
    fields = [{"input": 1}, {"output": 2}, {"error": "e"}, {"retry_count": 3}, {"metadata": {"m": 1}}]
    await asyncio.gather(*(storage.node_execution_states.set(session.id, "n", **fields[n % 5]) for n in range(50)))
    (node,) = await storage.node_execution_states.by_session(session.id)
    assert (node.input, node.output, node.error, node.retry_count, node.metadata) == (1, 2, "e", 3, {"m": 1})


async def test_model_and_tool_calls_of_a_run_come_newest_first_with_their_usage(face: Any) -> None:
    session, other = await run(face), await run(face)

    async def call(node: str, **fields: Any) -> Any:
        return await face.llm_executions.create(NewLlmExecution(session_id=session.id, node_id=node, **fields))

    first = await call("plan", input_tokens=10, output_tokens=5, cost=Decimal("0.00000015"), metadata={"model": "m"})
    second = await call("write", input_tokens=1, cost=Decimal("0.1"), success=False, error="time-out")
    await face.llm_executions.create(NewLlmExecution(session_id=other.id, node_id="plan"))
    assert await face.llm_executions.by_session(session.id) == [second, first]
    assert await face.llm_executions.by_node(session.id, "write") == [second]
    usage = await face.llm_executions.usage(session.id)
    assert (usage.calls, usage.failures, usage.input_tokens, usage.output_tokens) == (2, 1, 11, 5)
    assert usage.cost == Decimal("0.10000015")
    logs = [
        await face.tool_call_logs.create(
            NewToolCallLog(
                execution_id=call.id, tool_call_id="c", tool_name="search", arguments={"q": "x"}, result=result
            )
        )
        for call, result in ((second, 0), (first, False))
    ]
    assert await face.tool_call_logs.by_session(session.id) == logs[::-1]
    assert await face.tool_call_logs.by_execution(first.id) == [logs[1]]
    assert [item.result for item in logs] == [0, False]
    await face.workflow_sessions.delete(session.id)
    assert await face.tool_call_logs.count() == 0
