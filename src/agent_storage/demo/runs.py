"""Workflows of a team and their runs: nodes, model calls, tool calls, approvals, events, and what it all cost."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID

from agent_storage.demo import words
from agent_storage.demo.budgets import Budgets
from agent_storage.demo.unit import SPAN, Unit
from agent_storage.types import (
    NewApprovalRequest,
    NewEventStream,
    NewExecutionState,
    NewLlmExecution,
    NewNodeExecutionState,
    NewStreamEvent,
    NewToolCallLog,
    NewWorkflow,
    NewWorkflowSession,
)

#: How many runs each workflow has, and how they stand.
_STATUSES = (
    *("completed", "completed", "completed", "completed", "failed", "paused", "running"),
    *("waiting_for_human_review", "waiting_for_budget_approval"),
)
_TOOLS = {"tool": "shell.run", "llm": "code.search"}


def add(unit: Unit) -> None:
    """Add the team's workflows, their runs, and the budgets that these were charged to."""
    budgets = Budgets(unit)
    for flow in words.FLOWS:
        at = unit.later(unit.until - SPAN - timedelta(hours=9), 0, 30_000)
        nodes = [{"id": name, "type": kind} for name, kind, _ in flow.nodes]
        edges = [[a["id"], b["id"]] for a, b in pairwise(nodes)]
        definition = {"name": flow.name, "nodes": nodes, "edges": edges}
        metadata = {"team": unit.team}
        workflow = unit.add("workflows", NewWorkflow, at, name=flow.name, definition=definition, metadata=metadata)
        for status in _STATUSES:
            _Run(unit, flow, workflow, definition, status, budgets).add()
    budgets.add()


