"""What a workflow engine may rely on, whoever implements it: give another `adapter` and all of it must pass.

The tests that also ask for `storage` look at what is beneath, and hold for this implementation alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from agent_storage import (
    Conflict,
    InvalidSettings,
    InvalidValue,
    MigrationError,
    MissingReference,
    NotFound,
    SchemaMismatch,
    Storage,
    Unavailable,
)
from agent_storage.adapters.text_ids import RESERVED, row_id
from agent_storage.adapters.workflow import (
    ApprovalRequest,
    BudgetPool,
    ExecutionState,
    LlmExecution,
    NodeState,
    Session,
    StreamEvent,
    ToolCall,
    Workflow,
    WorkflowStorage,
)
from agent_storage.types import NewWorkflow

ODD_IDS = [
    "workflow-1",
    "Ж/ü 🙂",
    "nul\x00id",
    "lone \ud800",
    " ",
    "x" * 3000,
    "0190b1c6-0b6e-7c4e-8e58-3d4f5a6b7c8d",
    "51D08C25-0BF2-4A51-A2FE-D552A3150F3E",
]
NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)


@pytest.fixture
async def adapter(storage: Storage) -> AsyncIterator[WorkflowStorage]:
    async with WorkflowStorage(storage) as opened:
        yield opened


@pytest.fixture
async def session(adapter: WorkflowStorage) -> Session:
    await adapter.save_workflow(Workflow(id="workflow-1", name="triage", definition={"nodes": ["a", "b"]}))
    return await adapter.create_session(Session(id="session-1", workflow_id="workflow-1"))


def given(item: Any) -> dict[str, Any]:
    """What a caller says of an item, without what is added to it."""
    added = {"created_at", "updated_at", "remaining_budget", "sequence"}
    return {name: getattr(item, name) for name in type(item).model_fields if name not in added}


# ---- ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ODD_IDS)
async def test_any_text_is_an_id_and_comes_back_as_it_was_given(adapter: WorkflowStorage, id: str) -> None:
    await adapter.save_workflow(Workflow(id=id, name="n", definition=1))
    await adapter.create_session(Session(id=id, workflow_id=id))
    await adapter.create_budget_pool(BudgetPool(id=id, total_budget=Decimal(5)))
    await adapter.create_budget_pool(BudgetPool(id=id + "!", parent_pool_id=id, total_budget=Decimal(2)))
    await adapter.create_approval_request(ApprovalRequest(id=id, session_id=id, node_id="n", type="human_review"))
    await adapter.save_llm_execution(LlmExecution(id=id, session_id=id, node_id="n"))
    await adapter.log_tool_call(ToolCall(id=id, execution_id=id, tool_call_id="c", tool_name="t"))
    nodes = {"n": NodeState(pending_approval_id=id)}
    await adapter.save_execution_state(ExecutionState(session_id=id, budget_pool_id=id, nodes=nodes))

    workflow, run, pool = (
        await adapter.get_workflow(id),
        await adapter.get_session(id),
        await adapter.get_budget_pool(id),
    )
    approval, state = await adapter.get_approval_request(id), await adapter.get_execution_state(id)
    assert workflow and run and pool and approval and state
    assert (workflow.id, run.id, run.workflow_id, pool.id, approval.id, approval.session_id) == (id,) * 6
    assert (state.session_id, state.budget_pool_id, state.nodes["n"].pending_approval_id) == (id,) * 3
    assert [(child.id, child.parent_pool_id) for child in await adapter.get_child_budget_pools(id)] == [(id + "!", id)]
    assert [(call.id, call.session_id) for call in await adapter.get_llm_executions(id)] == [(id, id)]
    assert [(call.id, call.execution_id) for call in await adapter.get_session_tool_calls(id)] == [(id, id)]
    for item in (workflow, run, pool, state.nodes["n"]):
        assert item.metadata == {}
    assert approval.context == state.context == {}


async def test_an_id_that_is_not_given_is_a_new_one(adapter: WorkflowStorage) -> None:
    made = await adapter.save_workflow(Workflow(name="n", definition=1))
    assert UUID(made.id).version == 7
    assert await adapter.get_workflow(made.id) == made


@pytest.mark.parametrize("id", ["", None, 5])
async def test_what_is_no_text_is_no_id(adapter: WorkflowStorage, id: Any) -> None:
    with pytest.raises(InvalidValue):
        await adapter.get_workflow(id)
    with pytest.raises(InvalidValue):
        await adapter.save_workflow(Workflow(id=id, name="n", definition=1))


async def test_a_uuid_is_the_rows_own_id_and_other_texts_never_meet(storage: Storage, adapter: WorkflowStorage) -> None:
    mine = uuid4()
    await adapter.save_workflow(Workflow(id=str(mine), name="n", definition=1))
    assert await storage.workflows.exists(mine)
    assert row_id("a") != row_id("A") and row_id("a").version == 5
    assert row_id("workflow-1") == UUID("34bef20f-807e-5cbf-9085-e840fad44485")  # stored ids depend on it


async def test_the_reserved_key_of_the_callers_own_survives(storage: Storage, adapter: WorkflowStorage) -> None:
    own = {RESERVED: {"id": "mine", "$own": [0]}, "a": 1}
    await adapter.save_workflow(Workflow(id="w", name="n", definition=1, metadata=own))
    found = await adapter.get_workflow("w")
    assert found and (found.id, found.metadata) == ("w", own)
    assert (await adapter.update_workflow("w", metadata={RESERVED: 7})).metadata == {RESERVED: 7}
    foreign = await storage.workflows.create(NewWorkflow(name="n", definition=1, metadata={RESERVED: [1]}))
    read = await adapter.get_workflow(str(foreign.id))
    assert read and (read.id, read.metadata) == (str(foreign.id), {RESERVED: [1]})


async def test_nobody_may_take_an_id_twice(adapter: WorkflowStorage, session: Session) -> None:
    pool = BudgetPool(id="p", total_budget=Decimal(1))
    request = ApprovalRequest(id="r", session_id=session.id, node_id="n", type="human_review")
    call = LlmExecution(id="l", session_id=session.id, node_id="n")
    tool = ToolCall(id="t", execution_id="l", tool_call_id="c", tool_name="t")
    for save, item in (
        (adapter.create_budget_pool, pool),
        (adapter.create_approval_request, request),
        (adapter.save_llm_execution, call),
        (adapter.log_tool_call, tool),
    ):
        await save(item)  # pyright: ignore
        with pytest.raises(Conflict):
            await save(item)  # pyright: ignore
    with pytest.raises(Conflict):
        await adapter.save_workflow(Workflow(id="workflow-1", name="other", definition=1))
    with pytest.raises(Conflict):
        await adapter.create_session(session)
    with pytest.raises(Conflict):
        await adapter.create_session(Session(id=session.id, workflow_id="workflow-1"))
    kept = await adapter.get_workflow("workflow-1")
    assert kept and kept.name == "triage"


async def test_what_is_not_there_is_none_to_read_and_not_found_to_change(adapter: WorkflowStorage) -> None:
    for get in (
        adapter.get_workflow,
        adapter.get_session,
        adapter.get_execution_state,
        adapter.get_budget_pool,
        adapter.get_approval_request,
    ):
        assert await get("nothing") is None
    for call in (
        adapter.update_workflow("nothing", name="n"),
        adapter.update_workflow("nothing", metadata={}),
        adapter.update_session("nothing", status="paused"),
        adapter.update_budget_pool("nothing", total_budget=Decimal(1)),
        adapter.update_approval_request("nothing", context={}),
        adapter.delete_workflow("nothing"),
        adapter.delete_session("nothing"),
        adapter.approve_request("nothing", "ann"),
        adapter.reject_request("nothing", "ann"),
    ):
        with pytest.raises(NotFound, match="'nothing'"):
            await call
    for read in (adapter.get_llm_executions, adapter.get_tool_calls, adapter.get_session_tool_calls):
        assert await read("nothing") == []
    assert await adapter.get_node_llm_executions("nothing", "n") == await adapter.get_stream_events("nothing") == []


async def test_what_refers_to_nothing_is_refused(adapter: WorkflowStorage) -> None:
    for call in (
        adapter.create_session(Session(workflow_id="nothing", workflow_snapshot=1)),
        adapter.save_execution_state(ExecutionState(session_id="nothing")),
        adapter.update_node_state("nothing", "n", status="running"),
        adapter.save_llm_execution(LlmExecution(session_id="nothing", node_id="n")),
        adapter.log_tool_call(ToolCall(execution_id="nothing", tool_call_id="c", tool_name="t")),
        adapter.create_budget_pool(BudgetPool(parent_pool_id="nothing", total_budget=Decimal(1))),
    ):
        with pytest.raises(MissingReference):
            await call
    with pytest.raises(NotFound, match="'nothing'"):
        await adapter.create_session(Session(workflow_id="nothing"))


# ---- workflows and runs ----------------------------------------------------------------------------------------------


async def test_a_workflow_is_saved_listed_changed_and_deleted(adapter: WorkflowStorage) -> None:
    first = Workflow(id="w1", name="a", version="2", definition={"n": [0, "", False, None]}, metadata={"k": "\x00"})
    saved = await adapter.save_workflow(first)
    assert given(saved) == given(first) and saved.created_at
    await adapter.save_workflow(Workflow(id="w2", name="b", definition=0))
    await adapter.save_workflow(Workflow(id="w3", name="a", version="2", definition=""))
    assert [item.id for item in await adapter.list_workflows()] == ["w1", "w2", "w3"]
    assert [item.id for item in await adapter.list_workflows(name="a")] == ["w1", "w3"]
    assert [item.id for item in await adapter.list_workflows(limit=1, offset=1)] == ["w2"]
    changed = await adapter.update_workflow("w1", definition=False, metadata={"new": 0})
    assert (changed.id, changed.name, changed.definition, changed.metadata) == ("w1", "a", False, {"new": 0})
    assert await adapter.get_workflow("w1") == changed
    await adapter.delete_workflow("w1")
    assert await adapter.get_workflow("w1") is None
    with pytest.raises(NotFound):
        await adapter.delete_workflow("w1")


@pytest.mark.parametrize("changes", [{}, {"bogus": 1}, {"id": "x"}, {"name": 5}, {"metadata": None}, {"metadata": [1]}])
async def test_a_wrong_change_is_refused(adapter: WorkflowStorage, changes: dict[str, Any]) -> None:
    saved = await adapter.save_workflow(Workflow(id="w", name="n", definition=1))
    with pytest.raises(InvalidValue):
        await adapter.update_workflow("w", **changes)
    assert await adapter.get_workflow("w") == saved


async def test_a_run_keeps_the_definition_that_it_started_with(adapter: WorkflowStorage, session: Session) -> None:
    assert session.workflow_snapshot == {"nodes": ["a", "b"]}
    await adapter.update_workflow("workflow-1", definition={"nodes": []})
    own = await adapter.create_session(Session(workflow_id="workflow-1", workflow_snapshot=0, status="paused"))
    assert (own.workflow_snapshot, own.status) == (0, "paused")
    paused = await adapter.create_session(Session(id="p", workflow_id="workflow-1", status="paused", metadata={"a": 0}))
    assert (paused.workflow_snapshot, paused.status, paused.metadata) == ({"nodes": []}, "paused", {"a": 0})
    await adapter.delete_workflow("workflow-1")
    left = await adapter.get_session(session.id)
    assert left and (left.workflow_id, left.workflow_snapshot) == (None, {"nodes": ["a", "b"]})


async def test_runs_are_listed_newest_first_and_filtered(adapter: WorkflowStorage, session: Session) -> None:
    await adapter.save_workflow(Workflow(id="w2", name="n", definition=1))
    await adapter.create_session(Session(id="s2", workflow_id="w2"))
    await adapter.create_session(Session(id="s3", workflow_id="w2", workflow_snapshot=1, status="failed"))
    await adapter.create_session(Session(id="s4"))
    assert [run.id for run in await adapter.list_sessions()] == ["s4", "s3", "s2", "session-1"]
    assert [run.id for run in await adapter.list_sessions(workflow_id="w2")] == ["s3", "s2"]
    assert [run.id for run in await adapter.list_sessions(status="running")] == ["s4", "s2", "session-1"]
    assert [run.id for run in await adapter.list_sessions("w2", "failed")] == ["s3"]
    assert [run.id for run in await adapter.list_sessions(limit=2, offset=1)] == ["s3", "s2"]
    with pytest.raises(InvalidValue):
        await adapter.list_sessions(status="bogus")  # pyright: ignore


async def test_update_session_writes_status_and_metadata_alone(adapter: WorkflowStorage, session: Session) -> None:
    changed = await adapter.update_session(session.id, status="completed")
    assert given(changed) == {**given(session), "status": "completed"}
    changed = await adapter.update_session(session.id, metadata={"a": {"b": False}})
    assert given(changed) == {**given(session), "status": "completed", "metadata": {"a": {"b": False}}}
    for name in ("workflow_id", "workflow_snapshot", "id", "bogus"):
        with pytest.raises(InvalidValue, match="cannot be changed"):
            await adapter.update_session(session.id, **{name: "x"})
    with pytest.raises(InvalidValue):
        await adapter.update_session(session.id, status="bogus")
    assert await adapter.get_session(session.id) == changed


async def test_deleting_a_run_deletes_what_was_stored_of_it(adapter: WorkflowStorage, session: Session) -> None:
    await adapter.save_execution_state(ExecutionState(session_id=session.id, nodes={"a": NodeState()}))
    await adapter.save_llm_execution(LlmExecution(session_id=session.id, node_id="a"))
    await adapter.delete_session(session.id)
    assert await adapter.get_session(session.id) is await adapter.get_execution_state(session.id) is None
    assert await adapter.get_llm_executions(session.id) == []


# ---- where runs stand ------------------------------------------------------------------------------------------------


async def test_saving_a_state_replaces_what_it_names_and_leaves_other_nodes(
    adapter: WorkflowStorage, session: Session
) -> None:
    nodes = {"a": NodeState(status="running", metadata={"k": 1}), "b": NodeState(error="bad\x00")}
    first = ExecutionState(session_id=session.id, current_node_id="a", started_at=NOW, context={"x": 0}, nodes=nodes)
    saved = await adapter.save_execution_state(first)
    assert (saved.context, saved.started_at, set(saved.nodes)) == ({"x": 0}, NOW, {"a", "b"})
    again = ExecutionState(session_id=session.id, status="completed", nodes={"a": NodeState(status="completed")})
    saved = await adapter.save_execution_state(again)
    assert (saved.status, saved.current_node_id, saved.context) == ("completed", None, {})
    assert (saved.nodes["a"].status, saved.nodes["a"].metadata) == ("completed", {})
    assert saved.nodes["b"].error == "bad\x00"
    assert await adapter.get_execution_state(session.id) == saved


async def test_a_state_is_saved_with_its_nodes_or_not_at_all(adapter: WorkflowStorage, session: Session) -> None:
    bad = ExecutionState(
        session_id=session.id, status="failed", nodes={"a": NodeState(), "b": NodeState(retry_count=-1)}
    )
    with pytest.raises(InvalidValue):
        await adapter.save_execution_state(bad)
    missing = ExecutionState(session_id=session.id, budget_pool_id="nothing", nodes={"a": NodeState()})
    with pytest.raises(MissingReference):
        await adapter.save_execution_state(missing)
    assert await adapter.get_execution_state(session.id) is None


@pytest.mark.parametrize("value", [0, "", False, [], {}, 0.5, "\x00", {"deep": [None, 0, ""]}, None])
async def test_falsy_inputs_and_outputs_survive(adapter: WorkflowStorage, session: Session, value: Any) -> None:
    state = ExecutionState(session_id=session.id, nodes={"a": NodeState(input=value, output=value)})
    await adapter.save_execution_state(state)
    await adapter.update_node_state(session.id, "b", input=value, output=value)
    found = await adapter.get_execution_state(session.id)
    assert found
    for node in found.nodes.values():
        for read in (node.input, node.output):
            assert read == value and type(read) is type(value)


async def test_a_node_is_made_or_changed_in_the_fields_given(adapter: WorkflowStorage, session: Session) -> None:
    made = await adapter.update_node_state(session.id, "a", status="running", started_at=NOW, input={"q": 1})
    assert (made.status, made.input, made.metadata, made.retry_count) == ("running", {"q": 1}, {}, 0)
    waiting = await adapter.update_node_state(
        session.id, "a", pending_approval_id="appr-1", status="waiting_for_approval"
    )
    assert (waiting.pending_approval_id, waiting.input, waiting.metadata) == ("appr-1", {"q": 1}, {})
    noted = await adapter.update_node_state(session.id, "a", metadata={"n": 0})
    assert (noted.pending_approval_id, noted.metadata, noted.status) == ("appr-1", {"n": 0}, "waiting_for_approval")
    again = await adapter.update_node_state(session.id, "a", pending_approval_id="appr-2", retry_count=1)
    assert (again.pending_approval_id, again.metadata, again.retry_count) == ("appr-2", {"n": 0}, 1)
    cleared = await adapter.update_node_state(session.id, "a", pending_approval_id=None)
    assert (cleared.pending_approval_id, cleared.metadata) == (None, {"n": 0})
    with pytest.raises(InvalidValue, match="cannot be changed"):
        await adapter.update_node_state(session.id, "a", bogus=1)
    with pytest.raises(InvalidValue):
        await adapter.update_node_state(session.id, "a", metadata=None)


async def test_changes_of_one_node_at_the_same_time_all_survive(adapter: WorkflowStorage, session: Session) -> None:
    await asyncio.gather(
        adapter.update_node_state(session.id, "a", metadata={"m": 1}),
        adapter.update_node_state(session.id, "a", pending_approval_id="appr-1"),
        adapter.update_node_state(session.id, "a", output=0),
        adapter.update_node_state(session.id, "a", error="e"),
    )
    state = await adapter.update_node_state(session.id, "a", status="running")
    assert (state.metadata, state.pending_approval_id, state.output, state.error) == ({"m": 1}, "appr-1", 0, "e")


# ---- what runs did ---------------------------------------------------------------------------------------------------


async def test_model_calls_come_back_whole_and_oldest_first(adapter: WorkflowStorage, session: Session) -> None:
    full = LlmExecution(
        id="zz",
        session_id=session.id,
        node_id="a",
        success=False,
        text="\x00",
        tool_calls=[{"id": "c", "args": ""}],
        input_tokens=0,
        output_tokens=2,
        total_tokens=2,
        cost=Decimal("0.000000123"),
        error="",
        metadata={"model": "m", "temperature": 0},
    )
    assert given(await adapter.save_llm_execution(full)) == given(full)
    ids = [f"call-{number}" for number in range(12)]
    for number, text in enumerate(ids):
        await adapter.save_llm_execution(LlmExecution(id=text, session_id=session.id, node_id="ab"[number % 2]))
    assert [call.id for call in await adapter.get_llm_executions(session.id)] == ["zz", *ids]
    assert [call.id for call in await adapter.get_node_llm_executions(session.id, "b")] == ids[1::2]
    assert [call.id for call in await adapter.get_node_llm_executions(session.id, "a", limit=2, offset=1)] == ids[0:4:2]
    assert [call.id for call in await adapter.get_llm_executions(session.id, limit=2, offset=3)] == ids[2:4]


async def test_within_one_transaction_the_order_is_kept_too(adapter: WorkflowStorage, session: Session) -> None:
    ids = [f"call-{number}" for number in range(20)]
    async with adapter.begin_transaction() as inner:
        for text in ids:
            await inner.save_llm_execution(LlmExecution(id=text, session_id=session.id, node_id="a"))
            await inner.log_tool_call(ToolCall(id=text, execution_id="call-0", tool_call_id="c", tool_name="t"))
            await inner.create_session(Session(id=text))
    assert [call.id for call in await adapter.get_llm_executions(session.id)] == ids
    assert [call.id for call in await adapter.get_tool_calls("call-0")] == ids
    assert [run.id for run in await adapter.list_sessions(limit=20)] == ids[::-1]


async def test_tool_calls_come_back_whole_by_call_and_by_run(adapter: WorkflowStorage, session: Session) -> None:
    for text in ("l1", "l2"):
        await adapter.save_llm_execution(LlmExecution(id=text, session_id=session.id, node_id="a"))
    for number, result in enumerate([0, "", False, {"a": None}]):
        call = ToolCall(
            id=f"t{number}",
            execution_id="l1" if number < 3 else "l2",
            tool_call_id="toolu_\x00",
            tool_name="search",
            arguments={RESERVED: "the model's own", "q": ""},
            result=result,
            error=None,
            duration_ms=0,
        )
        assert given(await adapter.log_tool_call(call)) == given(call)
    calls = await adapter.get_tool_calls("l1")
    assert [(call.id, call.result) for call in calls] == [("t0", 0), ("t1", ""), ("t2", False)]
    assert calls[2].result is False and calls[0].arguments == {RESERVED: "the model's own", "q": ""}
    assert [call.id for call in await adapter.get_tool_calls("l1", limit=1, offset=1)] == ["t1"]
    assert [call.id for call in await adapter.get_session_tool_calls(session.id)] == ["t0", "t1", "t2", "t3"]


async def test_events_are_counted_within_their_stream(adapter: WorkflowStorage) -> None:
    for data in (0, "", False, {"t": "\x00"}):
        await adapter.save_stream_event(StreamEvent(stream_id="run", node_id="n", data=data))
    other = await adapter.save_stream_event(StreamEvent(stream_id="other"))
    assert (other.sequence, other.data, other.node_id) == (1, {}, None)
    events = await adapter.get_stream_events("run")
    assert [(event.sequence, event.data) for event in events] == [(1, 0), (2, ""), (3, False), (4, {"t": "\x00"})]
    assert [event.sequence for event in await adapter.get_stream_events("run", after=1, limit=2)] == [2, 3]


async def test_events_saved_at_the_same_time_leave_no_gap(adapter: WorkflowStorage) -> None:
    await asyncio.gather(*(adapter.save_stream_event(StreamEvent(stream_id="run", data=n)) for n in range(40)))
    assert [event.sequence for event in await adapter.get_stream_events("run")] == list(range(1, 41))


# ---- budgets and approvals -------------------------------------------------------------------------------------------


async def test_a_budget_pool_is_made_changed_and_has_children(adapter: WorkflowStorage) -> None:
    pool = BudgetPool(id="root", total_budget=Decimal("10.5"), used_budget=Decimal(0), metadata={"k": ""})
    made = await adapter.create_budget_pool(pool)
    assert given(made) == given(pool) and made.remaining_budget == Decimal("10.5")
    ids = [f"child-{number}" for number in range(5)]
    for text in ids:
        await adapter.create_budget_pool(BudgetPool(id=text, parent_pool_id="root", total_budget=Decimal(1)))
    await adapter.create_budget_pool(BudgetPool(id="below", parent_pool_id="child-0", total_budget=Decimal(1)))
    assert [child.id for child in await adapter.get_child_budget_pools("root")] == ids
    used = await adapter.update_budget_pool("child-0", used_budget=Decimal("0.25"), metadata={"m": 0})
    assert (used.id, used.parent_pool_id, used.remaining_budget) == ("child-0", "root", Decimal("0.75"))
    assert used.metadata == {"m": 0}
    assert (await adapter.update_budget_pool("child-0", status="suspended")).status == "suspended"
    with pytest.raises(InvalidValue):
        await adapter.update_budget_pool("child-0", used_budget=Decimal(2))
    with pytest.raises(InvalidValue, match="cannot be changed"):
        await adapter.update_budget_pool("child-0", parent_pool_id="below")


async def test_approvals_are_listed_and_filtered(adapter: WorkflowStorage, session: Session) -> None:
    await adapter.create_session(Session(id="s2"))
    made: list[ApprovalRequest] = []
    for number, (run, kind) in enumerate(
        [(session.id, "human_review"), ("s2", "budget_increase"), (session.id, "workflow_call"), ("s2", "human_review")]
    ):
        request = ApprovalRequest(id=f"r{number}", session_id=run, node_id="n", type=kind, context={"q": "\x00"})  # pyright: ignore
        made.append(await adapter.create_approval_request(request))
        assert given(made[-1]) == given(request)
    await adapter.approve_request("r1", "ann")

    async def ids(**filters: Any) -> list[str]:
        return [request.id for request in await adapter.list_approval_requests(**filters)]

    assert await ids() == ["r0", "r1", "r2", "r3"]
    assert await ids(session_id="s2") == ["r1", "r3"]
    assert await ids(status="approved") == ["r1"]
    assert await ids(type="human_review", session_id="s2") == ["r3"]
    assert await ids(limit=2, offset=1) == ["r1", "r2"]
    assert [item.id for item in await adapter.list_pending_approvals()] == ["r0", "r2", "r3"]
    assert [item.id for item in await adapter.list_pending_approvals(session.id, "workflow_call")] == ["r2"]
    assert [item.id for item in await adapter.list_pending_approvals(limit=1, offset=1)] == ["r2"]
    with pytest.raises(InvalidValue):
        await adapter.list_approval_requests(status="bogus")  # pyright: ignore


async def test_a_request_is_changed_until_it_is_decided(adapter: WorkflowStorage, session: Session) -> None:
    request = ApprovalRequest(id="r", session_id=session.id, node_id="n", type="human_review", context={"a": 1})
    await adapter.create_approval_request(request)
    changed = await adapter.update_approval_request("r", context={"b": 0}, expires_at=NOW + timedelta(days=9999))
    assert (changed.id, changed.session_id, changed.context) == ("r", session.id, {"b": 0})
    with pytest.raises(InvalidValue, match="cannot be changed"):
        await adapter.update_approval_request("r", session_id="x")
    for change in ({"status": "approved"}, {"resolved_by": "eve"}):
        with pytest.raises(InvalidValue, match="decision"):
            await adapter.update_approval_request("r", **change)
    approved = await adapter.approve_request("r", "ann", "fine\x00")
    assert (approved.status, approved.resolved_by, approved.resolution_notes) == ("approved", "ann", "fine\x00")
    assert approved.resolved_at and approved.context == {"b": 0}
    for decide in (adapter.approve_request, adapter.reject_request):
        with pytest.raises(Conflict, match="'r' was approved by ann"):
            await decide("r", "bob")
    for change in ({"status": "rejected", "resolved_by": "eve"}, {"context": {}}, {"resolution_notes": None}):
        with pytest.raises(Conflict, match="'r' was approved by ann"):
            await adapter.update_approval_request("r", **change)
    assert await adapter.get_approval_request("r") == approved


async def test_an_update_may_be_the_decision(adapter: WorkflowStorage, session: Session) -> None:
    made = {"session_id": session.id, "node_id": "n", "type": "human_review"}
    for status, by in (("approved", "ann"), ("rejected", "bob"), ("expired", None)):
        await adapter.create_approval_request(ApprovalRequest(id=status, **made))
        change = {"resolved_by": by} if by else {}
        decided = await adapter.update_approval_request(status, status=status, resolution_notes="x", **change)
        assert (decided.status, decided.resolved_by, decided.resolution_notes) == (status, by, "x")
        assert decided.resolved_at is not None
        assert [item.id for item in await adapter.list_approval_requests(status=decided.status)] == [status]
    await adapter.create_approval_request(ApprovalRequest(id="then", **made))
    assert (await adapter.update_approval_request("then", status="expired", resolved_at=NOW)).resolved_at == NOW
    imported = ApprovalRequest(id="old", **made, status="approved", resolved_at=NOW, resolved_by="eve")
    assert given(await adapter.create_approval_request(imported)) == given(imported)


async def test_an_overdue_request_is_not_pending(adapter: WorkflowStorage, session: Session) -> None:
    made = {"session_id": session.id, "node_id": "n", "type": "human_review"}
    await adapter.create_approval_request(ApprovalRequest(id="late", **made, expires_at=NOW - timedelta(days=9999)))
    assert await adapter.list_pending_approvals() == await adapter.list_approval_requests(status="pending") == []
    assert [item.id for item in await adapter.list_approval_requests()] == ["late"]


async def test_a_decision_lets_the_node_and_the_run_that_wait_for_it_go_on(
    adapter: WorkflowStorage, session: Session
) -> None:
    await adapter.save_execution_state(ExecutionState(session_id=session.id, nodes={"n": NodeState()}))
    await adapter.update_node_state(session.id, "n", status="waiting_for_review", pending_approval_id="r")
    await adapter.update_session(session.id, status="waiting_for_human_review")
    request = ApprovalRequest(id="r", session_id=session.id, node_id="n", type="human_review")
    await adapter.create_approval_request(request)
    await adapter.approve_request("r", "ann")
    state, run = await adapter.get_execution_state(session.id), await adapter.get_session(session.id)
    assert state and run
    assert (run.status, state.status, state.nodes["n"].status) == ("running", "running", "running")
    assert state.nodes["n"].pending_approval_id == "r"


async def test_a_status_moves_where_it_may(adapter: WorkflowStorage, session: Session) -> None:
    await adapter.update_session(session.id, status="completed")
    with pytest.raises(Conflict, match="status of row 'session-1' cannot change from completed to running"):
        await adapter.update_session(session.id, status="running")
    await adapter.update_node_state("session-1", "n", status="completed")
    with pytest.raises(Conflict, match="from completed to running"):
        await adapter.update_node_state("session-1", "n", status="running")


# ---- lists -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def lists(adapter: WorkflowStorage, session: Session) -> dict[str, tuple[Any, str]]:
    """Every list, with a field that is a number's text; each has the items 0 to 4, created in that order."""
    root = await adapter.create_budget_pool(BudgetPool(id="root", total_budget=Decimal(9)))
    call = await adapter.save_llm_execution(LlmExecution(id="call", session_id=session.id, node_id="tools"))
    for n in range(5):
        text, of = str(n), {"session_id": session.id}
        await adapter.save_workflow(Workflow(id=f"w{n}", name="n", version=text, definition=1, metadata={"n": n}))
        await adapter.create_session(Session(id=f"s{n}", workflow_snapshot=1, metadata={"n": n, "version": text}))
        await adapter.save_llm_execution(LlmExecution(id=f"l{n}", node_id="a", text=text, metadata={"n": n}, **of))
        await adapter.log_tool_call(
            ToolCall(id=f"t{n}", execution_id=call.id, tool_call_id="c", tool_name=text, arguments={"n": n})
        )
        await adapter.create_budget_pool(BudgetPool(id=f"p{n}", parent_pool_id=root.id, total_budget=Decimal(n)))
        request = ApprovalRequest(id=f"r{n}", node_id=text, type="human_review", context={"n": n}, **of)
        await adapter.create_approval_request(request)
        await adapter.save_stream_event(StreamEvent(id=f"e{n}", stream_id="run", node_id=text, data={"n": n}))

    def of(method: Any, *args: Any, **more: Any) -> Any:
        return lambda **query: method(*args, **{**more, **query})

    return {
        "w": (of(adapter.list_workflows, "n"), "version"),
        "s": (of(adapter.list_sessions, where={"metadata__n__gte": 0}), "id"),
        "l": (of(adapter.get_llm_executions, session.id, where={"node_id": "a"}), "text"),
        "l of a node": (of(adapter.get_node_llm_executions, session.id, "a"), "text"),
        "t": (of(adapter.get_tool_calls, "call"), "tool_name"),
        "t of a run": (of(adapter.get_session_tool_calls, session.id), "tool_name"),
        "p": (of(adapter.get_child_budget_pools, "root"), "total_budget"),
        "r": (of(adapter.list_approval_requests, session.id), "node_id"),
        "r pending": (of(adapter.list_pending_approvals), "node_id"),
        "e": (of(adapter.get_stream_events, "run"), "node_id"),
    }


