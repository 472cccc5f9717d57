"""`storage session`: the sessions of coding agents and their genealogy."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from agent_storage.cli.context import AsJson, Db, Limit, Owner, group, opened, taught
from agent_storage.cli.show import branches, cell, emit, facts, line, listing, short_ids, state, when
from agent_storage.statements.lists import given
from agent_storage.types import SessionStatus

if TYPE_CHECKING:
    from agent_storage.types import Session, Task

app = group("session", "List the sessions of coding agents, show one, draw the tree of spawns and forks.")
Id = Annotated[str, typer.Argument(metavar="ID", help="A session's id, or its first digits.")]


@app.command("list", epilog=taught("storage session list", "storage session list --status running --agent codex"))
def list_(
    status: Annotated[SessionStatus | None, typer.Option(help="Only those of this status.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only this agent's, such as claude-code.")] = None,
    owner: Owner = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """List the newest sessions."""
    where = given(status=status, agent=agent, owner=owner)
    with opened(db) as storage:
        found = list(storage.sessions.find(where, "-id", limit))
    if as_json:
        emit({"sessions": found})
    elif not found:
        line("no session matches" if where else "no sessions yet; `storage seed demo` makes some")
    else:
        _table(found)


def _table(found: list[Session], title: str | None = None) -> None:
    short = short_ids(session.id for session in found)
    columns = {"ID": "", "STATUS": "", "AGENT": "", "BEGUN": "", "TITLE": "wide"}
    rows = [
        (short[item.id], state(item.status), item.agent, when(item.created_at), _mark(item) + _title(item))
        for item in found
    ]
    listing(columns, rows, title)


def _mark(session: Session) -> str:
    return "↳ " if session.parent_session_id else "⑂ " if session.forked_from_session_id else ""


def _title(session: Session) -> str:
    return session.data.title or "untitled"


@app.command(epilog=taught("storage session show 019f7a3e", codes=(0, 1, 2, 8, 130)))
def show(id: Id, limit: Limit = 20, as_json: AsJson = False, db: Db = None) -> None:
    """Show a session, its origin, and its newest tasks."""
    with opened(db) as storage:
        session = storage.sessions.resolve(id)
        above, below = storage.sessions.ancestors(session.id), storage.sessions.children(session.id)
        tasks = list(storage.tasks.find({"session_id": session.id}, "-id", limit))[::-1]
    if as_json:
        emit({"session": session, "ancestors": above, "children": below, "tasks": tasks})
        return
    _facts(session, above)
    if tasks:
        _tasks(tasks)
    if below:
        _table(below, "came from it")


def _facts(session: Session, above: list[Session]) -> None:
    short, git = short_ids(item.id for item in above), session.data.git_state
    named = {item.id: f"{_title(item)} ({short[item.id]})" for item in above}
    parent, origin = session.parent_session_id, session.forked_from_session_id
    facts(
        {
            "session": session.id,
            "title": _title(session),
            "status": state(session.status),
            "agent": session.agent,
            "owner": session.owner,
            "begun": when(session.created_at),
            "code": " ".join(part[:12] for part in (git.ref, git.current_sha) if part),
            "spawned by": parent and named.get(parent),
            "forked from": origin and named.get(origin),
            "before": ", ".join(name for id_, name in named.items() if id_ not in (parent, origin)),
            "used": f"{session.data.tool_use_count} tool calls, {session.data.message_count} messages",
        }
    )


def _tasks(tasks: list[Task]) -> None:
    columns = {"TASK": "", "STATUS": "", "BEGUN": "", "PROMPT": "wide"}
    short = short_ids(task.id for task in tasks)
    listing(
        columns,
        [(short[t.id], state(t.status), when(t.created_at), t.data.description or t.data.full_prompt) for t in tasks],
    )


@app.command(
    epilog=taught("storage session tree", "storage session tree 019f7a3e", "storage session tree --limit 3 --json")
)
def tree(
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="A session; default: the newest roots.")] = None,
    owner: Annotated[str | None, typer.Option(metavar="NAME", help="Only the roots of this owner.")] = None,
    limit: Limit = 10,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """Draw the tree of spawned (↳) and forked (⑂) sessions below one session or the newest roots."""
    from agent_storage.cli.queries import SessionForest

    with opened(db) as storage:
        roots = [storage.sessions.resolve(id)] if id else storage.sessions.roots(limit, owner=owner)
        found = SessionForest(storage.database).with_descendants([root.id for root in roots])
    below = _children(found, {root.id for root in roots})
    if as_json:
        emit({"sessions": [_node(root, below) for root in roots]})
    elif not roots:
        line("no session matches" if owner else "no sessions yet; `storage seed demo` makes some")
    else:
        _show_tree(roots, below)


def _children(found: list[Session], roots: set[UUID]) -> dict[UUID, list[Session]]:
    """Return children by the session that they came from. Each child is at one place."""
    below: defaultdict[UUID, list[Session]] = defaultdict(list)
    known = {session.id for session in found}
    for session in found:
        origins = (session.parent_session_id, session.forked_from_session_id)
        origin = next((item for item in origins if item in known), None)
        if origin is not None and session.id not in roots:
            below[origin].append(session)
    return below


def _node(root: Session, below: dict[UUID, list[Session]]) -> dict[str, Any]:
    """A session as JSON with its children inside; made from the leaves on, however deep the tree is."""
    order = [session for _, session in branches([root], below)]
    made: dict[UUID, dict[str, Any]] = {}
    for session in reversed(order):
        children = [made.pop(child.id) for child in below.get(session.id, ())]
        made[session.id] = {**session.model_dump(mode="json"), "children": children}
    return made[root.id]


def _show_tree(roots: list[Session], below: dict[UUID, list[Session]]) -> None:
    nodes = list(branches(roots, below))
    short = short_ids(session.id for _, session in nodes)
    rows = [
        (
            short[item.id],
            state(item.status),
            item.agent,
            cell(None).append(lead).append(_mark(item)).append(cell(_title(item))),
        )
        for lead, item in nodes
    ]
    listing({"ID": "", "STATUS": "", "AGENT": "", "SESSION": "wide"}, rows)
    line("↳ spawned  ⑂ forked", "dim")
