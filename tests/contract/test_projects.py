"""Projects: files, tickets, tasks and comments."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from agent_storage import Conflict, InvalidValue, MissingReference, NotFound, Retryable
from agent_storage.types import NewConversation, NewProject, NewProjectFile, NewTicket, NewTicketComment, NewTicketTask


async def project(face: Any, path: str = "/srv/app") -> Any:
    return await face.projects.create(NewProject(name="App", path=path))


async def ticket(face: Any, **fields: Any) -> Any:
    owner = fields.pop("project_id", None) or (await project(face)).id
    return await face.tickets.create(NewTicket(project_id=owner, title="Fix", **fields))


async def tasks(face: Any, ticket_id: Any, contents: str) -> list[Any]:
    return list(await face.ticket_tasks.create_many([NewTicketTask(ticket_id=ticket_id, content=c) for c in contents]))


async def test_a_conversation_keeps_its_words_when_its_project_goes(face: Any) -> None:
    owner = await project(face)
    talk = await face.conversations.create(NewConversation(project_id=owner.id))
    with pytest.raises(MissingReference, match=r"conversations\.project_id"):
        await face.conversations.create(NewConversation(project_id=uuid4()))
    await face.projects.delete(owner.id)
    assert (await face.conversations.require(talk.id)).project_id is None


async def test_tickets_come_with_their_tasks_in_order_archived_ones_aside(face: Any) -> None:
    owner = await project(face)
    first = await ticket(face, project_id=owner.id, labels=["bug", "ui"], priority=3)
    second = await ticket(face, project_id=owner.id)
    gone = await ticket(face, project_id=owner.id)
    await face.tickets.archive(gone.id)
    made = await tasks(face, first.id, "ab")
    exact = await face.ticket_tasks.create(
        NewTicketTask(ticket_id=first.id, content="c\x00", estimated_hours=Decimal("1.25"), depends_on=[made[0].id])
    )
    found = await face.tickets.with_tasks(owner.id)
    assert [item.id for item in found] == [second.id, first.id]
    assert found[1].tasks == [*made, exact]
    assert found[0].tasks == []


async def test_archived_tickets_are_in_no_list_until_they_are_restored(face: Any) -> None:
    kept, gone = (
        await ticket(face, project_id=(owner := await project(face)).id),
        await ticket(face, project_id=owner.id, labels=["x"]),
    )
    archived = await face.tickets.archive(gone.id)
    assert await face.tickets.archive(gone.id) == archived.model_copy(
        update={"updated_at": (await face.tickets.require(gone.id)).updated_at}
    )
    assert list(await face.tickets.find()) == [kept]
    assert (await face.tickets.page()).items == [kept]
    assert await face.tickets.count() == 1
    assert await face.tickets.count({"labels__contains": ["x"]}) == 0
    assert await face.tickets.count({"archived_at__is_null": False}) == 1
    assert (await face.tickets.require(gone.id)).archived_at is not None
    restored = await face.tickets.restore(gone.id)
    assert restored.archived_at is None
    assert await face.tickets.count() == 2
    with pytest.raises(NotFound):
        await face.tickets.archive(uuid4())


async def test_overview_counts_tickets_by_status_and_says_when_one_changed(face: Any) -> None:
    busy, idle = await project(face, "/a"), await project(face, "/b")
    for status in ("open", "open", "done"):
        last = await ticket(face, project_id=busy.id, status=status)
    archived = await ticket(face, project_id=busy.id, status="open")
    await face.tickets.archive(archived.id)
    newest, oldest = await face.projects.overview()
    assert (newest.id, newest.open_tickets, newest.last_activity_at) == (idle.id, 0, idle.updated_at)
    counted = (oldest.open_tickets, oldest.in_progress_tickets, oldest.done_tickets, oldest.closed_tickets)
    assert (oldest.id, counted, oldest.last_activity_at) == (busy.id, (2, 0, 1, 0), last.updated_at)
    assert len(await face.projects.overview(limit=1)) == 1


async def test_reorder_is_one_statement_and_wants_exactly_the_tasks_of_the_ticket(face: Any) -> None:
    owner = await ticket(face)
    other = await ticket(face, project_id=owner.project_id)
    a, b, c = await tasks(face, owner.id, "abc")
    (foreign,) = await tasks(face, other.id, "x")
    moved = await face.ticket_tasks.reorder(owner.id, [c.id, a.id, b.id])
    assert [(item.content, item.position) for item in moved] == [("c", 1), ("a", 2), ("b", 3)]
    for wrong in ([], [a.id], [a.id, b.id, c.id, foreign.id], [a.id, a.id, b.id], [a.id, b.id, foreign.id]):
        with pytest.raises(InvalidValue, match="not exactly the tasks"):
            await face.ticket_tasks.reorder(owner.id, wrong)
    assert await face.ticket_tasks.by_ticket(owner.id) == moved


async def test_tasks_added_and_reordered_at_once_keep_distinct_positions(storage: Any) -> None:
    owner = await ticket(storage)
    await tasks(storage, owner.id, "abcdef")

    async def reorder() -> None:
        for _ in range(10):
            ids = [item.id for item in await storage.ticket_tasks.by_ticket(owner.id)]
            try:
                await storage.ticket_tasks.reorder(owner.id, ids[::-1])
            except (InvalidValue, Conflict, Retryable):
                continue  # one was added since the list was read

    async def add() -> None:
        for _ in range(10):
            await tasks(storage, owner.id, "x")

    await asyncio.gather(*(reorder() for _ in range(3)), *(add() for _ in range(5)))
    positions = [item.position for item in await storage.ticket_tasks.by_ticket(owner.id)]
    assert positions == list(range(1, 57))


async def test_comments_of_a_ticket_come_newest_first(face: Any) -> None:
    owner = await ticket(face)
    made = [
        await face.ticket_comments.create(NewTicketComment(ticket_id=owner.id, author="ada", body=body))
        for body in ("one", "two")
    ]
    assert await face.ticket_comments.by_ticket(owner.id) == made[::-1]


def files(owner: Any, names: dict[str, str], **fields: Any) -> list[NewProjectFile]:
    return [NewProjectFile(project_id=owner.id, path=path, checksum=sum_, **fields) for path, sum_ in names.items()]


async def test_sync_adds_changes_deletes_and_leaves_the_rest_as_it_is(face: Any) -> None:
    owner, other = await project(face), await project(face, "/other")
    await face.project_files.sync(other.id, files(other, {"a": "1"}))
    first = await face.project_files.sync(owner.id, files(owner, {"a": "1", "b": "1", "c": "1"}))
    assert (first.added, first.changed, first.deleted, first.unchanged) == (3, 0, 0, 0)
    (kept,) = await face.project_files.find({"project_id": owner.id, "path": "a"})
    kept = await face.project_files.update(kept.id, summary="what it does")
    second = await face.project_files.sync(owner.id, files(owner, {"a": "1", "b": "2", "d": "1"}, content="new"))
    assert (second.added, second.changed, second.deleted, second.unchanged) == (1, 1, 1, 1)
    stored = {item.path: item for item in await face.project_files.find({"project_id": owner.id})}
    assert set(stored) == {"a", "b", "d"}
    assert stored["a"] == kept
    assert stored["b"].content == "new"
    assert await face.project_files.count({"project_id": other.id}) == 1


async def test_sync_refuses_what_would_be_half_done(face: Any) -> None:
    owner, other = await project(face), await project(face, "/other")
    await face.project_files.sync(owner.id, files(owner, {"a": "1"}))
    with pytest.raises(InvalidValue, match="path is given twice"):
        await face.project_files.sync(owner.id, files(owner, {"b": "1"}) * 2)
    with pytest.raises(InvalidValue, match="another project"):
        await face.project_files.sync(owner.id, files(other, {"b": "1"}))
    with pytest.raises(NotFound, match="projects has no row"):
        await face.project_files.sync(uuid4(), [])
    assert [item.path for item in await face.project_files.find()] == ["a"]
    assert (await face.project_files.sync(owner.id, [])).deleted == 1


async def test_10000_files_are_synced_and_syncs_at_once_take_turns(storage: Any) -> None:
    owner = await project(storage)
    many = files(owner, {f"src/module_{n}.py": str(n) for n in range(10_000)})
    assert (await storage.project_files.sync(owner.id, many)).added == 10_000
    halves = [many[:6000], many[4000:]]
    await asyncio.gather(*(storage.project_files.sync(owner.id, half) for half in halves))
    async with storage.project_files.stream() as rows:
        stored = {item.path async for item in rows}
    assert stored in [{item.path for item in half} for half in halves]