async def test_every_list_takes_filters_an_order_and_a_page(lists: dict[str, tuple[Any, str]]) -> None:
    async def numbers(call: Any, **query: Any) -> list[int]:
        return [int(item.id[1:]) for item in await call(**query)]

    for name, (call, field) in lists.items():
        up = list(range(5))
        assert await numbers(call) == (up[::-1] if name == "s" else up), name
        assert await numbers(call, order_by="-created_at") == up[::-1], name
        assert await numbers(call, order_by="created_at") == up, name
        assert await numbers(call, order_by=["-created_at", "id"], limit=2, offset=1) == [3, 2], name
        letter = name[0]
        assert await numbers(call, where={"id": f"{letter}3"}) == [3], name
        assert await numbers(call, where={"id__in": [f"{letter}1", f"{letter}4"]}, order_by="created_at") == [1, 4]
        others = await call(where={"id__ne": f"{letter}4", "created_at__lt": NOW + timedelta(days=9999)})
        assert len(others) >= 4 and f"{letter}4" not in [item.id for item in others], name
        if field != "id":
            assert await numbers(call, where={f"{field}__in": ["2", "3"]}) == [2, 3], name
            assert await numbers(call, order_by=f"-{field}", limit=1) == [4], name
        with pytest.raises(InvalidValue, match="has no field 'bogus'"):
            await call(where={"bogus": 1})
        with pytest.raises(InvalidValue, match="ids have no order"):
            await call(where={"id__gt": "x"})
        with pytest.raises(InvalidValue):
            await call(order_by="bogus")
        with pytest.raises(InvalidValue):
            await call(limit=1001)
        with pytest.raises(InvalidValue):
            await call(offset=-1)


