"""The counters' migration on a database whose counters, threads and forks were left as the old rules allowed."""

from __future__ import annotations

import psycopg

from agent_storage.migrations.migrator import Migrator
from agent_storage.sync import Storage

BEFORE, COUNTERS = "20261121235000_immutable_columns", "20261121235200_counters"
LEFT = """
    INSERT INTO conversations (id, message_count)
    SELECT ('00000000-0000-7000-8000-00000000000' || n)::uuid, n FROM generate_series(1, 3) n;
    INSERT INTO messages (id, conversation_id, position, role, content, parent_id)
    SELECT ('00000000-0000-7000-8000-0000000000' || of || place)::uuid,
           ('00000000-0000-7000-8000-00000000000' || of)::uuid, place, 'user', '"x"',
           CASE WHEN place > 1 THEN '00000000-0000-7000-8000-000000000011'::uuid END
      FROM generate_series(1, 2) of, generate_series(1, 2) place;
    INSERT INTO event_streams (stream_id, last_sequence) VALUES ('behind', 0), ('ahead', 9);
    INSERT INTO stream_events (stream_id, sequence)
    SELECT unnest('{behind,ahead}'::text[]), n FROM generate_series(1, 4) n;
"""


def test_counters_are_raised_to_their_rows_and_threads_end_at_their_conversation(database: str) -> None:
    migrator = Migrator(database)
    migrator.up(to=BEFORE)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(LEFT)
        migrator.up(to=COUNTERS)
        counts = connection.execute("SELECT message_count FROM conversations ORDER BY id").fetchall()
        assert counts == [(2,), (2,), (3,)]  # the first was behind its two messages; deleted ones still count
        parents = connection.execute("SELECT parent_id IS NOT NULL FROM messages ORDER BY id").fetchall()
        assert parents == [(False,), (True,), (False,), (False,)]
        lasts = connection.execute("SELECT last_sequence FROM event_streams ORDER BY stream_id").fetchall()
        assert lasts == [(9,), (4,)]
        migrator.down(to=BEFORE)
        connection.execute("UPDATE messages SET position = 7 WHERE id::text LIKE '%11'")
        connection.execute("UPDATE stream_events SET data = '1'")
        migrator.up()
    with Storage(database) as storage:
        for chat, position in zip(storage.conversations.find(order_by="id"), (8, 3, 4), strict=True):
            assert storage.messages.append(chat.id, "user", "next").position == position
        assert storage.stream_events.publish("behind").sequence == 5
        assert storage.stream_events.publish("ahead").sequence == 10
