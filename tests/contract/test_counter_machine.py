"""Counters against a simple model: whatever statements run, the next append and the next event find a free place."""

from __future__ import annotations

import concurrent.futures
import contextlib
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from psycopg import errors

from agent_storage import AlreadyExists, InvalidValue, sync
from agent_storage.types import NewConversation, NewEventStream, NewMessage, NewStreamEvent

SMALL = st.integers(1, 4)
PLACE = st.integers(1, 12)
COUNT = st.sampled_from([0, 1, 2, 3, 5, 8, 13, 2**31 - 1])
PICK = st.randoms(use_true_random=False)


@dataclass
class Chat:
    """What a conversation should hold: its counter, and its messages' ids by position."""

    count: int = 0
    places: dict[int, UUID] = field(default_factory=dict[int, UUID])


@dataclass
class Stream:
    """What a stream should hold. Another object is another stream of the same name."""

    last: int = 0
    sequences: set[int] = field(default_factory=set[int])


@dataclass
class Reader:
    """A follower, and what it has seen of which stream. It looks for the stream with its first event."""

    name: str
    rows: Any
    seen: int
    stream: Stream | None = None
    located: bool = False


class Counters(RuleBasedStateMachine):
    """Conversations with messages, streams with events, and followers of the streams."""

    def __init__(self, storage: sync.Storage, connection: psycopg.Connection) -> None:
        super().__init__()
        self.storage = storage
        self.raw = connection
        self.chats: dict[UUID, Chat] = {}
        self.streams: dict[str, Stream] = {}
        self.names = [f"{uuid4()}" for _ in range(2)]
        self.readers: list[Reader] = []
        self.open = contextlib.ExitStack()
        self.waiting = self.open.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        self.start()

    # ---- helpers ----

    def refused(self, text: str, *values: Any) -> None:
        """Run raw SQL that a trigger refuses."""
        with pytest.raises(psycopg.Error) as caught:
            self.raw.execute(text, values)  # pyright: ignore[reportArgumentType, reportCallIssue]
        assert caught.value.sqlstate == "AS001"

    def sql(self, text: str, *values: Any) -> None:
        self.raw.execute(text, values)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def placed(self, key: UUID, made: list[Any]) -> None:
        """Compare the positions of appended messages with the model, and add them."""
        chat = self.chats[key]
        assert [message.position for message in made] == list(range(chat.count + 1, chat.count + 1 + len(made)))
        chat.places |= {message.position: message.id for message in made}
        chat.count += len(made)

    def published(self, name: str, sequences: list[int]) -> None:
        stream = self.streams.setdefault(name, Stream())
        assert sequences == list(range(stream.last + 1, stream.last + 1 + len(sequences)))
        stream.sequences |= {*sequences}
        stream.last += len(sequences)

    def some(self, dice: Any, kept: Any) -> Any:
        return dice.choice([*kept])

    def message(self, dice: Any) -> tuple[Chat, int, UUID] | None:
        """A message that exists: its conversation, position and id."""
        known = [(chat, place, key) for chat in self.chats.values() for place, key in sorted(chat.places.items())]
        return dice.choice(known) if known else None

    # ---- conversations ----

    @rule()
    def start(self) -> None:
        self.chats[self.storage.conversations.create(NewConversation()).id] = Chat()

    @rule(count=st.integers(0, 9))
    def import_a_conversation_with_its_count(self, count: int) -> None:
        key = uuid4()
        self.sql("INSERT INTO conversations (id, message_count) VALUES (%s, %s)", key, count)
        self.chats[key] = Chat(count)

    @rule(dice=PICK)
    def append(self, dice: Any) -> None:
        key = self.some(dice, self.chats)
        self.placed(key, [self.storage.messages.append(key, "user", "x")])

    @rule(dice=PICK)
    def create(self, dice: Any) -> None:
        key = self.some(dice, self.chats)
        self.placed(key, [self.storage.messages.create(NewMessage(conversation_id=key, role="user", content="x"))])

    @rule(dice=PICK, number=SMALL)
    def append_many(self, dice: Any, number: int) -> None:
        key = self.some(dice, self.chats)
        news = [NewMessage(conversation_id=key, role="user", content="x")] * number
        self.placed(key, list(self.storage.messages.append_many(key, news)))

    @rule(dice=PICK, number=SMALL)
    def create_many(self, dice: Any, number: int) -> None:
        ids = [self.some(dice, self.chats) for _ in range(number)]
        made = self.storage.messages.create_many(
            [NewMessage(conversation_id=key, role="user", content="x") for key in ids]
        )
        for key in dict.fromkeys(ids):
            self.placed(key, [message for message in made if message.conversation_id == key])

    @rule(dice=PICK, places=st.lists(PLACE, min_size=1, max_size=4, unique=True))
    def insert_with_positions(self, dice: Any, places: list[int]) -> None:
        key = self.some(dice, self.chats)
        chat = self.chats[key]
        new = {place: uuid4() for place in places}
        text = "INSERT INTO messages (id, conversation_id, position, role, content) SELECT *, 'user', '1' FROM"
        text += " (SELECT unnest(%s::uuid[]), %s::uuid, unnest(%s::int[])) AS given"
        if chat.places.keys() & new.keys():
            with pytest.raises(errors.UniqueViolation):
                self.sql(text, [*new.values()], key, places)
            return
        self.sql(text, [*new.values()], key, places)
        chat.places |= new
        chat.count = max(chat.count, *places)

    @rule(dice=PICK, count=COUNT)
    def set_the_count(self, dice: Any, count: int) -> None:
        key = self.some(dice, self.chats)
        for text in (
            "UPDATE conversations SET message_count = %s WHERE id = %s",
            "UPDATE conversations SET message_count = %s, last_message_at = clock_timestamp() WHERE id = %s",
        ):
            (self.sql if count == self.chats[key].count else self.refused)(text, count, key)

    @rule(dice=PICK)
    def upsert_a_conversation_by_hand(self, dice: Any) -> None:
        key = self.some(dice, self.chats)
        text = "INSERT INTO conversations (id, message_count) VALUES (%s, 0) ON CONFLICT (id) DO UPDATE SET"
        (self.refused if self.chats[key].count else self.sql)(f"{text} message_count = excluded.message_count", key)

    @rule(dice=PICK, count=COUNT)
    def change_a_conversation(self, dice: Any, count: int) -> None:
        key = self.some(dice, self.chats)
        with pytest.raises(InvalidValue):
            self.storage.conversations.update(key, message_count=count)  # type: ignore[call-arg]  # pyright: ignore
        self.storage.conversations.update(key, title="t")
        assert self.storage.conversations.update_many([*self.chats], {"title": "u"}) == len(self.chats)
        self.storage.conversations.patch(key, metadata={"k": count})

    @rule(dice=PICK)
    def move_a_message(self, dice: Any) -> None:
        if not (found := self.message(dice)):
            return
        chat, place, key = found
        other = self.some(dice, self.chats)
        with pytest.raises(InvalidValue, match="cannot be changed"):
            self.storage.messages.update(key, conversation_id=other)  # type: ignore[call-arg]  # pyright: ignore
        with pytest.raises(InvalidValue, match="cannot be changed"):
            self.storage.messages.update_many([key], {"position": place + 1})
        self.refused("UPDATE messages SET position = position + 1 WHERE id = %s", key)
        if self.chats[other] is not chat:
            self.refused("UPDATE messages SET conversation_id = %s WHERE id = %s", other, key)

    @rule(dice=PICK)
    def redact_a_message(self, dice: Any) -> None:
        if found := self.message(dice):
            assert self.storage.messages.update(found[2], content="…").position == found[1]
            self.storage.messages.patch(found[2], metadata={"redacted": True})

    @rule(dice=PICK, by_hand=st.booleans())
    def delete_a_message(self, dice: Any, by_hand: bool) -> None:
        if not (found := self.message(dice)):
            return
        chat, place, key = found
        if by_hand:
            self.sql("DELETE FROM messages WHERE id = %s", key)
        else:
            assert self.storage.messages.delete(key)
        del chat.places[place]

    @rule(dice=PICK, place=PLACE)
    def delete_the_end(self, dice: Any, place: int) -> None:
        key = self.some(dice, self.chats)
        self.storage.messages.delete_where({"conversation_id": key, "position__gte": place})
        self.chats[key].places = {at: of for at, of in self.chats[key].places.items() if at < place}

    @rule(dice=PICK, place=st.integers(-1, 12))
    def fork(self, dice: Any, place: int) -> None:
        key = self.some(dice, self.chats)
        chat = self.chats[key]
        if not 1 <= place <= chat.count:
            with pytest.raises(InvalidValue, match=f"1 to {chat.count}" if chat.count else "no messages"):
                self.storage.conversations.fork(key, place)
            place = chat.count
        fork = self.storage.conversations.fork(key, place or None)
        assert (fork.forked_from_id, fork.forked_at_position, fork.message_count) == (key, place, place)
        copies = self.storage.messages.page(fork.id, limit=100).items
        assert [copy.position for copy in copies] == sorted(at for at in chat.places if at <= place)
        self.chats[fork.id] = Chat(place, {copy.position: copy.id for copy in copies})

    @precondition(lambda self: len(self.chats) > 1)
    @rule(dice=PICK)
    def delete_a_conversation(self, dice: Any) -> None:
        key = self.some(dice, self.chats)
        assert self.storage.conversations.delete(key)
        del self.chats[key]

    # ---- streams ----

    @rule(dice=PICK, way=st.sampled_from(["publish", "create"]))
    def publish(self, dice: Any, way: str) -> None:
        name = dice.choice(self.names)
        if way == "publish":
            made = self.storage.stream_events.publish(name)
        else:
            made = self.storage.stream_events.create(NewStreamEvent(stream_id=name))
        self.published(name, [made.sequence])

    @rule(dice=PICK, number=SMALL, way=st.sampled_from(["publish_many", "create_many"]))
    def publish_many(self, dice: Any, number: int, way: str) -> None:
        name = dice.choice(self.names)
        news = [NewStreamEvent(stream_id=name)] * number
        if way == "publish_many":
            sequences = [*self.storage.stream_events.publish_many(name, news)]
        else:
            sequences = [event.sequence for event in self.storage.stream_events.create_many(news)]
        self.published(name, sequences)

    @rule(dice=PICK)
    def upsert_a_stream(self, dice: Any) -> None:
        name = dice.choice(self.names)
        stream = self.streams.setdefault(name, Stream())
        assert self.storage.event_streams.upsert(NewEventStream(stream_id=name)).last_sequence == stream.last

    @rule(dice=PICK)
    def create_a_stream(self, dice: Any) -> None:
        name = dice.choice(self.names)
        if name in self.streams:
            with pytest.raises(AlreadyExists):
                self.storage.event_streams.create(NewEventStream(stream_id=name))
        else:
            self.storage.event_streams.create(NewEventStream(stream_id=name))
            self.streams[name] = Stream()

    @precondition(lambda self: self.streams)
    @rule(dice=PICK, last=COUNT)
    def set_the_last_sequence(self, dice: Any, last: int) -> None:
        name = self.some(dice, self.streams)
        row = self.storage.event_streams.get_by(stream_id=name)
        assert row is not None
        for change in ({"last_sequence": last}, {"stream_id": "another"}):
            with pytest.raises(InvalidValue, match="cannot be changed"):
                self.storage.event_streams.update(row.id, **change)  # type: ignore[call-arg]  # pyright: ignore
            with pytest.raises(InvalidValue, match="cannot be changed"):
                self.storage.event_streams.update_many([row.id], change)
        run = self.sql if last == self.streams[name].last else self.refused
        run("UPDATE event_streams SET last_sequence = %s WHERE stream_id = %s", last, name)
        run(
            "INSERT INTO event_streams (stream_id, last_sequence) VALUES (%s, %s)"
            " ON CONFLICT (stream_id) DO UPDATE SET last_sequence = excluded.last_sequence",
            name, last,
        )  # fmt: skip
        self.refused("UPDATE event_streams SET stream_id = 'another' WHERE stream_id = %s", name)
        self.refused("UPDATE event_streams SET id = uuid_v7() WHERE stream_id = %s", name)

    @precondition(lambda self: self.streams)
    @rule(dice=PICK, sequences=st.lists(PLACE, min_size=1, max_size=4, unique=True))
    def insert_with_sequences(self, dice: Any, sequences: list[int]) -> None:
        name = self.some(dice, self.streams)
        stream = self.streams[name]
        text = "INSERT INTO stream_events (stream_id, sequence) SELECT %s, unnest(%s::bigint[])"
        if stream.sequences & {*sequences}:
            with pytest.raises(errors.UniqueViolation):
                self.sql(text, name, sequences)
            return
        self.sql(text, name, sequences)
        stream.sequences |= {*sequences}
        stream.last = max(stream.last, *sequences)

    @precondition(lambda self: any(stream.sequences for stream in self.streams.values()))
    @rule(dice=PICK)
    def rewrite_an_event(self, dice: Any) -> None:
        name = self.some(dice, [name for name, stream in self.streams.items() if stream.sequences])
        event = self.storage.stream_events.read(name)[0]
        for change in ({"data": {}}, {"stream_id": "x"}, {"node_id": "x"}, {"sequence": 99}):
            with pytest.raises(InvalidValue, match="cannot be changed"):
                self.storage.stream_events.update(event.id, **change)  # type: ignore[call-arg]  # pyright: ignore
        with pytest.raises(InvalidValue, match="cannot be changed"):
            self.storage.stream_events.patch(event.id, data={"k": 1})
        for column in ("data = '1'", "sequence = 99", "stream_id = 'x'", "node_id = 'x'", "created_at = now()"):
            self.refused(f"UPDATE stream_events SET {column} WHERE id = %s", event.id)

    @precondition(lambda self: self.streams)
    @rule(dice=PICK, sequence=PLACE)
    def delete_old_events(self, dice: Any, sequence: int) -> None:
        name = self.some(dice, self.streams)
        self.storage.stream_events.delete_where({"stream_id": name, "sequence__lt": sequence})
        self.streams[name].sequences = {one for one in self.streams[name].sequences if one >= sequence}

    @precondition(lambda self: self.streams)
    @rule(dice=PICK)
    def delete_a_stream(self, dice: Any) -> None:
        name = self.some(dice, self.streams)
        row = self.storage.event_streams.get_by(stream_id=name)
        assert row is not None
        assert self.storage.event_streams.delete(row.id)
        del self.streams[name]

    # ---- followers ----

    @rule(dice=PICK, after=st.integers(0, 12))
    def follow(self, dice: Any, after: int) -> None:
        name = dice.choice(self.names)
        rows = self.open.enter_context(self.storage.stream_events.follow(name, after))
        self.readers.append(Reader(name, rows, after))

    @precondition(lambda self: self.readers)
    @rule(dice=PICK)
    def read_on(self, dice: Any) -> None:
        self.read_all(dice.choice(self.readers))

    def read_all(self, reader: Reader) -> None:
        """Take exactly the events that the model expects; one too many would wait for ever."""
        stream = self.streams.get(reader.name)
        same = stream is reader.stream if reader.located else stream is not None and reader.seen <= stream.last
        after = reader.seen if same else 0
        expected = sorted(one for one in (stream.sequences if stream else ()) if one > after)
        if expected:
            taken = self.waiting.submit(lambda: [next(reader.rows).sequence for _ in expected])
            assert taken.result(timeout=20) == expected
            reader.seen, reader.stream, reader.located = expected[-1], stream, True

    # ---- what always holds ----

    @invariant()
    def counters_and_places_are_those_of_the_model(self) -> None:
        rows = self.raw.execute(
            "SELECT id, message_count, ARRAY(SELECT position FROM messages WHERE conversation_id = c.id ORDER BY 1)"
            " FROM conversations c WHERE id = ANY(%s)",
            [[*self.chats]],
        ).fetchall()
        assert {key: (count, places) for key, count, places in rows} == {
            key: (chat.count, sorted(chat.places)) for key, chat in self.chats.items()
        }
        for name in self.names:
            head, stream = self.storage.stream_events.head(name), self.streams.get(name)
            assert (head and head.last_sequence) == (stream and stream.last)
            sequences = [event.sequence for event in self.storage.stream_events.read(name, limit=1000)]
            assert sequences == sorted(stream.sequences if stream else ())

    def teardown(self) -> None:
        try:
            for key in self.chats:
                self.placed(key, [self.storage.messages.append(key, "user", "the next")])
            for name in self.names:
                self.published(name, [self.storage.stream_events.publish(name).sequence])
            for reader in self.readers:
                self.read_all(reader)
        finally:
            self.open.close()


def test_no_statement_keeps_the_next_append_or_the_next_event_from_its_place(
    sync_storage: sync.Storage, migrated: str
) -> None:
    with psycopg.connect(migrated, autocommit=True) as connection:
        run_state_machine_as_test(
            lambda: Counters(sync_storage, connection),
            settings=settings(
                max_examples=40,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