async def test_documents_and_references_are_filtered_as_the_caller_gave_them(
    adapter: WorkflowStorage, lists: dict[str, tuple[Any, str]]
) -> None:
    assert [item.id for item in await adapter.list_workflows(where={"metadata": {"n": 2}})] == ["w2"]
    assert [item.id for item in await adapter.list_workflows(where={"metadata__n": 3})] == ["w3"]
    for where in ({"session_id": "session-1"}, {"session_id__in": ["session-1", "other"]}):
        assert len(await adapter.list_approval_requests(where=where)) == 5
    assert await adapter.list_approval_requests(where={"session_id": "other"}) == []
    assert len(await adapter.get_session_tool_calls("session-1", where={"execution_id": "call"})) == 5
    assert await adapter.get_session_tool_calls("other") == []
    assert await adapter.list_sessions(where={"workflow_id": "workflow-1"}, limit=1)
    assert len(await adapter.list_sessions(where={"workflow_id__is_null": True})) == 5
    with pytest.raises(InvalidValue, match="session_id is given twice"):
        await adapter.list_approval_requests("session-1", where={"session_id": "other"})
    with pytest.raises(InvalidValue, match="status is given twice"):
        await adapter.list_pending_approvals(where={"status": "approved"})


@pytest.mark.parametrize("data", [0, "", False, [1], {}, {"a": 1}, {RESERVED: 7}, {RESERVED: {"$value": 1}}, 0.5])
@pytest.mark.parametrize("id", ["event-1", "\x00", "0190b1c6-0b6e-7c4e-8e58-3d4f5a6b7c8d"])
async def test_an_event_has_an_id_and_a_time_and_comes_back_as_it_was_given(
    adapter: WorkflowStorage, id: str, data: Any
) -> None:
    event = StreamEvent(id=id, stream_id="run", data=data)
    saved = await adapter.save_stream_event(event)
    assert given(saved) == given(event) and type(saved.data) is type(data)
    assert saved.created_at is not None and saved.sequence == 1
    with pytest.raises(Conflict):
        await adapter.save_stream_event(StreamEvent(id=id, stream_id="other"))
    assert await adapter.get_stream_events("run") == [saved]


