"""Owners: kept with the row, inherited by forks, spawns and runs, and a filter of every list."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from agent_storage import InvalidValue, sync
from agent_storage.types import (
    NewBoard,
    NewCheckpoint,
    NewConversation,
    NewProject,
    NewSession,
    NewTicket,
    NewWorkflow,
    NewWorkflowSession,
    SessionData,
)

NEW: dict[str, Any] = {
    "conversations": lambda **fields: NewConversation(**fields),
    "projects": lambda **fields: NewProject(name="p", path=f"/{uuid4()}", **fields),
    "sessions": lambda **fields: NewSession(agent="a", **fields),
    "workflows": lambda **fields: NewWorkflow(name="w", definition={}, **fields),
    "workflow_sessions": lambda **fields: NewWorkflowSession(workflow_snapshot={}, **fields),
    "checkpoints": lambda **fields: NewCheckpoint(agent_id="a", state={}, **fields),
}
START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize("table", NEW)
async def test_an_owner_is_kept_changed_and_found(face: Any, table: str) -> None:
    rows, new = getattr(face, table), NEW[table]
    anns, bobs, nobodys = await rows.create_many([new(owner="ann"), new(owner="bøb 友"), new()])
    assert (anns.owner, bobs.owner, nobodys.owner) == ("ann", "bøb 友", None)
    assert await rows.find({"owner": "ann"}) == [anns]
    assert list(await rows.page({"owner__in": ["ann", "bøb 友"]}, "id")) == [anns, bobs]
    assert await rows.find({"owner__is_null": True}) == await rows.find({"owner": None}) == [nobodys]
    assert await rows.count({"owner": "bøb 友"}) == 1
    given_away = await rows.update(anns.id, owner="bøb 友")
    assert given_away.owner == "bøb 友" and await rows.count({"owner": "bøb 友"}) == 2
    assert (await rows.update(anns.id, owner=None)).owner is None
    assert await rows.update_many([anns.id, nobodys.id], {"owner": "cy"}) == 2
    assert await rows.count({"owner": "cy"}) == 2
    assert (await rows.create(new(owner="x" * 500))).owner == "x" * 500


@pytest.mark.parametrize("table", NEW)
def test_an_owner_has_1_to_500_characters_also_in_raw_sql(
    sync_storage: sync.Storage, migrated: str, table: str
) -> None:
    rows, new = getattr(sync_storage, table), NEW[table]
    row = rows.create(new(owner="ann"))
    for wrong in ("", "x" * 501, "a\x00b", "\ud800", 7):
        with pytest.raises(InvalidValue, match="owner"):
            new(owner=wrong)
        with pytest.raises(InvalidValue, match=f"{table}.owner"):
            rows.update(row.id, owner=wrong)
    with psycopg.connect(migrated, autocommit=True) as connection:
        for wrong in ("", "x" * 501):
            with pytest.raises(psycopg.errors.CheckViolation, match=f"{table}_owner_check"):
                connection.execute(f"UPDATE {table} SET owner = %s", [wrong])  # pyright: ignore


# ---- inherited -------------------------------------------------------------------------------------------------------


async def test_forks_spawns_and_runs_inherit_the_owner(face: Any) -> None:
    for owner in ("ann", None):
        talk = await face.conversations.create(NewConversation(owner=owner))
        await face.messages.append(talk.id, "user", "Hello")
        assert (await face.conversations.fork(talk.id)).owner == owner
        session = await face.sessions.create(NewSession(agent="a", owner=owner))
        child = await face.sessions.spawn(session.id, data=SessionData(title="part"))
        assert child.owner == owner
        assert (await face.sessions.fork(child.id)).owner == owner
        workflow = await face.workflows.create(NewWorkflow(name="w", definition={}, owner=owner))
        assert (await face.workflow_sessions.create_from(workflow.id)).owner == owner
        assert (await face.workflow_sessions.create_from(workflow.id, owner="bob")).owner == "bob"
    with pytest.raises(InvalidValue, match="owner"):
        await face.workflow_sessions.create_from(workflow.id, owner="")


async def test_spawns_of_a_session_that_changes_hands_have_its_old_or_its_new_owner(storage: Any) -> None:
    session = await storage.sessions.create(NewSession(agent="a", owner="ann"))

    async def give(number: int) -> None:
        await storage.sessions.update(session.id, owner=f"owner {number}")

    await asyncio.gather(
        *(storage.sessions.spawn(session.id) for _ in range(50)), *(give(number) for number in range(20))
    )
    owners = {child.owner for child in await storage.sessions.children(session.id)}
    assert owners <= {"ann", *(f"owner {number}" for number in range(20))}


# ---- lists -----------------------------------------------------------------------------------------------------------


async def test_the_lists_of_sessions_take_an_owner(face: Any) -> None:
    board = await face.boards.create(NewBoard(name="b", slug="b"))
    root = await face.sessions.create(NewSession(agent="a", owner="ann", board_id=board.id))
    anns = await face.sessions.spawn(root.id)
    bobs = await face.sessions.update((await face.sessions.spawn(anns.id)).id, owner="bob")
    bobs_root = await face.sessions.create(NewSession(agent="a", owner="bob", board_id=board.id))
    leaf = await face.sessions.update((await face.sessions.fork(bobs.id)).id, owner="ann")
    sessions = face.sessions
    assert await sessions.by_status("idle", owner="ann") == [leaf, anns, root]
    assert await sessions.by_status("idle", 1, owner="ann") == [leaf]
    assert (await sessions.by_status("idle", 1, owner="ann")).more
    assert not (await sessions.by_status("idle", 3, owner="ann")).more
    assert await sessions.by_status("idle") == [leaf, bobs_root, bobs, anns, root]
    assert await sessions.by_status("running", owner="ann") == []
    assert await sessions.by_board(board.id, owner="bob") == [bobs_root, bobs]
    assert await sessions.roots(owner="bob") == [bobs_root]
    assert await sessions.children(anns.id, owner="ann") == []
    assert await sessions.children(anns.id, owner="bob") == [bobs]
    assert await sessions.descendants(root.id, owner="ann") == [anns, leaf]
    assert await sessions.ancestors(leaf.id, owner="ann") == [anns, root]
    assert await sessions.roots(owner="nobody") == []


async def test_the_lists_of_conversations_projects_and_runs_take_an_owner(face: Any) -> None:
    project = await face.projects.create(NewProject(name="p", path="/a", owner="ann"))
    other = await face.projects.create(NewProject(name="q", path="/b", owner="bob"))
    await face.tickets.create(NewTicket(project_id=project.id, title="t"))
    assert [(one.id, one.open_tickets) for one in await face.projects.overview(owner="ann")] == [(project.id, 1)]
    assert [one.id for one in await face.projects.overview()] == [other.id, project.id]
    assert (await face.projects.overview(1)).more and not (await face.projects.overview(1, owner="bob")).more

    talks = [
        await face.conversations.create(NewConversation(owner=owner, project_id=where))
        for owner, where in (("ann", project.id), ("ann", None), ("bob", project.id), (None, None))
    ]
    await face.conversations.archive(talks[1].id)
    assert [one.id for one in await face.conversations.recent(owner="ann")] == [talks[0].id]
    assert [one.id for one in await face.conversations.recent(owner="ann", archived=True)] == [talks[1].id]
    assert [one.id for one in await face.conversations.recent(owner="bob", project_id=project.id)] == [talks[2].id]
    assert len(await face.conversations.recent()) == 3

    workflow = await face.workflows.create(NewWorkflow(name="w", definition={}, owner="ann"))
    shared = await face.workflows.create(NewWorkflow(name="w", definition={}))
    anns, bobs = [await face.workflow_sessions.create_from(workflow.id, owner=owner) for owner in ("ann", "bob")]
    assert await face.workflows.by_name("w", owner="ann") == [workflow]
    assert await face.workflows.by_name("w") == [shared, workflow]
    assert await face.workflow_sessions.by_workflow(workflow.id, owner="ann") == [anns]
    assert await face.workflow_sessions.by_workflow(workflow.id) == [bobs, anns]
    assert await face.workflow_sessions.by_status("running", owner="bob") == [bobs]
    assert await face.workflow_sessions.by_status("paused", owner="bob") == []


async def test_checkpoints_of_an_owner_are_listed_and_pruned_apart(face: Any) -> None:
    """Two people may use one agent: neither sees, counts against, or prunes the checkpoints of the other."""
    await face.checkpoints.create_many(
        [
            NewCheckpoint(
                agent_id="bot", owner=owner, name="n" if hour == 1 else None, state=hour, captured_at=at(hour)
            )
            for owner, hours in (("ann", (1, 2, 3)), ("bob", (7, 8, 9)), (None, (4, 5)))
            for hour in hours
        ]
    )
    assert (await face.checkpoints.latest("bot")).state == 9
    assert (await face.checkpoints.latest("bot", owner="ann")).state == 3
    assert (await face.checkpoints.latest("bot", "n", owner="ann")).state == 1
    assert await face.checkpoints.latest("bot", "n", owner="bob") is None
    assert await face.checkpoints.latest("other", owner="ann") is None
    assert [one.captured_at.hour for one in await face.checkpoints.by_agent("bot", owner="ann")] == [3, 2, 1]
    page = await face.checkpoints.summaries(owner="bob", limit=2, total=True)
    assert ([one.captured_at.hour for one in page], page.total) == ([9, 8], 3)
    assert [one.owner for one in await face.checkpoints.summaries(owner="bob", cursor=page.next_cursor)] == ["bob"]

    assert (await face.checkpoints.prune(max_per_agent=2, owner="bob")).checkpoints == 1
    assert await left(face) == {"ann": [1, 2, 3], "bob": [8, 9], None: [4, 5]}
    assert (await face.checkpoints.prune(timedelta(days=1), owner="ann")).checkpoints == 2
    assert await left(face) == {"ann": [3], "bob": [8, 9], None: [4, 5]}
    assert (await face.checkpoints.prune(timedelta(days=1), 0)).checkpoints == 2
    assert await left(face) == {"ann": [3], "bob": [9], None: [5]}


def at(hour: int) -> datetime:
    return START + timedelta(hours=hour)


async def left(face: Any) -> dict[str | None, list[int]]:
    found: dict[str | None, list[int]] = {}
    for one in await face.checkpoints.summaries(order_by="captured_at"):
        found.setdefault(one.owner, []).append(one.captured_at.hour)
    return found
