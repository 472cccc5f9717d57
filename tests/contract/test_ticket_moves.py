"""A ticket's task can be moved to another ticket, where it becomes the last."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from agent_storage import AlreadyExists, MissingReference
from agent_storage.types import NewProject, NewTicket, NewTicketTask


async def tickets(face: Any, number: int) -> list[Any]:
    owner = await face.projects.create(NewProject(name="App", path="/srv/app"))
    return [await face.tickets.create(NewTicket(project_id=owner.id, title="Fix")) for _ in range(number)]


async def tasks(face: Any, ticket: Any, contents: str) -> list[Any]:
    return list(await face.ticket_tasks.create_many([NewTicketTask(ticket_id=ticket.id, content=c) for c in contents]))


async def places(face: Any, ticket: Any) -> list[tuple[str, int]]:
    return [(task.content, task.position) for task in await face.ticket_tasks.by_ticket(ticket.id)]


async def test_a_moved_task_becomes_the_last_of_the_other_ticket(face: Any, migrated: str) -> None:
    here, there = await tickets(face, 2)
    a, b, c = await tasks(face, here, "abc")
    await tasks(face, there, "xy")
    moved = await face.ticket_tasks.update(a.id, ticket_id=there.id, done=True)
    assert (moved.ticket_id, moved.position, moved.done) == (there.id, 3, True)
    assert await face.ticket_tasks.update_many([b.id, c.id], {"ticket_id": there.id}) == 2
    assert [position for _, position in await places(face, there)] == [1, 2, 3, 4, 5]
    assert await places(face, here) == []
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("UPDATE ticket_tasks SET ticket_id = %s", [here.id])
    assert [position for _, position in await places(face, here)] == [1, 2, 3, 4, 5]
    kept = await face.ticket_tasks.update(a.id, ticket_id=here.id)  # the same ticket: the same place
    assert kept.position == (await face.ticket_tasks.require(a.id)).position
    (new,) = await tasks(face, here, "z")
    assert new.position == 6
    with pytest.raises(MissingReference):
        await face.ticket_tasks.update(a.id, ticket_id=uuid4())


async def test_a_moved_task_takes_the_position_that_it_is_given(face: Any) -> None:
    here, there = await tickets(face, 2)
    a, b = await tasks(face, here, "ab")
    await tasks(face, there, "x")
    moved = await face.ticket_tasks.update(b.id, ticket_id=there.id, position=7)
    assert (moved.ticket_id, moved.position) == (there.id, 7)
    await face.ticket_tasks.update(a.id, position=5)
    with pytest.raises(AlreadyExists):
        await face.ticket_tasks.update(a.id, ticket_id=there.id, position=1)
    assert await places(face, here) == [("a", 5)]


async def test_a_hundred_moves_and_new_tasks_at_once_keep_distinct_positions(storage: Any) -> None:
    here, there, away = await tickets(storage, 3)
    moving = [*await tasks(storage, here, "a" * 50), *await tasks(storage, there, "b" * 50)]

    async def move(task: Any) -> None:
        for ticket in (away, here, there, away):
            await storage.ticket_tasks.update(task.id, ticket_id=ticket.id)

    await asyncio.gather(*map(move, moving), *(tasks(storage, away, "c") for _ in range(20)))
    positions = [position for _, position in await places(storage, away)]
    assert len(positions) == len({*positions}) == 100 or len(await storage.ticket_tasks.find(limit=500)) == 120