@pytest.mark.skipif("created_at" not in NewWorkflow.model_fields, reason="the records take no times yet")
async def test_the_callers_times_are_kept(adapter: WorkflowStorage) -> None:
    then, later = NOW - timedelta(days=30), NOW - timedelta(days=29)
    times = {"created_at": then, "updated_at": later}
    made: list[Any] = [
        await adapter.save_workflow(Workflow(id="w", name="n", definition={"d": 1}, **times)),
        await adapter.create_session(Session(id="s", workflow_id="w", status="failed", **times)),
        await adapter.create_session(Session(id="s2", workflow_id="w", **times)),
        await adapter.save_llm_execution(LlmExecution(id="l", session_id="s", node_id="n", **times)),
        await adapter.log_tool_call(ToolCall(id="t", execution_id="l", tool_call_id="c", tool_name="t", **times)),
        await adapter.create_budget_pool(BudgetPool(id="p", total_budget=Decimal(1), **times)),
        await adapter.create_approval_request(
            ApprovalRequest(id="r", session_id="s", node_id="n", type="human_review", **times)
        ),
        await adapter.save_stream_event(StreamEvent(id="e", stream_id="s", **times)),
        await adapter.save_execution_state(ExecutionState(session_id="s", **times)),
    ]
    for item in made:
        assert (item.created_at, item.updated_at) == (then, later), item
    assert made[2].workflow_snapshot == {"d": 1}


