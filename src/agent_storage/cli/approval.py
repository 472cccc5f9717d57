"""`storage approval`: what runs ask people, and the answers."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_storage.cli.context import AsJson, Db, Group, Limit, opened
from agent_storage.cli.show import emit, line, listing, short_ids, state, when

if TYPE_CHECKING:
    from agent_storage.types import ApprovalRequest

app = typer.Typer(
    name="approval",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    help="Approval requests of runs, and their decisions.",
)
Id = Annotated[str, typer.Argument(metavar="ID", help="A request's id, or the first digits of it.")]
By = Annotated[str | None, typer.Option(help="The decider; default: the user of the system.", show_default=False)]


@app.command("list")
def list_(
    status: Annotated[str, typer.Option(help="pending, approved, rejected, expired or all.")] = "pending",
    kind: Annotated[str | None, typer.Option("--type", help="human_review, budget_increase or workflow_call.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """The requests that wait for a decision, oldest first; decided ones newest first.

    Examples: `storage approval list`, `storage approval list --status all`
    """
    where = {name: value for name, value in (("status", status), ("type", kind)) if value not in (None, "all")}
    with opened(db) as storage:
        found = list(storage.approval_requests.find(where, "id" if status == "pending" else "-id", limit))
    if as_json:
        emit({"approvals": found})
    elif not found:
        hint = "; `storage seed demo` makes some" if status in ("pending", "all") else ""
        line(f"no {'' if status == 'all' else status + ' '}approval requests{hint}")
    else:
        _table(found, pending=status == "pending")


def _table(found: list[ApprovalRequest], *, pending: bool) -> None:
    short = short_ids(item.id for item in found)
    runs = short_ids(item.session_id for item in found)
    if pending:
        rows = [(short[i.id], when(i.created_at), i.type, runs[i.session_id], _question(i)) for i in found]
        listing({"ID": "", "ASKED": "", "TYPE": "", "RUN": "", "QUESTION": "wide"}, rows)
        line("next: storage approval approve ID · storage workflow show RUN", "dim")
        return
    rows = [(short[i.id], when(i.created_at), state(i.status), i.resolved_by or "–", _question(i)) for i in found]
    listing({"ID": "", "ASKED": "", "STATUS": "", "BY": "", "QUESTION": "wide"}, rows)


def _question(request: ApprovalRequest) -> str:
    return str(request.context.get("question") or request.context or request.node_id)


@app.command()
def approve(
    id: Id,
    by: By = None,
    notes: Annotated[str | None, typer.Option(help="Notes to store with the decision.", show_default=False)] = None,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """Say yes; the run that waits goes on.

    Example: `storage approval approve 019f7a3e --notes 'after the freeze'`
    """
    with opened(db) as storage:
        request = storage.approval_requests.resolve(id)
        _report(storage.approval_requests.approve(request.id, by or _user(), notes), as_json=as_json)


@app.command()
def reject(
    id: Id,
    by: By = None,
    reason: Annotated[str | None, typer.Option(help="Why not.", show_default=False)] = None,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """Say no.

    Example: `storage approval reject 019f7a3e --reason 'too expensive'`
    """
    with opened(db) as storage:
        request = storage.approval_requests.resolve(id)
        _report(storage.approval_requests.reject(request.id, by or _user(), reason), as_json=as_json)


def _report(request: ApprovalRequest, *, as_json: bool) -> None:
    if as_json:
        emit({"approval": request})
        return
    notes = f": {request.resolution_notes}" if request.resolution_notes else ""
    line(f"{request.status} {request.id} by {request.resolved_by} at {when(request.resolved_at)}{notes}")


def _user() -> str:
    """The user of the system, as far as it has a name."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise typer.BadParameter("the user of the system has no name; give one", param_hint="--by") from None
