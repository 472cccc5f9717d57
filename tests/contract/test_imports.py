"""Imports: rows of every table keep the times that the caller gives, and derived columns follow them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from agent_storage import InvalidValue, Storage, uuid7
from agent_storage.types import (
    NewBoard,
    NewCheckpoint,
    NewConversation,
    NewExecutionState,
    NewMessage,
    NewNodeExecutionState,
    NewProject,
    NewProjectFile,
    NewStreamEvent,
    NewToolResult,
    NewWorkflowSession,
)

from ..rows import Factory, parents_first

OLD = datetime(2020, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
LATER = OLD + timedelta(hours=1)


def times(row: Any) -> tuple[datetime, datetime]:
    return row.created_at, row.updated_at


def test_a_row_of_every_table_keeps_its_times(sync_storage: Any) -> None:
    factory = Factory(sync_storage, seed=9)
    factory.fill(2)
    runs = [factory.new("workflow_sessions", number) for number in range(60)]
    factory.ids["workflow_sessions"] = [row.id for row in sync_storage.workflow_sessions.create_many(runs)]
    for table in parents_first():
        repository = getattr(sync_storage, table)

        def new(number: int, table: str = table, **given: Any) -> Any:
            return factory.new(table, number).model_copy(update={"created_at": None, **given})

        both = {"created_at": OLD, "updated_at": LATER}
        one = repository.create(new(20, **both))
        many = repository.create_many([new(21, **both), new(22), new(23, created_at=OLD), new(24, updated_at=OLD)])
        assert [times(row) for row in (one, many[0])] == [(OLD, LATER)] * 2, table
        assert many[1].created_at == many[1].updated_at > LATER, table
        assert times(many[2]) == (OLD, many[1].updated_at), table
        assert times(many[3]) == (OLD, OLD), table
        assert many[2].id < many[1].id, "an id that is made sorts by the time of its row"
        for wrong in (
            {"created_at": LATER, "updated_at": OLD},
            {"id": uuid7(), "created_at": LATER, "updated_at": OLD},
        ):
            for call in (
                lambda row, own=repository: own.create(row),
                lambda row, own=repository: own.create_many([row]),
            ):
                with pytest.raises(InvalidValue, match=f"{table}.updated_at is before created_at"):
                    call(new(25, **wrong))


def test_a_time_without_a_zone_or_of_another_type_is_refused() -> None:
    for wrong in (datetime(2020, 1, 1), "soon"):  # noqa: DTZ001
        with pytest.raises(InvalidValue):
            NewBoard(name="b", slug="b", created_at=wrong)
    with pytest.raises(InvalidValue, match="time zone"):
        uuid7(datetime(2020, 1, 1))  # noqa: DTZ001


async def test_update_changes_no_time(face: Any, migrated: str) -> None:
    made = await face.boards.create(NewBoard(name="b", slug="s", created_at=OLD, updated_at=LATER))
    for name in ("created_at", "updated_at"):
        with pytest.raises(InvalidValue, match=f"boards.{name} cannot be changed"):
            await face.boards.update(made.id, **{name: OLD})
        with pytest.raises(InvalidValue, match=f"boards.{name} cannot be changed"):
            await face.boards.update_many([made.id], {name: OLD})
    changed = await face.boards.update(made.id, name="c")
    assert changed.created_at == OLD and changed.updated_at > LATER
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("UPDATE boards SET created_at = now(), updated_at = 'epoch'")
    after = await face.boards.require(made.id)
    assert after.created_at == OLD and after.updated_at > changed.updated_at


async def test_upsert_keeps_the_times_of_a_new_row_only(face: Any) -> None:
    made = await face.boards.upsert(NewBoard(name="b", slug="s", created_at=OLD, updated_at=LATER))
    assert times(made) == (OLD, LATER)
    again = await face.boards.upsert(NewBoard(name="c", slug="s", created_at=LATER))
    assert again.created_at == OLD and again.updated_at > LATER and again.name == "c"


async def test_what_is_saved_with_its_parts_keeps_its_times(face: Any) -> None:
    run = await face.workflow_sessions.create(NewWorkflowSession(workflow_snapshot={}, created_at=OLD))
    node = NewNodeExecutionState(session_id=run.id, node_id="n", created_at=OLD, updated_at=LATER)
    state = await face.execution_states.save(NewExecutionState(session_id=run.id, created_at=OLD), [node])
    assert (state.created_at, times(state.nodes[0])) == (OLD, (OLD, LATER))
    saved = await face.execution_states.save(NewExecutionState(session_id=run.id, created_at=LATER), [node])
    assert saved.created_at == OLD
    other = await face.node_execution_states.set(run.id, "m", status="running", created_at=OLD)
    assert other.created_at == OLD
    project = await face.projects.create(NewProject(name="p", path="/p"))
    await face.project_files.sync(project.id, [NewProjectFile(project_id=project.id, path="a", created_at=OLD)])
    assert (await face.project_files.get_by(project_id=project.id, path="a")).created_at == OLD


async def test_an_old_history_does_not_make_its_conversation_the_most_recent(face: Any) -> None:
    live = await face.conversations.create(NewConversation(title="live"))
    await face.messages.append(live.id, "user", "now")
    old = await face.conversations.create(NewConversation(title="old", created_at=OLD))
    assert old.last_message_at == OLD
    said = [OLD + timedelta(minutes=n) for n in (3, 1, 2)]
    news = [NewMessage(conversation_id=old.id, role="user", content="x", created_at=at) for at in said]
    made = await face.messages.append_many(old.id, news)
    assert [row.created_at for row in made] == said and [row.position for row in made] == [1, 2, 3]
    assert (await face.conversations.require(old.id)).last_message_at == said[0]
    one = await face.messages.append(old.id, "user", "y", created_at=LATER)
    assert (await face.conversations.require(old.id)).last_message_at == one.created_at == LATER
    await face.messages.append(old.id, "user", "z", created_at=OLD)
    assert (await face.conversations.require(old.id)).last_message_at == LATER
    assert [row.title for row in await face.conversations.recent()] == ["live", "old"]
    await face.messages.append(old.id, "user", "now")
    assert [row.title for row in await face.conversations.recent()] == ["old", "live"]


async def test_events_keep_their_times_and_the_order_in_which_they_are_given(face: Any) -> None:
    at = [OLD + timedelta(seconds=n) for n in range(3)]
    assert (await face.stream_events.publish("s", created_at=at[0])).created_at == at[0]
    news = [NewStreamEvent(stream_id="s", created_at=one) for one in at[1:]]
    assert await face.stream_events.publish_many("s", news) == [2, 3]
    assert [row.created_at for row in await face.stream_events.read("s")] == at


async def test_what_is_derived_from_the_creation_follows_it(face: Any) -> None:
    checkpoint = await face.checkpoints.create(NewCheckpoint(agent_id="a", state=1))
    await face.checkpoints.create(NewCheckpoint(agent_id="a", state=2, created_at=OLD))
    assert (await face.checkpoints.latest("a")).id == checkpoint.id
    assert [row.captured_at for row in await face.checkpoints.by_agent("a")][1] == OLD
    chat = await face.conversations.create(NewConversation())
    running = NewToolResult(conversation_id=chat.id, tool_name="t", tool_call_id="c", status="running", created_at=OLD)
    assert (await face.tool_results.create(running)).started_at == OLD


async def test_an_import_can_be_repeated(storage: Storage) -> None:
    news = [NewConversation(id=uuid7(OLD), title=f"{n}", created_at=OLD, updated_at=LATER) for n in range(1500)]
    made = await storage.conversations.create_many(news)
    assert await storage.conversations.create_many(news) == made
    assert {times(row) for row in made} == {(OLD, LATER)}
    await storage.conversations.update(made[0].id, title="0")
    assert (await storage.conversations.create(news[0])).updated_at > LATER  # later changes move it: not compared


def test_a_uuid7_sorts_by_its_moment() -> None:
    moments = [datetime(1900, 1, 1, tzinfo=UTC), OLD, OLD + timedelta(microseconds=1), LATER, datetime.now(UTC)]
    ids = [uuid7(at) for at in moments]
    assert ids == sorted(ids) and {one.version for one in ids} == {7} and len({uuid7(OLD) for _ in range(100)}) == 100
    assert ids[1].int >> 80 == int(OLD.timestamp() * 1000)
    assert (
        datetime(9999, 12, 31, tzinfo=UTC).timestamp() * 1000 // 1
        == uuid7(datetime(9999, 12, 31, tzinfo=UTC)).int >> 80
    )