async def test_a_rejection_counts_and_an_expired_request_cannot_be_decided(
    adapter: WorkflowStorage, session: Session
) -> None:
    made = {"session_id": session.id, "node_id": "n", "type": "budget_increase"}
    await adapter.create_approval_request(ApprovalRequest(id="no", **made))
    rejected = await adapter.reject_request("no", "bob", "too much")
    assert (rejected.status, rejected.resolved_by, rejected.resolution_notes) == ("rejected", "bob", "too much")
    with pytest.raises(Conflict, match="rejected by bob"):
        await adapter.approve_request("no", "ann")
    late = ApprovalRequest(id="late", **made, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    await adapter.create_approval_request(late)
    with pytest.raises(Conflict, match="expired"):
        await adapter.approve_request("late", "ann")


async def test_of_fifty_who_decide_at_once_one_does(adapter: WorkflowStorage, session: Session) -> None:
    await adapter.create_approval_request(
        ApprovalRequest(id="r", session_id=session.id, node_id="n", type="human_review")
    )
    calls = [
        (adapter.approve_request if number % 2 else adapter.reject_request)("r", f"person-{number}")
        for number in range(50)
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    decided = [result for result in results if isinstance(result, ApprovalRequest)]
    refused = [result for result in results if isinstance(result, Conflict)]
    assert (len(decided), len(refused)) == (1, 49)
    assert all(f"by {decided[0].resolved_by} " in str(error) for error in refused)
    assert await adapter.get_approval_request("r") == decided[0]


# ---- transactions, opening, closing ----------------------------------------------------------------------------------


class Stop(Exception):
    """Leaves a block."""


async def test_a_transaction_keeps_everything_or_nothing(adapter: WorkflowStorage, session: Session) -> None:
    async def work(inner: WorkflowStorage) -> None:
        await inner.save_workflow(Workflow(id="w", name="n", definition=1))
        await inner.create_session(Session(id="s", workflow_id="w", status="paused"))
        await inner.save_execution_state(ExecutionState(session_id="s", nodes={"a": NodeState()}))
        await inner.update_node_state("s", "a", metadata={"k": 1})
        await inner.update_session(session.id, status="completed")
        await inner.save_stream_event(StreamEvent(stream_id="run"))
        assert await inner.get_workflow("w")

    with pytest.raises(Stop):
        async with adapter.begin_transaction() as inner:
            await work(inner)
            raise Stop
    assert await adapter.get_workflow("w") is await adapter.get_session("s") is None
    assert await adapter.get_stream_events("run") == []
    assert await adapter.get_session(session.id) == session
    async with adapter.begin_transaction() as inner:
        await work(inner)
    assert await adapter.get_workflow("w") and len(await adapter.get_stream_events("run")) == 1


async def test_a_transaction_within_one_undoes_its_own_part(adapter: WorkflowStorage) -> None:
    async with adapter.begin_transaction() as outer:
        await outer.save_workflow(Workflow(id="kept", name="n", definition=1))
        with pytest.raises(Conflict):
            async with outer.begin_transaction() as inner:
                await inner.save_workflow(Workflow(id="gone", name="n", definition=1))
                await inner.save_workflow(Workflow(id="kept", name="n", definition=1))
        await outer.initialize()
        await outer.close()
    assert [item.id for item in await adapter.list_workflows()] == ["kept"]


async def test_others_see_nothing_of_a_transaction_before_its_end(adapter: WorkflowStorage) -> None:
    inside, go = asyncio.Event(), asyncio.Event()

    async def writer() -> None:
        async with adapter.begin_transaction() as inner:
            await inner.save_workflow(Workflow(id="w", name="n", definition=1))
            inside.set()
            await go.wait()

    task = asyncio.create_task(writer())
    await inside.wait()
    assert await adapter.list_workflows() == []
    go.set()
    await task
    assert len(await adapter.list_workflows()) == 1


async def test_opening_and_closing_twice_does_nothing(migrated: str) -> None:
    adapter = WorkflowStorage(migrated)
    for _ in range(2):
        await adapter.initialize()
    assert await adapter.list_workflows() == []
    for _ in range(2):
        await adapter.close()
    await adapter.initialize()
    assert await adapter.list_workflows() == []
    await adapter.close()


async def test_a_storage_that_was_open_stays_open(storage: Storage, migrated: str) -> None:
    async with WorkflowStorage(storage):
        pass
    assert await storage.workflows.count() == 0
    closed = Storage(migrated)
    async with WorkflowStorage(closed) as adapter:
        assert await adapter.list_workflows() == []
    with pytest.raises(Exception, match="not open"):
        await closed.workflows.count()


async def test_a_storage_whose_connections_are_all_in_use_is_open(migrated: str) -> None:
    async with Storage(migrated, pool_max=1, pool_timeout=0.2) as busy:
        async with busy.database.connection():
            adapter = WorkflowStorage(busy)
            await adapter.initialize()
        await adapter.close()
        assert await adapter.list_workflows() == []


async def test_initializing_makes_the_tables_and_several_may_at_once(database: str) -> None:
    adapters = [WorkflowStorage(database) for _ in range(4)]
    await asyncio.gather(*(adapter.initialize() for adapter in adapters))
    for adapter in adapters:
        assert await adapter.list_workflows() == []
        await adapter.close()


async def test_initializing_without_migrations_makes_no_table(database: str) -> None:
    async with WorkflowStorage(database, migrate=False) as adapter:
        with pytest.raises(SchemaMismatch):
            await adapter.list_workflows()


async def test_a_history_that_contradicts_is_refused_and_nothing_stays_open(migrated: str) -> None:
    with psycopg.connect(migrated, autocommit=True) as raw:
        raw.execute("DELETE FROM _yoyo_migration WHERE migration_id LIKE '%workflows'")
    adapter = WorkflowStorage(migrated)
    with pytest.raises(MigrationError):
        await adapter.initialize()
    with pytest.raises(Exception, match="not open"):
        await adapter.list_workflows()


def test_the_sync_face_does_the_same(database: str) -> None:
    from agent_storage.sync.adapters.workflow import WorkflowStorage as SyncWorkflowStorage

    with SyncWorkflowStorage(database) as engine:
        with engine.begin_transaction() as tx:
            tx.save_workflow(Workflow(id="w", name="n", definition={"nodes": ["a"]}))
            run = tx.create_session(Session(id="s", workflow_id="w"))
        with pytest.raises(Conflict), engine.begin_transaction() as tx:
            tx.save_workflow(Workflow(id="gone", name="n", definition=1))
            tx.save_workflow(Workflow(id="w", name="n", definition=1))
        assert [item.id for item in engine.list_workflows(where={"name": "n"}, order_by="-created_at")] == ["w"]
        assert run.workflow_snapshot == {"nodes": ["a"]}
        engine.save_execution_state(ExecutionState(session_id="s", nodes={"a": NodeState(output=0)}))
        engine.update_node_state("s", "a", metadata={"k": 1}, pending_approval_id="r")
        engine.create_approval_request(ApprovalRequest(id="r", session_id="s", node_id="a", type="human_review"))
        assert engine.approve_request("r", "ann").status == "approved"
        engine.save_stream_event(StreamEvent(id="e", stream_id="s", data=False))
        assert [(event.id, event.data) for event in engine.get_stream_events("s")] == [("e", False)]
        state = engine.get_execution_state("s")
        assert state and state.nodes["a"].metadata == {"k": 1} and state.nodes["a"].pending_approval_id == "r"
        engine.delete_session("s")
        with pytest.raises(NotFound, match="'s'"):
            engine.delete_session("s")


async def test_one_operation_is_one_statement(
    storage: Storage, adapter: WorkflowStorage, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = {f"n{number}": NodeState(output=number) for number in range(50)}
    for number in range(20):
        await adapter.save_llm_execution(LlmExecution(id=f"l{number}", session_id=session.id, node_id="n"))
        await adapter.log_tool_call(ToolCall(execution_id=f"l{number}", tool_call_id="c", tool_name="t"))
    ran: list[str] = []
    run = storage.database.run

    async def counted(statement: Any, values: Any) -> Any:
        ran.append(statement.name)
        return await run(statement, values)

    monkeypatch.setattr(storage.database, "run", counted)
    await adapter.save_execution_state(ExecutionState(session_id=session.id, nodes=nodes))
    assert len((await adapter.get_execution_state(session.id) or ExecutionState(session_id="")).nodes) == 50
    assert (
        len(await adapter.get_session_tool_calls(session.id)) == len(await adapter.get_llm_executions(session.id)) == 20
    )
    await adapter.update_session(session.id, status="paused")
    await adapter.create_session(Session(workflow_id="workflow-1"))
    await adapter.save_stream_event(StreamEvent(stream_id="s"))
    assert len(ran) == 7


async def test_a_url_that_cannot_be_used_says_so(server_conninfo: str) -> None:
    with pytest.raises(InvalidSettings):
        WorkflowStorage("mysql://localhost/db")
    with pytest.raises(Unavailable):
        await WorkflowStorage("postgresql://127.0.0.1:1/none").initialize()


@pytest.mark.parametrize("fields", [{"name": 5}, {"bogus": 1}, {"created_at": "never"}, {"metadata": [1]}])
def test_a_wrong_record_is_an_invalid_value(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        Workflow(**{"name": "n", "definition": 1, **fields})
