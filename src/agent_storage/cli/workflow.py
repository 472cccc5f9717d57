"""`storage workflow`: workflows and their runs."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from agent_storage.cli.context import AsJson, Db, Limit, group, opened, taught
from agent_storage.cli.show import cell, emit, facts, line, listing, short_ids, state, when
from agent_storage.types import RunStatus

if TYPE_CHECKING:
    from agent_storage.sync import Storage
    from agent_storage.types import (
        ApprovalRequest,
        ExecutionStateWithNodes,
        ModelUsage,
        NodeExecutionState,
        Workflow,
        WorkflowSession,
    )

app = group("workflow", "List workflows and their runs, show one; pause, resume, retry.")
RunId = Annotated[str, typer.Argument(metavar="ID", help="A run's id, or its first digits.")]


@app.command("list", epilog=taught("storage workflow list", "storage workflow list --status failed"))
def list_(
    name: Annotated[str | None, typer.Option(help="Only the workflows of this name.")] = None,
    status: Annotated[RunStatus | None, typer.Option(help="Only those whose newest run has this status.")] = None,
    owner: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only those with runs of this owner; other runs do not count.")
    ] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """List the newest workflows: number of runs, status of the newest run."""
    from agent_storage.cli.queries import WorkflowSummaries

    with opened(db) as storage:
        found = WorkflowSummaries(storage.database).summaries(name, status, owner, limit)
    if as_json:
        emit({"workflows": found})
        return
    if not found:
        line("no workflow matches" if name or status or owner else "no workflows yet; `storage seed demo` makes some")
        return
    short = short_ids(item.id for item in found)
    columns = {"ID": "", "RUNS": "right", "NEWEST RUN": "", "STATUS": "", "VER": "right", "NAME": "wide"}
    listing(
        columns,
        [
            (short[i.id], i.runs, when(i.newest_at), state(i.newest_status or "never ran"), i.version, i.name)
            for i in found
        ],
    )


@app.command(epilog=taught("storage workflow show 019f7a3e"))
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of a workflow or of a run, or its first digits.")],
    owner: Annotated[str | None, typer.Option(metavar="NAME", help="Only the runs of this owner.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """Show a workflow with its newest runs, or a run with its nodes, usage and approvals."""
    from agent_storage.errors import NotFound

    with opened(db) as storage:
        try:
            workflow = storage.workflows.resolve(id)
        except NotFound:
            run = _Run.read(storage, _run(storage, id))
            emit(vars(run)) if as_json else run.show()
            return
        runs = storage.workflow_sessions.by_workflow(workflow.id, limit, owner=owner)
    if as_json:
        emit({"workflow": workflow, "runs": runs})
    else:
        _show_workflow(workflow, runs)


@app.command(epilog=taught("storage workflow pause 019f7a3e"))
def pause(id: RunId, as_json: AsJson = False, db: Db = None) -> None:
    """Pause a running or waiting run."""
    with opened(db) as storage:
        _report(storage.workflow_sessions.pause(storage.workflow_sessions.resolve(id).id), as_json=as_json)


@app.command(epilog=taught("storage workflow resume 019f7a3e"))
def resume(id: RunId, as_json: AsJson = False, db: Db = None) -> None:
    """Let a paused run go on. A run with pending approval requests waits for them."""
    with opened(db) as storage:
        _report(storage.workflow_sessions.resume(storage.workflow_sessions.resolve(id).id), as_json=as_json)


@app.command(epilog=taught("storage workflow retry 019f7a3e plan"))
def retry(
    id: RunId,
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node's id in the workflow.")],
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """Set a failed node pending again. A failed run continues."""
    with opened(db) as storage:
        state = storage.node_execution_states.retry(storage.workflow_sessions.resolve(id).id, node)
    if as_json:
        emit({"node": state})
    else:
        line(f"{state.status} {state.node_id} of run {state.session_id}, retry {state.retry_count}")


def _report(run: WorkflowSession, *, as_json: bool) -> None:
    if as_json:
        emit({"run": run})
    else:
        line(f"{run.status} {run.id}")


def _run(storage: Storage, id_: str) -> WorkflowSession:
    from agent_storage.errors import NotFound

    try:
        return storage.workflow_sessions.resolve(id_)
    except NotFound:
        raise NotFound(f"neither a workflow nor a run has an id that begins with {id_}") from None


def _show_workflow(workflow: Workflow, runs: list[WorkflowSession]) -> None:
    nodes = " → ".join(f"{name} ({kind})" if kind else name for name, kind in _nodes(workflow.definition))
    facts({"workflow": workflow.id, "name": workflow.name, "version": workflow.version, "nodes": nodes})
    if not runs:
        line("it never ran; workflow_sessions.create_from() begins a run")
        return
    short = short_ids(run.id for run in runs)
    columns = {"RUN": "", "BEGUN": "", "STATUS": "", "OWNER": "wide"}
    listing(
        columns,
        [(short[run.id], when(run.created_at), state(run.status), run.owner) for run in runs],
    )


def _nodes(definition: Any) -> list[tuple[str, str]]:
    """The nodes of a definition as (id, type), as far as it is of the usual form."""
    nodes = cast(Any, definition).get("nodes") if isinstance(definition, dict) else None
    if not isinstance(nodes, list):
        return []
    found = [cast(dict[str, Any], node) for node in cast(list[Any], nodes) if isinstance(node, dict)]
    return [(str(node["id"]), str(node.get("type") or "")) for node in found if "id" in node]


@dataclass
class _Run:
    """A run with its state, usage and approvals."""

    run: WorkflowSession
    workflow: Workflow | None
    state: ExecutionStateWithNodes | None
    usage: ModelUsage
    approvals: list[ApprovalRequest]

    @classmethod
    def read(cls, storage: Storage, run: WorkflowSession) -> _Run:
        """All of it, in four round trips."""
        return cls(
            run,
            storage.workflows.get(run.workflow_id) if run.workflow_id else None,
            storage.execution_states.get_by(session_id=run.id),
            storage.llm_executions.usage(run.id),
            storage.approval_requests.by_session(run.id)[::-1],
        )

    def show(self) -> None:
        """Print it."""
        usage, at = self.usage, self.state
        tokens = f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out, cost {usage.cost:.6f}"
        facts(
            {
                "run": self.run.id,
                "workflow": f"{self.workflow.name}, version {self.workflow.version}" if self.workflow else "deleted",
                "status": state(self.run.status),
                "owner": self.run.owner,
                "begun": when(self.run.created_at),
                "ended": when(at.completed_at) if at else None,
                "current node": at.current_node_id if at else None,
                "budget": at.budget_pool_id if at else None,
                "model calls": f"{usage.calls} ({usage.failures} failed), {tokens}",
            }
        )
        self._show_nodes()
        self._show_approvals()

    def _show_nodes(self) -> None:
        states = {node.node_id: node for node in self.state.nodes} if self.state else {}
        planned = _nodes(self.run.workflow_snapshot)
        names = [*planned, *((name, "") for name in states if name not in dict(planned))]
        rows = [_node_row(name, kind, states.get(name)) for name, kind in names]
        if rows:
            listing({"NODE": "", "TYPE": "", "STATUS": "", "TOOK": "right", "OUTPUT": "wide"}, rows)

    def _show_approvals(self) -> None:
        if not self.approvals:
            return
        short = short_ids(item.id for item in self.approvals)
        columns = {"APPROVAL": "", "STATUS": "", "NODE": "", "DECIDED BY": "", "QUESTION": "wide"}
        listing(
            columns,
            [
                (short[i.id], state(i.status), i.node_id, i.resolved_by or "–", i.context.get("question"))
                for i in self.approvals
            ],
        )


def _node_row(name: str, kind: str, node: NodeExecutionState | None) -> tuple[object, ...]:
    if node is None:
        return name, kind, state("pending"), "", ""
    ended, begun = node.completed_at, node.started_at
    took = f"{(ended - begun).total_seconds():,.1f} s" if ended and begun else ""
    output: Any = node.output
    text = cast(Any, output).get("text", output) if isinstance(output, dict) else output
    return name, kind, state(node.status), took, cell(node.error, "red") if node.error else text
