"""Rows that a newer release or SQL wrote are read; the same values are refused when they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from uuid import UUID

import psycopg
import pytest
from pydantic import BaseModel, SecretStr

from agent_storage import InvalidValue, SecretUnavailable, Unreadable, sync
from agent_storage.statements.codec import Codec, RowMaker
from agent_storage.statements.records import Encrypted, Input, Jsonb, Record
from agent_storage.sync import Repository, sql
from agent_storage.types import (
    Conversation,
    NewConversation,
    NewMessage,
    NewModel,
    NewProject,
    NewProvider,
    NewRepo,
    NewSession,
    NewTask,
    NewTicket,
    NewTicketTask,
    NewToolConfig,
    Provider,
    Repo,
    RepoData,
    Session,
    SessionData,
    TextPart,
    UnknownPart,
    Worktree,
)

Execute = Callable[..., Any]


@pytest.fixture
def execute(migrated: str) -> Any:
    """SQL of a newer release: the rules of this one are gone."""
    with psycopg.connect(migrated, autocommit=True) as connection:
        rules = connection.execute(
            "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)"
            "  FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
        )
        for (drop,) in rules.fetchall():
            connection.execute(drop)
        connection.execute("ALTER TABLE sessions DISABLE TRIGGER check_transition")
        yield connection.execute


def test_an_unknown_choice_is_read_as_text_and_does_not_fail_the_list(
    sync_storage: sync.Storage, execute: Execute
) -> None:
    known, other = sync_storage.sessions.create_many([NewSession(agent="a"), NewSession(agent="b")])
    execute("UPDATE sessions SET status = 'hibernating' WHERE id = %s", [other.id])
    found: list[Session] = sync_storage.sessions.find()
    assert {row.id: row.status for row in found} == {known.id: "idle", other.id: "hibernating"}
    assert all(type(row) is Session for row in found)
    assert found[1].model_dump()["status"] == "hibernating"


def test_one_unknown_choice_among_many_rows_keeps_all_of_them(sync_storage: sync.Storage, execute: Execute) -> None:
    made = sync_storage.sessions.create_many([NewSession(agent=str(number)) for number in range(350)])
    execute("UPDATE sessions SET status = 'hibernating' WHERE id = %s", [made[220].id])
    found = sync_storage.sessions.find(limit=1000)  # more than are loaded at a time
    assert [row.id for row in found] == [row.id for row in made]
    assert [place for place, row in enumerate(found) if row.status != "idle"] == [220]


def test_an_unknown_choice_is_refused_when_it_is_written(sync_storage: sync.Storage) -> None:
    with pytest.raises(InvalidValue, match="NewSession"):
        NewSession(agent="a", status="hibernating")  # pyright: ignore[reportArgumentType]
    made = sync_storage.sessions.create(NewSession(agent="a"))
    with pytest.raises(InvalidValue, match="status"):
        sync_storage.sessions.update(made.id, status="hibernating")
    with pytest.raises(InvalidValue, match="status"):
        sync_storage.sessions.find({"status": "hibernating"})


def test_a_text_that_is_too_long_or_empty_is_read(sync_storage: sync.Storage, execute: Execute) -> None:
    repos = sync_storage.repos.create_many([NewRepo(slug="a"), NewRepo(slug="b")])
    execute("UPDATE repos SET slug = repeat('x', 600) WHERE slug = 'a'")
    execute("UPDATE repos SET slug = '' WHERE slug = 'b'")
    assert [len(row.slug) for row in sync_storage.repos.find()] == [600, 0]
    with pytest.raises(InvalidValue, match="500"):
        sync_storage.repos.update(repos[0].id, slug="x" * 600)


def test_a_number_out_of_range_is_read(sync_storage: sync.Storage, execute: Execute) -> None:
    conversation = sync_storage.conversations.create(NewConversation())
    message = sync_storage.messages.create(NewMessage(conversation_id=conversation.id, role="user", content=""))
    execute("UPDATE messages SET input_tokens = -1")
    assert sync_storage.messages.require(message.id).input_tokens == -1


def test_a_column_that_may_be_null_in_a_newer_release_is_read(sync_storage: sync.Storage, execute: Execute) -> None:
    made = sync_storage.conversations.create_many([NewConversation(title="a"), NewConversation(title="b")])
    execute("ALTER TABLE conversations ALTER last_message_at DROP NOT NULL")
    execute("UPDATE conversations SET last_message_at = NULL WHERE id = %s", [made[0].id])
    found: list[Conversation] = sync_storage.conversations.find()
    assert [row.last_message_at for row in found] == [None, made[1].last_message_at]


def test_a_document_keeps_the_fields_that_fit(sync_storage: sync.Storage, execute: Execute) -> None:
    made = sync_storage.sessions.create(NewSession(agent="a", data=SessionData(title="kept")))
    execute("""UPDATE sessions SET data = data || '{"tool_use_count": "many", "git_state": {"ref": 7, "tag": "x"},
                                                    "genealogy": {"fork_point_task_id": "none"}, "cls": "fine"}'""")
    data = sync_storage.sessions.require(made.id).data
    assert type(data) is SessionData
    assert (data.title, data.tool_use_count, data.message_count) == ("kept", "many", 0)
    assert data.git_state.model_dump(warnings=False) == {"ref": 7, "tag": "x"}
    assert data.genealogy.fork_point_task_id == "none"
    assert data.model_extra == {"cls": "fine"}
    for again in (data, data.model_dump(warnings=False)):
        with pytest.raises(InvalidValue, match=r"sessions\.data\."):
            sync_storage.sessions.update(made.id, data=again)
        with pytest.raises(InvalidValue, match=r"NewSession\.data\."):
            NewSession(agent="a", data=again)


