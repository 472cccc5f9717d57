"""`storage approval`: requests for approval and their decisions."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agent_storage.cli.context import AsJson, Db, Limit, group, opened, taught
from agent_storage.cli.show import emit, line, listing, short_ids, state, when
from agent_storage.types import ApprovalStatus, ApprovalType

if TYPE_CHECKING:
    from agent_storage.types import ApprovalRequest

app = group("approval", "List approval requests, approve or reject one.")
Id = Annotated[str, typer.Argument(metavar="ID", help="A request's id, or its first digits.")]
By = Annotated[
    str | None,
    typer.Option(help="The name of the person who decides. Default: the user of the system.", show_default=False),
]


@app.command("list", epilog=taught("storage approval list", "storage approval list --status all --type human_review"))
def list_(
    status: Annotated[Literal[ApprovalStatus, "all"], typer.Option(help="Only those of this status.")] = "pending",
    kind: Annotated[ApprovalType | None, typer.Option("--type", help="Only those of this type.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """List the requests that wait for a decision, oldest first; others newest first."""
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


@app.command(epilog=taught("storage approval approve 019f7a3e --notes 'after the freeze'"))
def approve(
    id: Id,
    by: By = None,
    notes: Annotated[str | None, typer.Option(help="A note to store with the decision.", show_default=False)] = None,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """Approve a request. The waiting run continues. A decided request is refused."""
    with opened(db) as storage:
        request = storage.approval_requests.resolve(id)
        _report(storage.approval_requests.approve(request.id, by or _user(), notes), as_json=as_json)


@app.command(epilog=taught("storage approval reject 019f7a3e --reason 'too expensive'"))
def reject(
    id: Id,
    by: By = None,
    reason: Annotated[
        str | None, typer.Option(help="The reason, stored with the decision.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """Reject a request. The waiting run continues. A decided request is refused."""
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
