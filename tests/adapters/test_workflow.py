"""The contract of a workflow engine's storage adapter. Another implementation passes it with a fixture of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from agent_storage import Conflict, InvalidValue, MissingReference, NotFound, Storage, StorageError
from agent_storage.adapters.workflow import WorkflowStorage
from agent_storage.adapters.workflow_records import (
    ApprovalRequest,
    BudgetPool,
    ExecutionState,
    LlmExecution,
    NodeState,
    Session,
    StreamEvent,
    ToolCall,
    Workflow,
)

DEFINITION = {"nodes": [{"id": "plan"}, {"id": "write"}], "text": "\x00"}


@pytest.fixture
async def adapter(migrated: str) -> AsyncIterator[Any]:
    """The adapter under test: initialized, empty."""
    made = WorkflowStorage(migrated)
    await made.initialize()
    yield made
    await made.close()


async def session(adapter: Any, id_: str = "session-1", workflow: str = "workflow-1") -> Session:
    if await adapter.get_workflow(workflow) is None:
        await adapter.save_workflow(Workflow(id=workflow, name="Article", definition=DEFINITION))
    made = await adapter.create_session(Session(id=id_, workflow_id=workflow, metadata={"by": "ada"}))
    assert isinstance(made, Session)
    return made


async def test_it_may_be_initialized_and_closed_twice(migrated: str) -> None:
    adapter = WorkflowStorage(migrated)
    for _ in range(2):
        await adapter.initialize()
    for _ in range(2):
        await adapter.close()


async def test_a_storage_that_was_given_stays_open(storage: Storage) -> None:
    adapter = WorkflowStorage(storage)
    await adapter.initialize()
    await adapter.close()
    assert await storage.workflows.count() == 0


@pytest.mark.parametrize(
    "id_", ["workflow-1", "Ø \x00 1", str(uuid4()), str(uuid4()).upper(), "00000000000000000000000000000001"]
)
async def test_any_text_is_an_id_and_is_given_back_as_it_came(adapter: Any, id_: str) -> None:
    saved = await adapter.save_workflow(Workflow(id=id_, name="w", definition=DEFINITION, metadata={"x": 1}))
    assert (saved.id, saved.metadata) == (id_, {"x": 1})
    assert await adapter.get_workflow(id_) == saved
    made = await adapter.create_session(Session(id=id_, workflow_id=id_))
    assert (made.id, made.workflow_id, made.metadata) == (id_, id_, {})
    assert await adapter.list_sessions(workflow_id=id_) == [made]


async def test_what_is_no_id_and_the_reserved_key_are_refused(adapter: Any) -> None:
    with pytest.raises(InvalidValue, match="empty"):
        await adapter.save_workflow(Workflow(id="", name="w", definition={}))
    with pytest.raises(InvalidValue, match="reserved"):
        await adapter.save_workflow(Workflow(id="w", name="w", definition={}, metadata={"_ids": 1}))


async def test_workflows_are_saved_once_updated_listed_and_deleted(adapter: Any) -> None:
    one = await adapter.save_workflow(Workflow(id="1", name="a", definition=DEFINITION))
    two = await adapter.save_workflow(Workflow(id="2", name="b", version="7", definition=[]))
    with pytest.raises(Conflict):
        await adapter.save_workflow(Workflow(id="1", name="again", definition={}))
    assert await adapter.get_workflow("1") == one
    assert await adapter.list_workflows() == [two, one]
    assert await adapter.list_workflows(name="a") == [one]
    assert await adapter.list_workflows(limit=1, offset=1) == [one]
    changed = await adapter.update_workflow(Workflow(id="1", name="c", definition=0, metadata={"y": 2}))
    assert (changed.name, changed.definition, changed.metadata, changed.id) == ("c", 0, {"y": 2}, "1")
    await adapter.delete_workflow("1")
    assert await adapter.get_workflow("1") is None
    for missing in (
        adapter.delete_workflow("1"),
        adapter.update_workflow(Workflow(id="1", name="c", definition={})),
        adapter.delete_session("none"),
        adapter.update_session("none", status="paused"),
        adapter.update_budget_pool(BudgetPool(id="none", total_budget=Decimal(1))),
        adapter.approve_request("none", "ada"),
        adapter.create_session(Session(id="s", workflow_id="none")),
    ):
        with pytest.raises(NotFound):
            await missing


async def test_a_session_keeps_its_snapshot_and_outlives_its_workflow(adapter: Any) -> None:
    made = await session(adapter)
    assert (made.workflow_snapshot, made.status, made.metadata) == (DEFINITION, "running", {"by": "ada"})
    with pytest.raises(Conflict):
        await adapter.create_session(Session(id="session-1", workflow_id="workflow-1"))
    paused = await adapter.update_session("session-1", status="paused")
    assert (paused.status, paused.metadata, paused.workflow_id) == ("paused", {"by": "ada"}, "workflow-1")
    marked = await adapter.update_session("session-1", metadata={"new": True})
    assert (marked.status, marked.metadata, marked.id) == ("paused", {"new": True}, "session-1")
    await adapter.delete_workflow("workflow-1")
    orphan = await adapter.get_session("session-1")
    assert (orphan.workflow_id, orphan.workflow_snapshot) == (None, DEFINITION)
    assert await adapter.list_sessions(status="paused") == [orphan]
    await adapter.delete_session("session-1")
    assert await adapter.get_session("session-1") is None


async def test_a_snapshot_of_its_own_is_kept(adapter: Any) -> None:
    await session(adapter)
    imported = Session(id="old", workflow_id="workflow-1", workflow_snapshot=[1], status="completed")
    assert (await adapter.create_session(imported)).workflow_snapshot == [1]
    late = await adapter.create_session(Session(id="late", workflow_id="workflow-1", status="failed"))
    assert (late.workflow_snapshot, late.status) == (DEFINITION, "failed")


async def test_an_execution_state_is_saved_with_the_nodes_it_names_and_leaves_others(adapter: Any) -> None:
    await session(adapter)
    nodes = {name: NodeState(node_id=name, input=value, output=value) for name, value in
             (("zero", 0), ("empty", ""), ("false", False), ("none", None))}  # fmt: skip
    saved = await adapter.save_execution_state(
        ExecutionState(session_id="session-1", current_node_id="zero", context={"k": "\x00"}, nodes=nodes)
    )
    for name, node in nodes.items():
        stored = saved.nodes[name]
        assert (stored.input, stored.output) == (node.input, node.output)
        assert type(stored.input) is type(node.input)
    assert (saved.session_id, saved.context, saved.budget_pool_id) == ("session-1", {"k": "\x00"}, None)
    assert await adapter.get_execution_state("session-1") == saved
    again = await adapter.save_execution_state(
        ExecutionState(session_id="session-1", status="completed",
                       nodes={"zero": NodeState(node_id="zero", status="completed", output=1)})
    )  # fmt: skip
    assert again.nodes.keys() == nodes.keys()
    assert (again.status, again.nodes["zero"].output, again.nodes["empty"]) == ("completed", 1, saved.nodes["empty"])
    assert await adapter.get_execution_state("nobody") is None
    with pytest.raises(MissingReference):
        await adapter.save_execution_state(ExecutionState(session_id="nobody"))


async def test_updating_a_node_changes_what_is_set(adapter: Any) -> None:
    await session(adapter)
    await adapter.update_node_state("session-1", NodeState(node_id="n", status="running", input={"q": 1}))
    waiting = await adapter.update_node_state(
        "session-1", NodeState(node_id="n", status="waiting_for_approval", pending_approval_id="approval-1")
    )
    assert (waiting.input, waiting.status, waiting.pending_approval_id) == (
        {"q": 1},
        "waiting_for_approval",
        "approval-1",
    )
    done = await adapter.update_node_state("session-1", NodeState(node_id="n", output=0, pending_approval_id=None))
    assert (done.output, done.pending_approval_id, done.status) == (0, None, "waiting_for_approval")
    with pytest.raises(MissingReference):
        await adapter.update_node_state("nobody", NodeState(node_id="n"))


async def test_model_and_tool_calls_come_oldest_first_also_out_of_one_transaction(adapter: Any) -> None:
    await session(adapter)
    async with adapter.begin_transaction() as inside:
        for number in range(20):
            execution = LlmExecution(
                id=f"call {number}", session_id="session-1", node_id=f"n{number % 2}", cost=Decimal("0.0000001"),
                metadata={"model": "m"},
            )  # fmt: skip
            await inside.save_llm_execution(execution)
            await inside.log_tool_call(
                ToolCall(execution_id=f"call {number}", tool_call_id=str(number), tool_name="t", result=False)
            )
    calls = await adapter.get_llm_executions("session-1")
    assert [call.id for call in calls] == [f"call {number}" for number in range(20)]
    assert (calls[0].session_id, calls[0].cost, calls[0].metadata) == (
        "session-1",
        Decimal("0.0000001"),
        {"model": "m"},
    )
    assert [call.id for call in await adapter.get_node_llm_executions("session-1", "n1")] == [
        f"call {number}" for number in range(1, 20, 2)
    ]
    (tool_call,) = await adapter.get_tool_calls("call 3")
    assert (tool_call.execution_id, tool_call.result, tool_call.tool_call_id) == ("call 3", False, "3")
    logged = await adapter.get_session_tool_calls("session-1")
    assert [(call.execution_id, call.tool_call_id) for call in logged] == [(f"call {n}", str(n)) for n in range(20)]
    with pytest.raises(Conflict):
        await adapter.save_llm_execution(LlmExecution(id="call 1", session_id="session-1", node_id="n"))
    with pytest.raises(MissingReference):
        await adapter.log_tool_call(ToolCall(execution_id="nobody", tool_call_id="c", tool_name="t"))


async def test_budgets_are_created_updated_and_listed_below_their_parent(adapter: Any) -> None:
    root = await adapter.create_budget_pool(BudgetPool(id="root", total_budget=Decimal(10), metadata={"team": "a"}))
    assert (root.id, root.remaining_budget, root.metadata) == ("root", 10, {"team": "a"})
    for name in ("one", "two"):
        await adapter.create_budget_pool(BudgetPool(id=name, parent_pool_id="root", total_budget=Decimal(5)))
    children = await adapter.get_child_budget_pools("root")
    assert [(child.id, child.parent_pool_id) for child in children] == [("one", "root"), ("two", "root")]
    updated = await adapter.update_budget_pool(root.model_copy(update={"used_budget": Decimal(4), "status": "active"}))
    assert (updated.remaining_budget, updated.used_budget) == (6, 4)
    assert await adapter.get_budget_pool("root") == updated
    with pytest.raises(Conflict):
        await adapter.create_budget_pool(root)
    with pytest.raises(InvalidValue):
        await adapter.update_budget_pool(root.model_copy(update={"used_budget": Decimal(11)}))


async def approval(adapter: Any, id_: str = "approval-1") -> Any:
    if await adapter.get_session("session-1") is None:
        await session(adapter)
    new = ApprovalRequest(id=id_, session_id="session-1", node_id="n", type="human_review", context={"q": "ok?"})
    return await adapter.create_approval_request(new)


async def test_approvals_are_created_listed_updated_and_decided_once(adapter: Any) -> None:
    first, second = await approval(adapter), await approval(adapter, "approval-2")
    assert (first.id, first.session_id, first.context, first.status) == (
        "approval-1", "session-1", {"q": "ok?"}, "pending",
    )  # fmt: skip
    assert await adapter.list_pending_approvals(session_id="session-1") == [first, second]
    approved = await adapter.approve_request("approval-1", "ada", "fine")
    assert (approved.status, approved.resolved_by, approved.id) == ("approved", "ada", "approval-1")
    with pytest.raises(Conflict, match="by ada"):
        await adapter.reject_request("approval-1", "bob")
    assert (await adapter.reject_request("approval-2", "bob", "no")).resolution_notes == "no"
    third = await approval(adapter, "approval-3")
    expired = await adapter.update_approval_request(third.model_copy(update={"status": "expired"}))
    assert (expired.status, expired.context) == ("expired", {"q": "ok?"})
    assert await adapter.list_approval_requests(status="expired") == [expired]
    assert await adapter.list_approval_requests(type="budget_increase") == []
    assert await adapter.get_approval_request("nobody") is None
    with pytest.raises(Conflict):
        await approval(adapter)


async def test_of_50_approvers_one_wins(adapter: Any) -> None:
    await approval(adapter)
    outcomes = await asyncio.gather(
        *(adapter.approve_request("approval-1", f"p{n}") for n in range(50)), return_exceptions=True
    )
    assert sum(isinstance(outcome, ApprovalRequest) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 49


async def test_stream_events_are_numbered_and_read_behind_a_sequence(adapter: Any) -> None:
    for number in range(3):
        saved = await adapter.save_stream_event(StreamEvent(stream_id="s", node_id="n", data={"n": number}))
        assert saved.sequence == number + 1
    assert [event.data for event in await adapter.get_stream_events("s", after=1)] == [{"n": 1}, {"n": 2}]
    assert await adapter.get_stream_events("nothing") == []


async def test_a_transaction_keeps_all_or_nothing(adapter: Any) -> None:
    with pytest.raises(RuntimeError):
        async with adapter.begin_transaction() as inside:
            await session(inside)
            await inside.save_execution_state(
                ExecutionState(session_id="session-1", nodes={"n": NodeState(node_id="n")})
            )
            await inside.save_stream_event(StreamEvent(stream_id="s"))
            raise RuntimeError
    assert await adapter.list_workflows() == []
    assert await adapter.get_execution_state("session-1") is None
    assert await adapter.get_stream_events("s") == []
    async with adapter.begin_transaction() as inside:
        await session(inside)
        with pytest.raises(StorageError, match="open already"):
            async with inside.begin_transaction():
                pass
    assert (await adapter.get_session("session-1")) is not None
