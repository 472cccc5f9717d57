"""Search in messages: forms of words, accents, scripts without spaces, tool results, scopes, texts of any size."""

from __future__ import annotations

import base64
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from agent_storage import sync
from agent_storage.errors import InvalidValue
from agent_storage.types import NewConversation, NewMessage, NewProject

from .test_filters import plan

#: A search and the text that it finds, with the hit as the snippet marks it.
FOUND = [
    ("train", "two trains to Oslo", "**trains**"),
    ("trains", "which train is it", "**train**"),
    ("osl", "from Bergen to Oslo", "**Oslo**"),
    ("studies", "a study of ice", "**study**"),
    ("study", "two studies of ice", "**studies**"),
    ("running", "it runs since noon", "**runs**"),
    ("cafe", "the café at the station", "**café**"),
    ("café", "the cafe at the station", "**cafe**"),
    ("CAFÉ", "cafe\u0301 with a combining accent", "**cafe\u0301**"),
    ("tromso", "north of Tromsø", "**Tromsø**"),
    ("tromsø", "north of Tromso", "**Tromso**"),
    ("strasse", "Lange Straße 5", "**Straße**"),
    ("æro", "the ferry to Aero", "**Aero**"),
    ("ångström", "one angstrom", "**angstrom**"),
    ("московский", "МОСКОВСКИЙ вокзал", "**МОСКОВСКИЙ**"),
    ("友達", "私の友達はオスロにいます。", "**友達**"),
    ("達", "私の友達", "友**達**"),
    ("私", "私の友達", "**私**の"),
    ("オスロ", "私の友達はオスロにいます。", "**オスロ**"),
    ("ｵｽﾛ", "オスロにいます", ""),
    ("한국어", "저는 한국어를 배워요", "**한국어**를"),
    ("东京", "我们去东京2020", "**东京**2020"),
    ("2020", "我们去东京2020", "**2020**"),
    ("𠮷野", "あの𠮷野家", "**𠮷野**"),
    ("search", "the tool timetable.search failed", "**search**"),
    ("timetable.search", "the tool timetable.search failed", "**timetable**.**search**"),
    ("ada@example.com", "write to ada@example.com today", "**ada**@**example**.**com**"),
    ("String", "a List<String> of names", "**String**"),
    ("config.yaml", "edit /etc/app/config.yaml first", "**config**.**yaml**"),
    ("checkin", "check-in and checkin", "**checkin**"),
    ("check-in", "check-in at nine", "**check**-**in**"),
    ("--verbose", "use --verbose", "--**verbose**"),
    ("Bergen - Oslo", "from Bergen to Oslo", "**Bergen** to **Oslo**"),
    ("7", "it is -7 outside", "-**7**"),
    ("message_count", "the column message_count is wrong", "**message**_**count**"),
    ("don't", "I don’t know", "**don**’**t**"),
    ("train", "🚆train to the coast", "**train**"),
    ('"night train"', "the night train is late", "**night** **train**"),
    ("glacier or fjord", "a fjord", "**fjord**"),
    ("boat -bus", "a boat", "**boat**"),
]  # fmt: skip
NOT_FOUND = [
    ("train", "rain"),
    ("in", "international"),
    ("13", "1300 seats"),
    ('"night train"', "the train at night"),
    ('"night train"', "the night trains"),
    ("boat -bus", "a boat and a bus"),
    ("東京 -友達", "東京の友達"),
    ("友人", "友達と人"),
    ("-train", "no match for what only excludes"),
    ("", "anything"),
    ("...", "anything"),
    ("or", "anything"),
]


async def conversation(face: Any, *texts: Any, **fields: Any) -> Any:
    chat = await face.conversations.create(NewConversation(**fields))
    for text in texts:
        await face.messages.append(chat.id, "user", text)
    return chat


@pytest.fixture(scope="module")
def talk(server_conninfo: str) -> Any:
    """A storage with every text of the two lists in a conversation of its own."""
    from agent_storage.migrations.migrator import Migrator

    from ..conftest import fresh_database

    with fresh_database(server_conninfo) as conninfo:
        Migrator(conninfo).up()
        with sync.Storage(conninfo) as storage:
            yield storage


