"""One vocabulary: lists with a limit, look-ups by natural key, errors, and times from the server."""

from __future__ import annotations

import inspect
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from agent_storage import (
    AlreadyExists,
    BudgetExceeded,
    Conflict,
    Found,
    InvalidTransition,
    InvalidValue,
    NotFound,
    PoolTimeout,
    Repository,
    StatementTimeout,
    StorageError,
    WaitTimeout,
    sql,
    sync,
)
from agent_storage.tables import REPOSITORIES
from agent_storage.types import (
    Board,
    NewBoard,
    NewCheckpoint,
    NewConversation,
    NewProject,
    NewProjectFile,
    NewSession,
    NewTask,
    NewToolResult,
)


class Drawers(Repository[Board, NewBoard]):
    """Boards without a `get_by` of their own class."""

    table = "boards"
    natural_key = ("slug",)


class Loose(Repository[Board, NewBoard]):
    """Boards without a natural key."""

    table = "boards"


def test_every_public_list_of_rows_takes_a_limit() -> None:
    unlimited = {
        f"{table}.{name}"
        for table, repository in REPOSITORIES.items()
        for name, statement in repository.statements().items()
        if not name.startswith("_") and statement.shape.kind == "many" and "create_many" not in name
    }
    assert unlimited == {"approval_requests.expire_overdue"}  # a change, which returns what it changed


async def test_a_list_says_whether_there_is_more(face: Any) -> None:
    session = await face.sessions.create(NewSession(agent="a"))
    made = [await face.tasks.create(NewTask(session_id=session.id)) for _ in range(3)]
    for limit, more in ((0, True), (2, True), (3, False), (100, False)):
        by_session = await face.tasks.by_session(session.id, limit)
        assert (by_session, by_session.more) == (made[::-1][:limit], more)
        found = await face.tasks.find(order_by="id", limit=limit, total=bool(limit % 2))
        assert (found, found.more, found.total) == (made[:limit], more, 3 if limit % 2 else None)
    for wrong in (-1, 2**31, None, "2", True):
        with pytest.raises(InvalidValue, match="tasks: limit must be from 0"):
            await face.tasks.by_session(session.id, wrong)
    page = await face.tasks.page(limit=2)
    assert (list(page), len(page), page.more) == (made[:2], 2, True)
    assert not (await face.tasks.page(limit=2, cursor=page.next_cursor)).more


async def test_a_list_in_a_batch_says_whether_there_is_more(storage: Any) -> None:
    session = await storage.sessions.create(NewSession(agent="a"))
    await storage.tasks.create_many([NewTask(session_id=session.id)] * 3)
    async with storage.batch() as batch:
        some, rest = [batch.add(batch.tasks.by_session, session.id, limit) for limit in (2, 3)]
    assert [(len(one.result), one.result.more) for one in (some, rest)] == [(2, True), (3, False)]


def test_a_list_without_a_limit_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"boards\.all: a list takes a limit"):

        class Everything(Repository[Board, NewBoard]):  # pyright: ignore[reportUnusedClass]
            table = "boards"

            @sql("SELECT {columns} FROM {table}")
            async def all(self) -> Found[Board]: ...


def test_every_natural_key_is_the_signature_of_a_typed_get_by() -> None:
    for table, repository in REPOSITORIES.items():
        if repository.natural_key:
            declared = vars(repository)["get_by"]
            names = tuple(list(inspect.signature(declared).parameters)[1:])
            assert (table, names) == (table, repository.natural_key)


async def test_get_by_returns_the_row_of_a_natural_key_or_none(face: Any) -> None:
    project = await face.projects.create(NewProject(name="p", path="/p"))
    file = await face.project_files.create(NewProjectFile(project_id=project.id, path="a.py"))
    assert await face.projects.get_by(path="/p") == project
    assert await face.project_files.get_by(project_id=project.id, path="a.py") == file
    assert await face.project_files.get_by(project_id=project.id, path="b.py") is None
    assert await face.project_files.get_by(project_id=uuid4(), path="a.py") is None
    with pytest.raises(TypeError):
        await face.project_files.get_by(path="a.py")


async def test_a_table_with_a_natural_key_has_get_by_without_declaring_it(storage: Any) -> None:
    board = await storage.boards.create(NewBoard(name="b", slug="main"))
    assert await Drawers(storage).get_by(slug="main") == board
    assert await Drawers(storage).get_by(slug="other") is None
    for wrong in ({}, {"name": "b"}, {"slug": "main", "name": "b"}):
        with pytest.raises(InvalidValue, match=r"boards\.get_by takes slug=…"):
            await Drawers(storage).get_by(**wrong)
    with pytest.raises(InvalidValue, match=r"boards\.slug"):
        await Drawers(storage).get_by(slug=7)
    with pytest.raises(InvalidValue, match="needs a natural_key"):
        await Loose(storage).get_by(slug="main")


def test_conflicts_are_three_and_time_outs_are_timeout_errors() -> None:
    for kind in (AlreadyExists, InvalidTransition, BudgetExceeded):
        assert issubclass(kind, Conflict)
    for kind in (PoolTimeout, StatementTimeout, WaitTimeout):
        assert issubclass(kind, TimeoutError)
        assert issubclass(kind, StorageError)
        assert str(kind("too late", table="t")) == "too late"


async def test_a_duplicate_already_exists_and_not_found_names_the_id(face: Any) -> None:
    await face.boards.create(NewBoard(name="b", slug="main"))
    with pytest.raises(AlreadyExists, match="same slug"):
        await face.boards.create(NewBoard(name="b", slug="main"))
    missing = uuid4()
    for call in (
        lambda: face.conversations.require(missing),
        lambda: face.conversations.usage(missing),
        lambda: face.conversations.fork(missing),
        lambda: face.conversations.archive(missing),
        lambda: face.conversations.update(missing, title="t"),
        lambda: face.sessions.start(missing),
        lambda: face.sessions.spawn(missing),
    ):
        with pytest.raises(NotFound, match=str(missing)) as caught:
            await call()
        assert caught.value.id == missing


def server_time(conninfo: str) -> Any:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return connection.execute("SELECT clock_timestamp()").fetchone()[0]  # type: ignore[index]


def test_the_start_of_a_call_and_the_capture_of_a_checkpoint_are_times_of_the_server(
    sync_storage: sync.Storage, migrated: str
) -> None:
    chat = sync_storage.conversations.create(NewConversation())
    before = server_time(migrated)
    call = NewToolResult(conversation_id=chat.id, tool_call_id="c", tool_name="t", status="running")
    one, many = sync_storage.tool_results.create(call), sync_storage.tool_results.create_many([call])[0]
    pending = sync_storage.tool_results.create(call.model_copy(update={"status": "pending"}))
    kept = sync_storage.checkpoints.create(NewCheckpoint(agent_id="a", state=1))
    after = server_time(migrated)
    for moment in (one.started_at, many.started_at, kept.captured_at):
        assert moment is not None
        assert before <= moment <= after
    assert pending.started_at is None
    assert (sync_storage.tool_results.complete(one.id, 1).duration_ms or 0) >= 0