def test_a_list_in_a_document_is_read_item_by_item(sync_storage: sync.Storage, execute: Execute) -> None:
    made = sync_storage.repos.create(NewRepo(slug="a", data=RepoData(worktrees=[Worktree(name="w")])))
    execute("""UPDATE repos SET data = jsonb_set(data, '{worktrees}', data -> 'worktrees' || '[{"name": 1}, "odd"]')""")
    found: Repo = sync_storage.repos.require(made.id)
    first, second, third = found.data.worktrees
    assert (first, second.name, third) == (Worktree(name="w"), 1, "odd")


def test_a_document_that_is_no_object_is_given_as_it_is(sync_storage: sync.Storage, execute: Execute) -> None:
    session = sync_storage.sessions.create(NewSession(agent="a"))
    sync_storage.tasks.create(NewTask(session_id=session.id))
    execute("UPDATE tasks SET data = '[1]'")
    (task,) = sync_storage.tasks.find()
    assert task.data == [1]


def test_a_part_that_lost_a_field_is_an_unknown_part(sync_storage: sync.Storage, execute: Execute) -> None:
    conversation = sync_storage.conversations.create(NewConversation())
    parts = [TextPart(text="a")]
    message = sync_storage.messages.create(NewMessage(conversation_id=conversation.id, role="user", content=parts))
    execute("""UPDATE messages SET content = content || '[{"type": "image", "file": 3}]'""")
    content = sync_storage.messages.require(message.id).content
    assert content == [TextPart(text="a"), UnknownPart.model_validate({"type": "image", "file": 3})]


def test_a_secret_that_does_not_fit_is_refused_when_it_is_used_and_never_shown(
    sync_storage: sync.Storage,
) -> None:
    class Open(Record):
        env: Encrypted[list[SecretStr]] | None

    class Configs(Repository[Open, Input]):
        table = "tool_configs"

    made = sync_storage.tool_configs.create(NewToolConfig(name="a", env={"KEY": SecretStr("hidden")}))
    row = Configs(sync_storage).require(made.id)
    assert "hidden" not in repr(row)
    with pytest.raises(SecretUnavailable, match="does not fit") as caught:
        list(row.env or ())
    assert "hidden" not in str(caught.value)


def test_a_result_that_lacks_a_column_is_refused(sync_storage: sync.Storage) -> None:
    class Sessions(Repository[Session, NewSession]):
        table = "sessions"

        @sql("SELECT id, agent FROM sessions")
        def narrow(self) -> list[Session]: ...

    sync_storage.sessions.create(NewSession(agent="a"))
    with pytest.raises(Unreadable, match="missing: board_id"):
        Sessions(sync_storage).narrow()


class Weighed(BaseModel):
    id: UUID
    kind: Literal["light", "heavy"]
    tags: list[Literal["a", "b"]] = []
    data: Jsonb[dict[str, int]] = {}


def made(*row: Any) -> Any:
    return RowMaker(Weighed, table="weights").make(("id", "kind", "tags", "data"), [row], Codec())[0]


def test_a_model_that_is_no_record_is_read_alike() -> None:
    row = made(UUID(int=1), "huge", ["a", "z"], {"n": "three"})
    assert row.model_dump(warnings=False) == {
        "id": UUID(int=1), "kind": "huge", "tags": ["a", "z"], "data": {"n": "three"}
    }  # fmt: skip


@pytest.mark.parametrize("row", [("no id", "light", [], {}), (UUID(int=1), 3, [], {}), (UUID(int=1), "light", 1, {})])
def test_a_value_of_another_type_is_refused(row: Any) -> None:
    with pytest.raises(Unreadable, match="a row of weights"):
        made(*row)


def test_rows_with_secrets_are_read_too(sync_storage: sync.Storage, execute: Execute) -> None:
    made = sync_storage.providers.create(NewProvider(name="a", kind="k", api_key=SecretStr("hidden")))
    execute("UPDATE providers SET kind = ''")
    found: Provider = sync_storage.providers.require(made.id)
    assert found.kind == ""
    assert found.api_key == SecretStr("hidden")