@pytest.mark.parametrize(("search", "text", "hit"), FOUND)
def test_a_search_finds_what_is_meant_and_marks_it_in_the_original(
    talk: sync.Storage, search: str, text: str, hit: str
) -> None:
    chat = talk.conversations.create(NewConversation())
    message = talk.messages.append(chat.id, "user", text)
    talk.messages.append(chat.id, "user", "another sentence, about nothing of it")
    (match,) = talk.messages.search(search, conversation_id=chat.id)
    assert match.id == message.id
    assert hit in match.snippet


@pytest.mark.parametrize(("search", "text"), NOT_FOUND)
def test_a_search_does_not_find_other_words(talk: sync.Storage, search: str, text: str) -> None:
    chat = talk.conversations.create(NewConversation())
    talk.messages.append(chat.id, "user", text)
    assert talk.messages.search(search, conversation_id=chat.id) == []


async def test_the_word_itself_comes_before_longer_ones_and_more_hits_before_fewer(face: Any) -> None:
    await conversation(face, "the trainer", "one train", "a train beside a train", "trainspotting")
    found = await face.messages.search("train")
    assert [match.content for match in found][:2] == ["a train beside a train", "one train"]
    assert {match.content for match in found[2:]} == {"the trainer", "trainspotting"}
    assert (await face.messages.search("train", 2)).more


async def test_tool_calls_and_results_are_found(face: Any) -> None:
    chat = await face.conversations.create(NewConversation())
    call = {"type": "tool_call", "id": "1", "name": "timetable.search", "arguments": {"from": "Bergen\nstasjon"}}
    rows = [{"train": "R41", "note": 'the "scenic"\tone', "seats": [249, None, True]}]
    await face.messages.append(chat.id, "assistant", [{"type": "text", "text": "Let me look"}, call])
    await face.messages.append(chat.id, "tool", [{"type": "tool_result", "tool_call_id": "1", "result": rows}])
    await face.messages.append(chat.id, "tool", [{"type": "tool_result", "tool_call_id": "1", "result": "line\nFlåm"}])
    await face.messages.append(chat.id, "user", [{"type": "image", "url": "https://example.com/x"}])
    await face.messages.append(chat.id, "user", [{"type": "custom", "text": ["odd", {"deep": "kept"}]}])
    await face.messages.append(chat.id, "user", [])

    async def positions(text: str) -> list[int]:
        return sorted(match.position for match in await face.messages.search(text))

    assert await positions("timetable") == [1]
    assert await positions("stasjon") == [1]
    assert await positions("R41") == [2]
    assert await positions("scenic one") == [2]
    assert await positions("249") == [2]
    assert await positions("flam") == [3]
    assert await positions("deep") == [5]
    assert "**R41**" in (await face.messages.search("R41"))[0].snippet


async def test_a_search_has_a_conversation_a_project_an_owner_a_role_or_a_time_as_its_scope(face: Any) -> None:
    project = await face.projects.create(NewProject(name="p", path="/p"))
    inside = await conversation(face, "the glacier", project_id=project.id, owner="ann")
    outside = await conversation(face, "a glacier")
    answer = await face.messages.append(outside.id, "assistant", "that glacier")

    async def contents(**scope: Any) -> set[str]:
        return {match.content for match in await face.messages.search("glacier", **scope)}

    assert await contents() == {"the glacier", "a glacier", "that glacier"}
    assert await contents(conversation_id=inside.id) == {"the glacier"}
    assert await contents(project_id=project.id) == {"the glacier"}
    assert await contents(owner="ann") == {"the glacier"}
    assert await contents(owner="bob") == set()
    assert await contents(role="assistant") == {"that glacier"}
    assert await contents(conversation_id=outside.id, project_id=project.id) == set()
    assert await contents(since=answer.created_at) == {"that glacier"}
    assert await contents(until=answer.created_at) == {"the glacier", "a glacier"}
    assert await contents(since=datetime.now(UTC) + timedelta(days=1)) == set()
    for bad in ({"role": "nobody"}, {"since": datetime.now()}, {"project_id": "p"}):  # noqa: DTZ005
        with pytest.raises(InvalidValue):
            await contents(**bad)


async def test_a_match_is_the_whole_message_and_works_in_a_transaction_and_a_batch(storage: Any) -> None:
    chat = await conversation(storage)
    async with storage.transaction() as tx:
        written = await tx.messages.append(chat.id, "user", "a glacier", metadata={"n": 1})
        (match,) = await tx.messages.search("glaciers")  # found before it is committed
        assert {name: getattr(match, name) for name in type(written).model_fields} == written.model_dump() | {
            "content": written.content
        }
    async with storage.batch() as batch:
        later = batch.add(batch.messages.search, "glacier", role="user")
    assert [match.snippet for match in later.result] == ["a **glacier**"]
    assert match.model_dump(mode="json")["snippet"] == "a **glacier**"


