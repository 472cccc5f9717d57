"""Tasks of tickets: what depends on what, what can be done now, and statistics."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from agent_storage import Conflict, InvalidValue, MissingReference, NotFound, Retryable
from agent_storage.types import NewProject, NewProjectFile, NewTicket, NewTicketComment, NewTicketTask


async def ticket(face: Any, project_id: UUID | None = None, **fields: Any) -> Any:
    if project_id is None:
        project_id = (await face.projects.upsert(NewProject(name="App", path="/srv/app"))).id
    return await face.tickets.create(NewTicket(project_id=project_id, title="Fix", **fields))


async def task(face: Any, ticket_id: UUID, *needed: Any, **fields: Any) -> Any:
    new = NewTicketTask(ticket_id=ticket_id, content="c", depends_on=[one.id for one in needed], **fields)
    return await face.ticket_tasks.create(new)


async def test_a_ticket_comes_with_its_tasks_and_newest_comments(face: Any) -> None:
    owner = await ticket(face)
    made = [await task(face, owner.id, estimated_hours=Decimal("1.25")), await task(face, owner.id)]
    said = [
        await face.ticket_comments.create(NewTicketComment(ticket_id=owner.id, author="ada", body=f"{n}\x00"))
        for n in range(5)
    ]
    archived = await face.tickets.archive(owner.id)
    found = await face.tickets.details(owner.id)
    assert (found.id, found.archived_at, found.tasks) == (owner.id, archived.archived_at, made)
    assert (found.comments, found.comment_count) == (said[::-1], 5)
    found = await face.tickets.details(owner.id, 2)
    assert (found.comments, found.comment_count) == (said[:2:-1], 5)
    alone = await face.tickets.details((await ticket(face)).id)
    assert (alone.tasks, alone.comments, alone.comment_count) == ([], [], 0)
    with pytest.raises(NotFound):
        await face.tickets.details(uuid4())
    with pytest.raises(InvalidValue):
        await face.tickets.details(owner.id, -1)


async def test_available_and_blocked_tasks_follow_what_is_done(face: Any) -> None:
    owner = await ticket(face)
    first = await task(face, owner.id)
    second = await task(face, owner.id, first)
    third = await task(face, owner.id, first, second)
    free = await task(face, owner.id)
    assert await face.ticket_tasks.available(owner.id) == [first, free]
    assert await face.ticket_tasks.blocked(owner.id) == [second, third]
    await face.ticket_tasks.update(first.id, done=True)
    assert await face.ticket_tasks.available(owner.id) == [second, free]
    assert await face.ticket_tasks.blocked(owner.id) == [third]
    assert (await face.ticket_tasks.available(owner.id, 1)).more
    await face.ticket_tasks.delete(second.id)
    left = await face.ticket_tasks.require(third.id)
    assert left.depends_on == [first.id]
    assert await face.ticket_tasks.available(owner.id) == [left, free]
    assert await face.ticket_tasks.blocked(owner.id) == []


async def test_a_task_depends_on_tasks_of_its_ticket_alone(face: Any) -> None:
    owner, other = await ticket(face), await ticket(face)
    mine, foreign = await task(face, owner.id), await task(face, other.id)
    for wrong in (foreign.id, uuid4()):
        with pytest.raises(MissingReference, match=r"ticket_tasks\.depends_on"):
            await face.ticket_tasks.create(NewTicketTask(ticket_id=owner.id, content="x", depends_on=[wrong]))
        with pytest.raises(MissingReference, match=r"ticket_tasks\.depends_on"):
            await face.ticket_tasks.update(mine.id, depends_on=[wrong])
    needing = await task(face, owner.id, mine)
    with pytest.raises(Conflict, match="of another ticket depends on"):
        await face.ticket_tasks.update(mine.id, ticket_id=other.id, position=9)
    with pytest.raises(MissingReference):
        await face.ticket_tasks.update(needing.id, ticket_id=other.id, position=9)
    assert await face.ticket_tasks.count({"ticket_id": owner.id}) == 2


async def test_tasks_do_not_depend_on_themselves_in_any_number_of_steps(face: Any, migrated: str) -> None:
    owner = await ticket(face)
    a = await task(face, owner.id)
    b = await task(face, owner.id, a)
    c = await task(face, owner.id, b)
    for closing in (a, b, c):
        with pytest.raises(Conflict, match="depend on itself"):
            await face.ticket_tasks.update(a.id, depends_on=[closing.id])
    for one, two in ((UUID(int=1), UUID(int=2)), (uuid4(), uuid4())):
        circle = [
            NewTicketTask(id=one, ticket_id=owner.id, content="x", depends_on=[two]),
            NewTicketTask(id=two, ticket_id=owner.id, content="x", depends_on=[one]),
        ]
        with pytest.raises(Conflict, match="ticket_tasks_depends_on_without_cycle"):
            await face.ticket_tasks.create_many(circle)
    with psycopg.connect(migrated) as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute(
            "WITH new AS (INSERT INTO ticket_tasks (id, ticket_id, content, position, depends_on)"
            " VALUES (%s, %s, 'x', 9, %s)) UPDATE ticket_tasks SET depends_on = %s WHERE id = %s",
            (one, owner.id, [c.id], [one], a.id),
        )
    assert caught.value.sqlstate == "AS001"
    assert await face.ticket_tasks.count() == 3


async def test_a_chain_of_300_tasks_is_one_statement_in_any_order_and_goes_with_its_ticket(face: Any) -> None:
    owner = await ticket(face)
    ids = [uuid4() for _ in range(300)]
    news = [
        NewTicketTask(id=id_, ticket_id=owner.id, content="x", depends_on=[above] if above else [])
        for above, id_ in zip([None, *ids[:-1]], ids, strict=True)
    ]
    random.Random(1).shuffle(news)
    made = await face.ticket_tasks.create_many(news)
    assert [row.id for row in made] == [new.id for new in news]
    assert [row.id for row in await face.ticket_tasks.available(owner.id)] == [ids[0]]
    assert await face.ticket_tasks.delete_many(ids[:299]) == 299
    assert (await face.ticket_tasks.require(ids[299])).depends_on == []
    await face.tickets.delete(owner.id)
    assert await face.ticket_tasks.count() == 0


@pytest.mark.parametrize("isolation", [None, "repeatable read", "serializable"])
async def test_two_updates_at_once_cannot_close_a_circle_together(storage: Any, isolation: Any) -> None:
    for _ in range(5):
        owner = await ticket(storage)
        a, b = await task(storage, owner.id), await task(storage, owner.id)
        ready = asyncio.Barrier(2)

        async def need(one: UUID, other: UUID, ready: asyncio.Barrier = ready) -> None:
            async with storage.transaction(isolation) as tx:
                await tx.ticket_tasks.count()  # the snapshot is taken before either changes anything
                await ready.wait()
                await tx.ticket_tasks.update(one, depends_on=[other])

        outcomes = await asyncio.gather(need(a.id, b.id), need(b.id, a.id), return_exceptions=True)
        refused = [outcome for outcome in outcomes if outcome is not None]
        assert refused
        assert all(isinstance(outcome, Conflict | Retryable) for outcome in refused)
        assert [] in [row.depends_on for row in await storage.ticket_tasks.by_ticket(owner.id)]


async def test_no_task_depends_on_one_that_was_deleted_or_moved_meanwhile(storage: Any, migrated: str) -> None:
    owner, other = await ticket(storage), await ticket(storage)
    dice = random.Random(2)
    ids = [(await task(storage, owner.id)).id for _ in range(60)]

    async def one(number: int) -> None:
        needed, id_ = dice.choice(ids), ids[number % 60]
        try:
            if number % 4 == 0:
                await storage.ticket_tasks.create(
                    NewTicketTask(ticket_id=owner.id, content="x", depends_on=dice.sample(ids, 3))
                )
            elif number % 4 == 1:
                await storage.ticket_tasks.update(id_, depends_on=[needed])
            elif number % 4 == 2:
                await storage.ticket_tasks.delete(needed)
            else:
                await storage.ticket_tasks.update(needed, ticket_id=other.id, position=1000 + number)
        except (Conflict, NotFound):
            pass

    await asyncio.gather(*map(one, range(160)))
    stray = """
        SELECT count(*) FROM ticket_tasks t, unnest(t.depends_on) needed (id)
         WHERE NOT EXISTS (SELECT FROM ticket_tasks s WHERE s.id = needed.id AND s.ticket_id = t.ticket_id)
    """
    with psycopg.connect(migrated) as connection:
        assert connection.execute(stray).fetchone() == (0,)


async def test_statistics_count_tasks_and_hours_of_a_ticket_and_of_a_project(face: Any) -> None:
    project = await face.projects.create(NewProject(name="p", path="/p"))
    empty = await face.projects.statistics(project.id)
    assert (empty.tasks, empty.estimated_hours, empty.open_tickets, empty.files) == (0, Decimal(0), 0, 0)
    owner = await ticket(face, project.id, status="in_progress")
    done = await task(face, owner.id, done=True, estimated_hours=Decimal("1.50"))
    waiting = await task(face, owner.id, done, estimated_hours=Decimal("0.25"))
    await task(face, owner.id, waiting)
    closed = await ticket(face, project.id, status="closed")
    await task(face, closed.id, done=True, estimated_hours=Decimal(2))
    gone = await ticket(face, project.id)
    await task(face, gone.id, estimated_hours=Decimal(100))
    await face.tickets.archive(gone.id)
    await face.project_files.create(NewProjectFile(project_id=project.id, path="a"))
    of_ticket = await face.tickets.statistics(owner.id)
    assert of_ticket.model_dump() == {
        "tasks": 3,
        "done_tasks": 1,
        "available_tasks": 1,
        "blocked_tasks": 1,
        "unestimated_tasks": 1,
        "estimated_hours": Decimal("1.75"),
        "done_hours": Decimal("1.50"),
    }
    of_project = await face.projects.statistics(project.id)
    assert of_project.model_dump() == {
        **of_ticket.model_dump(),
        "tasks": 4,
        "done_tasks": 2,
        "estimated_hours": Decimal("3.75"),
        "done_hours": Decimal("3.50"),
        "open_tickets": 0,
        "in_progress_tickets": 1,
        "done_tickets": 0,
        "closed_tickets": 1,
        "archived_tickets": 1,
        "files": 1,
    }
    assert (await face.tickets.statistics((await ticket(face)).id)).tasks == 0
    for wrong in (face.tickets, face.projects):
        with pytest.raises(NotFound):
            await wrong.statistics(uuid4())