def test_pages_pass_rows_with_an_unknown_choice(sync_storage: sync.Storage, execute: Execute) -> None:
    made = sync_storage.sessions.create_many([NewSession(agent=f"a{number % 3}") for number in range(12)])
    execute("UPDATE sessions SET status = 'hibernating' WHERE id = ANY(%s)", [[row.id for row in made[2:9]]])
    execute("UPDATE sessions SET agent = repeat('x', 600) WHERE id = ANY(%s)", [[row.id for row in made[4:7]]])
    execute("UPDATE sessions SET agent = '' WHERE id = %s", [made[8].id])
    for order in ("status", "-status", ["agent", "-status"], ["-status", "agent"]):
        seen: list[Any] = []
        cursor = None
        while True:
            page = sync_storage.sessions.page(order_by=order, limit=1, cursor=cursor)
            seen += page.items
            if (cursor := page.next_cursor) is None:
                break
        assert seen == sync_storage.sessions.find(order_by=order)
        assert len(seen) == 12


def test_a_page_passes_rows_that_a_newer_release_allows_to_be_null(
    sync_storage: sync.Storage, execute: Execute
) -> None:
    made = sync_storage.conversations.create_many([NewConversation(title=str(n)) for n in range(6)])
    execute("ALTER TABLE conversations ALTER last_message_at DROP NOT NULL")
    execute("UPDATE conversations SET last_message_at = NULL WHERE id = ANY(%s)", [[row.id for row in made[:3]]])
    page = sync_storage.conversations.page(order_by="-last_message_at", limit=2)
    seen = list(page)
    while page.next_cursor is not None:
        page = sync_storage.conversations.page(order_by="-last_message_at", limit=2, cursor=page.next_cursor)
        seen += page
    assert sorted(row.id for row in seen) == sorted(row.id for row in made)


def test_a_number_that_is_none_and_an_array_with_nulls_are_read(sync_storage: sync.Storage, execute: Execute) -> None:
    provider = sync_storage.providers.create(NewProvider(name="p", kind="k"))
    sync_storage.models.create(NewModel(provider_id=provider.id, name="m"))
    execute("UPDATE models SET input_price = 'NaN'")
    (model,) = sync_storage.models.find()
    assert model.input_price is not None
    assert model.input_price.is_nan()
    assert sync_storage.models.with_provider(model.id).name == "m"
    project = sync_storage.projects.create(NewProject(name="p", path="p"))
    ticket = sync_storage.tickets.create(NewTicket(project_id=project.id, title="t"))
    execute("""UPDATE tickets SET labels = '{"a", NULL}'""")
    assert sync_storage.tickets.require(ticket.id).labels == ["a", None]
    execute("""UPDATE tickets SET labels = '{{"a"}, {"b"}}'""")
    assert sync_storage.tickets.update(ticket.id, title="new").labels == [["a"], ["b"]]


ODD = {
    "[" * 3000 + "]" * 3000: None,
    '{"n": 1' + "0" * 400 + "}": {"n": 10**400},
    '{"n": 1' + "0" * 5000 + "}": None,
    '{"n": 1e400}': {"n": 10**400},
    '{"n": 1.5e-400}': None,
    '{"n": "\\u001a9999"}': {"n": "\x1a9999"},
    "null": None,
}


@pytest.mark.parametrize("text", ODD, ids=[str(number) for number in range(len(ODD))])
def test_a_document_that_python_can_hardly_represent_fails_no_list(
    sync_storage: sync.Storage, execute: Execute, text: str
) -> None:
    made = sync_storage.conversations.create_many([NewConversation(title="odd"), NewConversation(title="other")])
    execute("UPDATE conversations SET metadata = %s::jsonb WHERE title = 'odd'", [text])
    with sync_storage.conversations.stream() as rows:
        streamed = list(rows)
    odd, other = sync_storage.conversations.find()
    assert streamed[1] == other == made[1]
    changed = sync_storage.conversations.update(odd.id, title="changed")
    assert changed.metadata == odd.metadata
    if ODD[text] is not None:
        assert odd.metadata == ODD[text]
    if text.startswith("["):
        assert odd.metadata == text  # as JSON text


def test_a_row_inside_a_row_is_read_by_the_same_rules(sync_storage: sync.Storage, execute: Execute) -> None:
    project = sync_storage.projects.create(NewProject(name="p", path="p"))
    first, second = sync_storage.tickets.create_many([NewTicket(project_id=project.id, title=t) for t in ("a", "b")])
    sync_storage.ticket_tasks.create_many([NewTicketTask(ticket_id=t.id, content="c") for t in (first, second)])
    execute("ALTER TABLE ticket_tasks ALTER content DROP NOT NULL")
    execute("UPDATE ticket_tasks SET content = NULL, position = -1 WHERE ticket_id = %s", [first.id])
    found = sync_storage.tickets.with_tasks(project.id)
    assert sorted((row.title, row.tasks[0].content, row.tasks[0].position) for row in found) == [
        ("a", None, -1), ("b", "c", 1)
    ]  # fmt: skip


async def test_an_error_after_a_commit_says_that_the_change_was_kept(face: Any, execute: Execute) -> None:
    made = await face.conversations.create(NewConversation(title="a"))
    execute("UPDATE conversations SET last_message_at = 'infinity'")
    with pytest.raises(Unreadable) as caught:
        await face.conversations.update(made.id, title="b")
    assert caught.value.outcome == "kept"
    assert execute("SELECT title FROM conversations").fetchone() == ("b",)