async def test_updated_and_deleted_messages_are_found_as_they_are(face: Any) -> None:
    chat = await conversation(face, "secret words")
    (match,) = await face.messages.search("secret")
    await face.messages.update(match.id, content="redacted")
    assert await face.messages.search("secret") == []
    assert len(await face.messages.search("redacted")) == 1
    await face.conversations.delete(chat.id)
    assert await face.messages.search("redacted") == []


def big_texts() -> dict[str, Any]:
    dice = random.Random(7)
    log = "".join(f"2026-11-21T12:00:00 INFO worker-{n} finished {dice.getrandbits(64):x}\n" for n in range(40_000))
    image = base64.b64encode(dice.randbytes(1_500_000)).decode()
    return {
        "distinct words": " ".join(f"w{n}" for n in range(110_000)),
        "a log": log,
        "base64": image,
        "base64 in lines": base64.encodebytes(dice.randbytes(1_500_000)).decode(),
        "a data url": [{"type": "image", "url": f"data:image/png;base64,{image}"}, {"type": "text", "text": "see"}],
        "one word": "x" * 4_000_000,
        "Chinese": "".join(chr(0x4E00 + dice.randrange(20_000)) for _ in range(1_300_000)),
        "Chinese beyond 16 bits": "".join(chr(0x20000 + dice.randrange(40_000)) for _ in range(1_000_000)),
        "accents": " ".join(f"é{n}à" for n in range(300_000)),
        "Thai without a space": "ก็" * 600_000,
        "spaces": " " * 4_000_000,
        "points": "." * 4_000_000,
        "quotes": "\\\"'" * 700_000,
        "NUL": "\x00" * 200_000,
        "a tool result": [{"type": "tool_result", "tool_call_id": "1", "result": [{"n": n} for n in range(250_000)]}],
        "many parts": [{"type": "text", "text": f"part {n}"} for n in range(80_000)],
    }


@pytest.mark.parametrize("kind", big_texts())
def test_a_message_of_any_size_and_kind_is_stored_and_found(sync_storage: sync.Storage, kind: str) -> None:
    content = big_texts()[kind]
    chat = sync_storage.conversations.create(NewConversation())
    new = NewMessage(conversation_id=chat.id, role="user", content=content)
    message = sync_storage.messages.create(new)
    assert sync_storage.messages.require(message.id).content == new.content
    text = [{"type": "text", "text": "needle first"}, *new.content] if isinstance(new.content, list) else new.content
    text = text if isinstance(text, list) else f"needle first {text[:3_900_000]} Nadel"
    sync_storage.messages.update(message.id, content=text)
    (match,) = sync_storage.messages.search("needle")
    assert match.snippet.startswith("**needle** first")
    if isinstance(text, str):  # the end of a long text is indexed too
        assert "**Nadel**" in sync_storage.messages.search("nadel")[0].snippet


def test_the_middle_of_a_long_text_is_stored_but_not_searched(sync_storage: sync.Storage) -> None:
    chat = sync_storage.conversations.create(NewConversation())
    text = "first " + "word " * 20_000 + "middle " + "word " * 20_000 + "last"
    sync_storage.messages.append(chat.id, "user", text)
    assert [len(sync_storage.messages.search(word)) for word in ("first", "middle", "last")] == [1, 0, 1]


def test_a_document_of_another_shape_written_by_sql_is_no_error(sync_storage: sync.Storage, migrated: str) -> None:
    chat = sync_storage.conversations.create(NewConversation())
    insert = "INSERT INTO messages (conversation_id, position, role, content) VALUES (%s, %s, 'user', %s)"
    shapes = ["{}", "null", "7", "[1, null, [2], {}]", '[{"text": "untyped"}]', '[{"type": "tool_result"}]', "true"]
    with psycopg.connect(migrated, autocommit=True) as connection:
        for position, shape in enumerate(shapes, 1):
            connection.execute(insert, (chat.id, position, shape))
    assert [match.position for match in sync_storage.messages.search("untyped")] == [5]


@pytest.mark.parametrize("search", ["x" * 1001, "é" * 5000, None, 7])
def test_a_search_that_is_too_long_is_refused_before_sql(sync_storage: sync.Storage, search: Any) -> None:
    with pytest.raises(InvalidValue, match="text"):
        sync_storage.messages.search(search)


