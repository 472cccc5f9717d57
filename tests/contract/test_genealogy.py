"""Sessions, their tasks and where they come from; short ids."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_storage import AmbiguousId, Conflict, InvalidTransition, InvalidValue, NotFound, Retryable, sync
from agent_storage.types import BoardData, NewBoard, NewRepo, NewSession, NewTask, SessionData, TaskData


async def session(face: Any, **fields: Any) -> Any:
    return await face.sessions.create(NewSession(agent="coder", **fields))


async def test_boards_and_repos_are_found_by_their_slugs_and_keep_what_platforms_add(face: Any) -> None:
    board = await face.boards.upsert(NewBoard(name="Main", slug="main", data=BoardData(color="#0af")))
    again = await face.boards.upsert(NewBoard(name="Main", slug="main", data={"icon": "x", "columns": [1, {"y": 2}]}))
    assert (again.id, again.data.icon, again.data.color) == (board.id, "x", None)
    assert again.data.model_extra == {"columns": [1, {"y": 2}]}
    assert await face.boards.get_by(slug="main") == again
    assert await face.repos.get_by(slug="none") is None
    repo = await face.repos.create(
        NewRepo(slug="app", data={"worktrees": [{"name": "w1", "path": "/w", "pinned": True}]})
    )
    assert await face.repos.get_by(slug="app") == repo
    assert repo.data.worktrees[0].model_extra == {"pinned": True}


async def test_the_default_board_is_one_however_many_ask_for_it(face: Any, storage: Any) -> None:
    boards = await asyncio.gather(*(storage.boards.default() for _ in range(100)))
    assert {board.id for board in boards} == {boards[0].id}
    renamed = await face.boards.update(boards[0].id, name="Ours", data={"color": "#0af"})
    assert await face.boards.default() == renamed
    await face.boards.delete(renamed.id)
    assert (await face.boards.default()).slug == "default"
    assert await face.boards.count() == 1


async def test_only_what_was_said_of_a_document_is_stored_and_patches_merge(face: Any, migrated: str) -> None:
    made = await session(face, data=SessionData(title="T"))
    assert await face.sessions.count({"data": {"title": "T"}}) == 1
    patched = await face.sessions.patch(made.id, data={"git_state": {"ref": "main"}, "tool_use_count": 3})
    assert (patched.data.title, patched.data.git_state.ref, patched.data.tool_use_count) == ("T", "main", 3)
    assert [item.id for item in await face.sessions.find({"data__git_state__ref": "main"})] == [made.id]
    with pytest.raises(InvalidValue, match=r"sessions\.data\.tool_use_count"):
        await face.sessions.patch(made.id, data={"tool_use_count": "many"})
    assert await face.sessions.require(made.id) == patched


async def test_sessions_and_tasks_change_status_along_allowed_ways_alone(face: Any) -> None:
    made = await session(face)
    assert (await face.sessions.start(made.id)).status == "running"
    with pytest.raises(InvalidTransition, match="cannot start: its status is running"):
        await face.sessions.start(made.id)
    assert (await face.sessions.complete(made.id)).status == "completed"
    with pytest.raises(InvalidTransition):
        await face.sessions.fail(made.id)
    with pytest.raises(NotFound):
        await face.sessions.start(uuid4())
    task = await face.tasks.create(NewTask(session_id=made.id, data=TaskData(description="d")))
    with pytest.raises(InvalidTransition, match="its status is created"):
        await face.tasks.complete(task.id)
    await face.tasks.start(task.id)
    assert [item.id for item in await face.tasks.running()] == [task.id]
    done = await face.tasks.complete(task.id, {"tests": "green"})
    assert (done.status, done.data.report, done.data.description) == ("completed", {"tests": "green"}, "d")
    assert done.completed_at is not None
    assert await face.tasks.by_session(made.id) == [done]
    assert await face.sessions.by_status("completed") == [await face.sessions.require(made.id)]


async def test_spawned_sessions_work_on_the_same_board_and_forks_take_what_their_origin_knew(face: Any) -> None:
    board = await face.boards.create(NewBoard(name="b", slug="b"))
    origin = await session(face, board_id=board.id, data={"title": "T", "concepts": ["c"], "message_count": 9})
    task = await face.tasks.create(NewTask(session_id=origin.id))
    child = await face.sessions.spawn(origin.id, "reviewer", at_task=task.id, data=SessionData(title="Review"))
    assert (child.agent, child.board_id, child.parent_session_id) == ("reviewer", board.id, origin.id)
    assert (child.data.title, child.data.genealogy.spawn_point_task_id) == ("Review", task.id)
    fork = await face.sessions.fork(origin.id, task.id)
    assert (fork.agent, fork.forked_from_session_id, fork.parent_session_id) == ("coder", origin.id, None)
    assert (fork.data.title, fork.data.concepts, fork.data.message_count) == ("T", ["c"], 0)
    assert fork.data.genealogy.fork_point_task_id == task.id
    assert await face.sessions.children(origin.id) == [fork, child]
    assert await face.sessions.by_board(board.id) == [fork, child, origin]
    assert await face.sessions.roots() == [origin]
    with pytest.raises(NotFound, match="tasks has no row"):
        await face.sessions.fork(child.id, task.id)
    with pytest.raises(NotFound, match="sessions"):
        await face.sessions.spawn(uuid4())


async def test_a_tree_of_10000_sessions_is_walked_in_one_round_trip_each_way(sync_storage: sync.Storage) -> None:
    dice = random.Random(7)
    ids = [UUID(int=(0x0199 << 112) + (7 << 76) + (2 << 62) + number) for number in range(10_000)]
    parents: list[int | None] = [None]
    news = [NewSession(id=ids[0], agent="root")]
    for number in range(1, 10_000):
        above = number - 1 if number < 300 else dice.randrange(number)  # one long line, then a bush
        parents.append(above)
        link = "parent_session_id" if dice.random() < 0.5 else "forked_from_session_id"
        news.append(NewSession(id=ids[number], agent="a", **{link: ids[above]}))
    for start in range(0, 10_000, 2500):
        sync_storage.sessions.create_many(news[start : start + 2500])
    assert len(sync_storage.sessions.descendants(ids[0], 10_000)) == 9_999
    line: list[UUID] = []
    at = parents[299]
    while at is not None:
        line.append(ids[at])
        at = parents[at]
    assert [item.id for item in sync_storage.sessions.ancestors(ids[299], 300)] == line
    assert len(line) == 299
    below = [item.id for item in sync_storage.sessions.descendants(ids[5000], 10_000)]
    expected = {5000}
    for number in range(5001, 10_000):
        if parents[number] in expected:
            expected.add(number)
    assert set(below) == {ids[number] for number in expected - {5000}}


async def test_ancestors_are_those_of_both_links_each_once_nearest_first(face: Any) -> None:
    top = await session(face)
    left = await session(face, parent_session_id=top.id)
    right = await session(face, forked_from_session_id=left.id)
    both = await session(face, parent_session_id=left.id, forked_from_session_id=right.id)
    leaf = await session(face, forked_from_session_id=both.id)
    assert [item.id for item in await face.sessions.ancestors(both.id)] == [left.id, right.id, top.id]
    assert [item.id for item in await face.sessions.ancestors(leaf.id)] == [both.id, left.id, right.id, top.id]
    assert [item.id for item in await face.sessions.descendants(top.id)] == [left.id, right.id, both.id, leaf.id]
    assert (await face.sessions.ancestors(leaf.id, 2)).more
    assert await face.sessions.ancestors(top.id) == []


@pytest.mark.parametrize("analysed", [0, 20, 500, 5000])
@pytest.mark.parametrize("order", ["older first", "random", "younger first"])
def test_a_line_of_300_sessions_reads_what_is_above_each_and_never_the_table(
    sync_storage: sync.Storage, analysed: int, order: str
) -> None:
    with sync_storage.database.connection() as connection:
        connection.execute("INSERT INTO sessions (agent) SELECT 'x' FROM generate_series(1, %s)", (analysed,))
        connection.execute("ANALYZE sessions")
    ids = sorted(uuid4() for _ in range(300))
    if order == "random":
        random.Random(1).shuffle(ids)
    elif order == "younger first":
        ids.reverse()
    line = [
        NewSession(id=id_, agent="a", parent_session_id=above)
        for above, id_ in zip([None, *ids[:-1]], ids, strict=True)
    ]
    with sync_storage.transaction() as tx:
        tx.sessions.create_many(line)
        counted = "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'sessions'"
        with tx.connection() as connection:
            row = connection.execute(counted).fetchone()
    assert row is not None
    # A plan may scan the table once; while it is tiny, PostgreSQL's own check of the foreign key scans it for each row.
    assert row[0] <= (2 * analysed if analysed >= 500 else 300 * 320)
    above = {"older first": 0, "random": 10 * 300, "younger first": 300 * 300 // 2}[order]
    assert row[1] <= 4 * 300 + above  # the foreign keys look up and lock each parent


def test_an_update_reads_the_ancestors_alone(sync_storage: sync.Storage) -> None:
    with sync_storage.database.connection() as connection:
        connection.execute("INSERT INTO sessions (agent) SELECT 'x' FROM generate_series(1, 5000)")
        connection.execute("ANALYZE sessions")
    above = sync_storage.sessions.create(NewSession(agent="a"))
    for _ in range(20):
        above = sync_storage.sessions.spawn(above.id)
    other = sync_storage.sessions.create(NewSession(agent="a"))
    with sync_storage.transaction() as tx:
        tx.sessions.update(other.id, parent_session_id=above.id)
        counted = "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'sessions'"
        with tx.connection() as connection:
            row = connection.execute(counted).fetchone()
    assert row is not None
    assert row[0] == 0
    assert row[1] <= 60


async def test_changes_of_data_and_status_do_not_take_turns_with_those_of_parents(storage: Any) -> None:
    a, b, c = [await session(storage) for _ in "abc"]
    async with storage.transaction() as tx:
        await tx.sessions.update(a.id, parent_session_id=b.id)
        async with asyncio.timeout(10):
            assert (await storage.autonomous.sessions.start(c.id)).status == "running"
            await storage.autonomous.sessions.delete(c.id)


async def test_a_parent_that_would_close_a_cycle_is_refused(face: Any) -> None:
    a = await session(face)
    b = await session(face, parent_session_id=a.id)
    c = await session(face, forked_from_session_id=b.id)
    for closing in ({"parent_session_id": c.id}, {"forked_from_session_id": b.id}, {"parent_session_id": a.id}):
        with pytest.raises(Conflict, match="would become its own ancestor"):
            await face.sessions.update(a.id, **closing)
    one, two = uuid4(), uuid4()
    with pytest.raises(Conflict, match="sessions_genealogy_without_cycle"):
        await face.sessions.create_many(
            [NewSession(id=one, agent="x", parent_session_id=two), NewSession(id=two, agent="x", parent_session_id=one)]
        )
    assert await face.sessions.count() == 3


@pytest.mark.parametrize("isolation", [None, "repeatable read", "serializable"])
async def test_two_updates_at_once_cannot_close_a_cycle_together(storage: Any, isolation: Any) -> None:
    for _ in range(5):
        a, b = await session(storage), await session(storage)
        ready = asyncio.Barrier(2)

        async def adopt(child: UUID, parent: UUID, ready: asyncio.Barrier = ready) -> None:
            async with storage.transaction(isolation) as tx:
                await tx.sessions.count()  # the snapshot is taken before either changes anything
                await ready.wait()
                await tx.sessions.update(child, parent_session_id=parent)

        outcomes = await asyncio.gather(adopt(a.id, b.id), adopt(b.id, a.id), return_exceptions=True)
        refused = [outcome for outcome in outcomes if outcome is not None]
        assert refused
        assert all(isinstance(outcome, Conflict | Retryable) for outcome in refused)
        stored = [await storage.sessions.require(item.id) for item in (a, b)]
        assert any(item.parent_session_id is None for item in stored)


def test_any_prefix_of_an_id_finds_it_or_names_the_candidates(sync_storage: sync.Storage) -> None:
    dice = random.Random(3)
    base = 0x0199B73D << 96
    ids = [UUID(int=base + (dice.getrandbits(24) << 72) + dice.getrandbits(20)) for _ in range(40)]
    sync_storage.boards.create_many([NewBoard(id=id_, name="b", slug=str(n)) for n, id_ in enumerate(ids)])

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(ids), st.integers(4, 36), st.booleans(), st.booleans())
    def resolve(id_: UUID, length: int, upper: bool, dashes: bool) -> None:
        text = (str(id_) if dashes else id_.hex)[:length]
        text = text.upper() if upper else text
        fitting = sorted(other for other in ids if other.hex.startswith(text.lower().replace("-", "")))
        if len(text.replace("-", "")) < 4:
            return
        if len(fitting) == 1:
            assert sync_storage.boards.resolve(text).id == id_
        else:
            with pytest.raises(AmbiguousId) as caught:
                sync_storage.boards.resolve(text)
            assert caught.value.candidates == fitting[:10]

    resolve()
    for id_ in ids:
        short = sync_storage.boards.short_id(id_)
        assert sync_storage.boards.resolve(short).id == id_
        assert len(short) == 8 or sum(other.hex.startswith(short[:-1]) for other in ids) > 1
    for wrong in ("01_9b73d", "0199%", "0199b73g", "019", "", "0" * 33, "0199 b73d"):
        with pytest.raises(InvalidValue):
            sync_storage.boards.resolve(wrong)