class _Run:
    """A run in progress: the nodes up to a point are completed, the node there has the status of the run."""

    def __init__(
        self, unit: Unit, flow: words.Flow, workflow: UUID, definition: dict[str, Any], status: str, budgets: Budgets
    ) -> None:
        self.unit, self.flow, self.status = unit, flow, status
        self.begun = self.at = unit.moment()
        self.id = unit.id(self.begun)
        self.stream, self.sequence = f"run:{self.id}", 0
        self.pool = budgets.pool(flow.name)
        self.budgets, self.cost = budgets, Decimal(0)
        self.model = unit.pick(unit.known.models)
        by = unit.pick(unit.people)
        self.fields: dict[str, Any] = {
            "workflow_id": workflow,
            "workflow_snapshot": definition,
            "owner": by,
        }

    def add(self) -> None:
        """The run with all that belongs to it."""
        stop = self._stop()
        self._event("run.started", None)
        for number, node in enumerate(self.flow.nodes):
            self._node(*node, self._state(number, stop))
        if self.status in ("completed", "failed"):
            self._event(f"run.{self.status}", None)
        self.unit.add(
            "workflow_sessions", NewWorkflowSession, self.begun, id=self.id, status=self.status, **self.fields
        )
        self._charge()
        ended = self.at if self.status in ("completed", "failed") else None
        self.unit.add(
            "execution_states",
            NewExecutionState,
            self.begun,
            session_id=self.id,
            budget_pool_id=self.pool,
            current_node_id=None if self.status == "completed" else self.flow.nodes[stop][0],
            status=self.status,
            started_at=self.begun,
            completed_at=ended,
            context={"attempt": 1},
            extra={"updated_at": self.at},
        )
        moved = {"updated_at": self.at, "last_sequence": self.sequence}
        self.unit.add("event_streams", NewEventStream, self.begun, extra=moved, stream_id=self.stream)

    def _charge(self) -> None:
        """Charge the cost of the run. A failed run had reserved it; a running one holds some more."""
        fields: dict[str, Any] = {"actor": self.fields["owner"], "session_id": self.id}
        made = None
        if self.status == "failed":
            made = self.budgets.reserve(self.pool, self.cost, self.begun, settled=True, **fields)
        if self.status == "running":
            self.budgets.reserve(self.pool, Decimal("0.5"), self.at, settled=False, **fields)
        fields |= {"key": f"cost of run {self.id}", "reservation_id": made}
        self.budgets.spend(self.pool, self.cost, self.at, **fields)

    def _stop(self) -> int:
        """Return the number of the current node of the run."""
        kinds = [kind for _, kind, _ in self.flow.nodes]
        wanted = {"waiting_for_human_review": "approval", "waiting_for_budget_approval": "llm"}.get(self.status)
        if wanted:
            return kinds.index(wanted)
        return len(kinds) if self.status == "completed" else self.unit.random.randint(1, len(kinds) - 1)

    def _state(self, number: int, stop: int) -> str:
        if number != stop:
            return "completed" if number < stop else "pending"
        waiting = {
            "waiting_for_human_review": "waiting_for_review",
            "waiting_for_budget_approval": "waiting_for_approval",
        }
        return waiting.get(self.status, {"failed": "failed", "paused": "pending"}.get(self.status, "running"))

    def _node(self, name: str, kind: str, text: str, state: str) -> None:
        started = self.at = self.unit.later(self.at, 1, 20)
        text, fields = self.unit.phrase(text), dict[str, Any]()
        if state != "pending":
            self._event("node.started", name)
            fields = self._work(name, kind, text, state)
        self.unit.add(
            "node_execution_states",
            NewNodeExecutionState,
            started,
            session_id=self.id,
            node_id=name,
            status=state,
            started_at=None if state == "pending" else started,
            completed_at=self.at if state in ("completed", "failed") else None,
            retry_count=1 if state == "failed" else 0,
            **fields,
        )

    def _work(self, name: str, kind: str, text: str, state: str) -> dict[str, Any]:
        """Return the fields of the state of a node."""
        if state.startswith("waiting") or kind == "approval":
            return {"input": {"question": text}, "pending_approval_id": self._approval(name, kind, text, state)}
        for _ in range(self.unit.random.randint(1, 2) if kind == "llm" else 1):
            self._call(name, kind, text, failed=state == "failed")
        if state == "running":
            return {"input": {"node": name}}
        self._event(f"node.{state}", name)
        if state == "failed":
            return {"input": {"node": name}, "error": "the model's answer was cut off at its length limit"}
        return {"input": {"node": name}, "output": {"text": text}}

    def _call(self, name: str, kind: str, text: str, *, failed: bool) -> None:
        """A call of the model, which asks for a tool."""
        at = self.at = self.unit.later(self.at, 2, 30)
        model, (into, out) = self.model, (self.unit.random.randint(8000, 90_000), self.unit.random.randint(300, 4000))
        cost = Decimal(into * model[2] + out * model[3]) / 1_000_000
        tool, call_id = _TOOLS[kind], f"call_{self.unit.random.getrandbits(48):012x}"
        arguments = {"command": f"make {name}"} if kind == "tool" else {"pattern": name, "path": "src"}
        execution = self.unit.add(
            "llm_executions",
            NewLlmExecution,
            at,
            session_id=self.id,
            node_id=name,
            success=not failed,
            text=None if failed else text,
            tool_calls=[{"id": call_id, "name": tool, "arguments": arguments}],
            input_tokens=into,
            output_tokens=out,
            total_tokens=into + out,
            cost=cost,
            error="cut off at the length limit" if failed else None,
            metadata={"model": model[1], "temperature": 0.2},
        )
        self.cost += cost
        self._log(execution, kind, tool, call_id, arguments)
        for part in text.split(". ")[:2]:
            self._event("text", name, text=part)

    def _log(self, execution: UUID, kind: str, tool: str, call_id: str, arguments: dict[str, str]) -> None:
        """The tool call that the model asked for."""
        self.unit.add(
            "tool_call_logs",
            NewToolCallLog,
            self.unit.later(self.at, 0.1, 2),
            execution_id=execution,
            tool_call_id=call_id,
            tool_name=tool,
            arguments=arguments,
            result={"exit_code": 0} if kind == "tool" else {"matches": self.unit.random.randint(0, 40)},
            duration_ms=int(self.unit.random.lognormvariate(5, 0.9)),
        )

    def _approval(self, name: str, kind: str, text: str, state: str) -> UUID:
        at = self.at = self.unit.later(self.at, 1, 5)
        self._event("approval.requested", name)
        asked: dict[str, Any] = {"node_id": name, "type": "human_review", "context": {"question": text}}
        if kind != "approval":
            question = f"{self.flow.name} needs 5.00 more to go on with {name!r}"
            asked |= {"type": "budget_increase", "context": {"question": question, "amount": "5.00"}}
        if not state.startswith("waiting"):
            asked |= self._decision(at, state)
        return self.unit.add("approval_requests", NewApprovalRequest, at, session_id=self.id, **asked)

    def _decision(self, at: datetime, state: str) -> dict[str, Any]:
        yes, self.at = state != "failed", self.unit.later(at, 60, 1500)
        self._event("approval.decided", None)
        notes = "Looks right, go ahead." if yes else "Not this week: we are in a release freeze."
        return {
            "status": "approved" if yes else "rejected",
            "resolved_at": self.at,
            "resolved_by": self.unit.pick(self.unit.people),
            "resolution_notes": notes,
        }

    def _event(self, kind: str, node: str | None, **data: Any) -> None:
        self.at, self.sequence = self.unit.later(self.at, 0.05, 1), self.sequence + 1
        self.unit.add(
            "stream_events",
            NewStreamEvent,
            self.at,
            stream_id=self.stream,
            node_id=node,
            data={"type": kind, **data},
            extra={"sequence": self.sequence},
        )