@pytest.mark.parametrize(
    "search",
    [
        "' OR 1=1 --", '"unbalanced', "((", "\x00", "\ud800", "a & | !", "-" * 1000, "- " * 400 + "a", "-\t-\n-a",
        '"' * 999, "or " * 333, "a -" * 333, "-a or " * 160, "友" * 1000, '-"友達 a" 友', "\\", "'", "''", "a\\'b",
        ":*", "a:*b", "<->", "a <2> b", "!x", "\u0301", "-\u0301", "ﷺ" * 300, "\U0001f600" * 500, "a\u200bb",
        "x" * 1000, "a b " * 250,
    ],
)  # fmt: skip
def test_an_odd_search_is_no_error(talk: sync.Storage, search: str) -> None:
    for match in talk.messages.search(search):
        assert match.snippet


def test_common_and_rare_words_are_found_by_the_index(sync_storage: sync.Storage, migrated: str) -> None:
    chats = sync_storage.conversations.create_many([NewConversation() for _ in range(50)])
    sync_storage.messages.create_many(
        [NewMessage(conversation_id=chats[n % 50].id, role="user", content=f"common word{n}") for n in range(5000)]
    )
    assert [match.content for match in sync_storage.messages.search("word77", 1)] == ["common word77"]
    newest = sync_storage.messages.search("common", 1000)
    assert len(newest) == 200
    assert newest[0].content == "common word4999"
    statement = type(sync_storage.messages).statements()["search"]
    given = {"text": "'word7'", "limit": "20"}
    values = [given.get(parameter.name, "NULL") for parameter in statement.parameters]
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("ANALYZE")
        for mode in ("force_custom_plan", "force_generic_plan"):
            connection.execute(f"SET plan_cache_mode = {mode}")
            text = plan(connection, statement, values)
            assert "messages_search_idx" in text, text
            assert "Seq Scan on messages" not in text, text


def test_a_search_uses_the_index_while_the_words_of_an_import_wait(sync_storage: sync.Storage, migrated: str) -> None:
    """The planner takes waiting words for expensive, and an unknown query for rare."""
    chat = sync_storage.conversations.create(NewConversation())
    statement = sync_storage.messages.statements()["search"]
    values = ["'needle'" if parameter.name == "text" else "NULL" for parameter in statement.parameters]
    with psycopg.connect(migrated) as connection:  # one transaction: autovacuum does not see the rows
        connection.execute(
            "INSERT INTO messages (conversation_id, position, role, content)"
            " SELECT %s, n, 'user', to_jsonb((SELECT string_agg('w' || n || 'x' || m, ' ')"
            " FROM generate_series(1, 80) AS m)) FROM generate_series(1, 10000) AS n",
            [chat.id],
        )
        for mode in ("force_custom_plan", "force_generic_plan"):
            connection.execute(f"SET plan_cache_mode = {mode}")
            text = plan(connection, statement, values)
            assert "messages_search_idx" in text, text
            assert "Seq Scan on messages" not in text, text


async def test_the_words_of_new_messages_are_merged_on_request(face: Any) -> None:
    await conversation(face, "the glacier")
    assert await face.messages.merge_search() >= 1
    assert await face.messages.merge_search() == 0
    assert len(await face.messages.search("glacier")) == 1


def test_an_insert_leaves_the_words_to_autovacuum(sync_storage: sync.Storage, migrated: str) -> None:
    chat = sync_storage.conversations.create(NewConversation())
    texts = [" ".join(f"word{n}x{m}" for m in range(80)) for n in range(3000)]
    sync_storage.messages.create_many([NewMessage(conversation_id=chat.id, role="user", content=one) for one in texts])
    with psycopg.connect(migrated, autocommit=True) as connection:
        options = "SELECT option_name || '=' || option_value FROM pg_class, pg_options_to_table(reloptions)"
        stored = connection.execute(f"{options} WHERE relname = 'messages'").fetchall()
        assert ("autovacuum_analyze_threshold=5000",) in stored
        assert ("autovacuum_analyze_scale_factor=0",) in stored
        (waiting,) = connection.execute("SELECT gin_clean_pending_list('messages_search_idx')").fetchone() or (0,)
    assert waiting * 8192 > 4_194_304  # beyond the default limit, at which an INSERT would have merged them
