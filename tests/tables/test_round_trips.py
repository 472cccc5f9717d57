"""What is asked for together travels together: one statement each, whatever the number of rows."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from agent_storage import sync
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
    NewProvider,
    NewSession,
    NewStreamEvent,
    NewTicket,
    NewTicketTask,
    NewWorkflow,
)

from ..recording import Recorded


@pytest.fixture
def linked(sync_storage: sync.Storage) -> dict[str, Any]:
    """A few rows of every domain, with several below each."""
    storage = sync_storage
    provider = storage.providers.create(NewProvider(name="p", kind="k"))
    models = storage.models.create_many([NewModel(provider_id=provider.id, name=str(n)) for n in range(5)])
    talk = storage.conversations.create(NewConversation())
    message = storage.messages.create_many([NewMessage(conversation_id=talk.id, role="user", content="x")] * 9)[-1]
    root = storage.sessions.create(NewSession(agent="a"))
    child = storage.sessions.spawn(root.id)
    project = storage.projects.create(NewProject(name="p", path="p"))
    tickets = storage.tickets.create_many([NewTicket(project_id=project.id, title="t")] * 7)
    tasks = storage.ticket_tasks.create_many(
        [NewTicketTask(ticket_id=t.id, content="c") for t in tickets for _ in "abc"]
    )
    workflow = storage.workflows.create(NewWorkflow(name="w", definition={}))
    run = storage.workflow_sessions.create_from(workflow.id)
    nodes = [NewNodeExecutionState(session_id=run.id, node_id=str(n)) for n in range(20)]
    storage.execution_states.save(NewExecutionState(session_id=run.id), nodes)
    pool = storage.budget_pools.create(NewBudgetPool(total_budget=Decimal(9)))
    leaf = storage.budget_pools.allocate(storage.budget_pools.allocate(pool.id, 5).id, 5)
    held = storage.budget_pools.reserve(leaf.id, 1)
    approval = storage.approval_requests.create(NewApprovalRequest(session_id=run.id, node_id="n", type="human_review"))
    return {
        "model": models[0], "talk": talk, "message": message, "root": root, "child": child, "project": project,
        "ticket": tickets[0], "tasks": tasks[:3], "workflow": workflow, "run": run, "nodes": nodes, "pool": pool,
        "leaf": leaf, "held": held, "approval": approval,
    }  # fmt: skip


CALLS: dict[str, Any] = {
    "models.with_provider": lambda s, x: s.models.with_provider(x["model"].id),
    "models.enabled": lambda s, x: s.models.enabled(),
    "conversations.recent": lambda s, x: s.conversations.recent(),
    "conversations.fork": lambda s, x: s.conversations.fork(x["talk"].id, 3),
    "conversations.usage": lambda s, x: s.conversations.usage(x["talk"].id),
    "messages.append": lambda s, x: s.messages.append(x["talk"].id, "user", "hi"),
    "messages.thread": lambda s, x: s.messages.thread(x["message"].id),
    "checkpoints.store": lambda s, x: s.checkpoints.store(NewCheckpoint(agent_id="a", state={})),
    "checkpoints.summaries with total": lambda s, x: s.checkpoints.summaries("a", total=True),
    "sessions.spawn": lambda s, x: s.sessions.spawn(x["root"].id),
    "sessions.descendants": lambda s, x: s.sessions.descendants(x["root"].id),
    "sessions.ancestors": lambda s, x: s.sessions.ancestors(x["child"].id),
    "sessions.start": lambda s, x: s.sessions.start(x["child"].id),
    "sessions.resolve": lambda s, x: s.sessions.resolve(x["child"].id.hex),
    "tickets.with_tasks": lambda s, x: s.tickets.with_tasks(x["project"].id),
    "tickets.details": lambda s, x: s.tickets.details(x["ticket"].id),
    "tickets.statistics": lambda s, x: s.tickets.statistics(x["ticket"].id),
    "projects.statistics": lambda s, x: s.projects.statistics(x["project"].id),
    "ticket_tasks.available": lambda s, x: s.ticket_tasks.available(x["ticket"].id),
    "projects.overview": lambda s, x: s.projects.overview(),
    "ticket_tasks.reorder": lambda s, x: s.ticket_tasks.reorder(x["ticket"].id, [t.id for t in x["tasks"]][::-1]),
    "workflow_sessions.create_from": lambda s, x: s.workflow_sessions.create_from(x["workflow"].id),
    "execution_states.get_by": lambda s, x: s.execution_states.get_by(session_id=x["run"].id),
    "execution_states.save": lambda s, x: s.execution_states.save(
        NewExecutionState(session_id=x["run"].id), x["nodes"]
    ),
    "node_execution_states.set": lambda s, x: s.node_execution_states.set(x["run"].id, "1", status="running"),
    "budget_pools.spend": lambda s, x: s.budget_pools.spend(x["leaf"].id, 1),
    "budget_pools.spend with a key": lambda s, x: s.budget_pools.spend(x["leaf"].id, 1, key="k", by="ada"),
    "budget_pools.increase": lambda s, x: s.budget_pools.increase(x["leaf"].id, 1),
    "budget_pools.transfer": lambda s, x: s.budget_pools.transfer(x["pool"].id, x["leaf"].id, 1),
    "budget_pools.reserve": lambda s, x: s.budget_pools.reserve(x["leaf"].id, 1),
    "budget_pools.settle": lambda s, x: s.budget_pools.settle(x["held"].id, 2),
    "budget_pools.release": lambda s, x: s.budget_pools.release(x["held"].id),
    "budget_entries.by_pool": lambda s, x: s.budget_entries.by_pool(x["pool"].id),
    "budget_pools.subtree": lambda s, x: s.budget_pools.subtree(x["pool"].id),
    "approval_requests.ask": lambda s, x: s.approval_requests.ask(
        NewApprovalRequest(session_id=x["run"].id, node_id="1", type="budget_increase")
    ),
    "workflow_sessions.pause": lambda s, x: s.workflow_sessions.pause(x["run"].id),
    "approval_requests.approve": lambda s, x: s.approval_requests.approve(x["approval"].id, "ada"),
    "stream_events.publish": lambda s, x: s.stream_events.publish("s"),
    "stream_events.create_many": lambda s, x: s.stream_events.create_many([NewStreamEvent(stream_id="s")] * 50),
    "delete_many": lambda s, x: s.tickets.delete_many([x["ticket"].id]),
    "delete_where": lambda s, x: s.tickets.delete_where({"title": "t"}),
    "find with total": lambda s, x: s.tickets.find(total=True),
    "create_many": lambda s, x: s.sessions.create_many([NewSession(agent="a")] * 50),
    "update_many": lambda s, x: s.sessions.update_many([x["root"].id, x["child"].id], {"agent": "b"}),
}


@pytest.mark.parametrize("call", CALLS)
def test_one_round_trip(sync_storage: sync.Storage, linked: dict[str, Any], call: str) -> None:
    recorded = Recorded(sync_storage)
    CALLS[call](recorded, linked)
    assert len(recorded.log.statements) == 1, recorded.log.statements
