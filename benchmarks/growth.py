"""Measure large tables.

    python -m benchmarks.growth                        a million messages
    python -m benchmarks.growth --rows 10000000        ten million: some minutes, and 5 GB of disk
    python -m benchmarks.growth --json FILE            the figures too, as JSON

Pages at any depth, keys that grow beside random ones, and updates of hot tables with room on their pages and without.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import LiteralString
from uuid import UUID

import psycopg
from psycopg import sql

from agent_storage.sync import Storage

from .figures import Figure, save, show
from .serving import a_database, machine

CONVERSATIONS = 1000

#: The share of a page that is filled at first, and the hot tables with what is updated in them.
FILLED = (100, 90, 70, 50)
HOT: dict[str, LiteralString] = {
    "budget_pools": "used_budget = used_budget + 0.01",
    "sessions": "data = jsonb_set(data, '{message_count}', to_jsonb(%(round)s::int))",
    "conversations": "message_count = message_count + 1, last_message_at = clock_timestamp()",
}
HOT_ROWS: dict[str, LiteralString] = {
    "budget_pools": "INSERT INTO {} (total_budget) SELECT 1000 FROM generate_series(1, %(rows)s)",
    "sessions": "INSERT INTO {} (agent, data) SELECT 'coder', '{{\"title\": \"t\"}}' FROM generate_series(1, %(rows)s)",
    "conversations": "INSERT INTO {} (title) SELECT 'Chat ' || n FROM generate_series(1, %(rows)s) n",
}


def seed(connection: psycopg.Connection, rows: int) -> Figure:
    """Messages by COPY, as they would have come: ids in order of time, conversations taking turns."""
    connection.execute("DROP INDEX messages_search_idx")  # words are another question, and would take most of the time
    chats = [UUID(int=(n << 64) + (7 << 76) + (2 << 62)) for n in range(CONVERSATIONS)]
    with connection.cursor() as cursor, cursor.copy("COPY conversations (id, title) FROM STDIN") as copy:
        for chat in chats:
            copy.write_row((chat, "Chat"))
    started = time.perf_counter()
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY messages (id, conversation_id, position, role, content) FROM STDIN") as copy,
    ):
        for lines in _lines([chat.hex for chat in chats], rows):
            copy.write(lines)
    seconds = time.perf_counter() - started
    connection.execute("VACUUM ANALYZE messages")
    return Figure(f"{rows:,} messages", "COPY", rows / seconds, "per s")


def _lines(chats: list[str], rows: int) -> Iterator[str]:
    dice = random.Random(7)
    start = 1_760_000_000_000
    for first in range(0, rows, 10_000):
        part: list[str] = []
        for n in range(first, min(first + 10_000, rows)):
            key = f"{start + n // 8:012x}7{n % 8:03x}8{dice.getrandbits(60):015x}"
            chat, position = chats[n % CONVERSATIONS], n // CONVERSATIONS + 1
            part.append(f'{key}\t{chat}\t{position}\tuser\t"Message {n} of them all, and what it has to say"\n')
        yield "".join(part)
        if first % 1_000_000 == 0:
            print(f"  {first:,} of {rows:,}", flush=True)


def median_ms(call: Callable[[], object], runs: int = 30) -> float:
    """Milliseconds of a call."""
    call()
    took: list[float] = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)


def pages(conninfo: str, rows: int) -> list[Figure]:
    """A page of 100 by keyset, the first and a deep one; and the deep one by offset."""
    depth = min(10_000, rows // 100 - 1)
    work = f"page of 100 among {rows:,}"
    with Storage(conninfo, statement_timeout=0) as storage, psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT id FROM messages ORDER BY id OFFSET %s LIMIT 1", (100 * depth - 1,)).fetchone()
        assert row is not None
        before = storage.messages.page({"id__lte": row[0]}, order_by="id", limit=1)
        cursor = storage.messages.page({"id": row[0]}, limit=1).next_cursor or _cursor_after(storage, row[0])
        chat = before.items[0].conversation_id
        return [
            Figure(work, "page(), page 1", median_ms(lambda: storage.messages.page(limit=100)), "ms"),
            Figure(
                work,
                f"page(), page {depth:,}",
                median_ms(lambda: storage.messages.page(limit=100, cursor=cursor)),
                "ms",
            ),
            Figure(
                work,
                f"find(offset), page {depth:,}",
                median_ms(lambda: storage.messages.find(limit=100, offset=100 * depth), 5),
                "ms",
            ),
            Figure(work, "latest 100 of a conversation", median_ms(lambda: storage.messages.latest(chat)), "ms"),
        ]


def _cursor_after(storage: Storage, id: UUID) -> str:
    """Return the cursor after the row `id`: that of a page which ends with it."""
    found = storage.messages.page({"id__gte": id}, limit=1)
    assert found.next_cursor is not None
    return found.next_cursor


def sizes(connection: psycopg.Connection) -> list[Figure]:
    """How large the table and its indexes are."""
    rows = connection.execute(
        "SELECT relname, pg_relation_size(oid) / 1e6 FROM pg_class"
        " WHERE oid = 'messages'::regclass"
        "    OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'messages'::regclass)"
        " ORDER BY 2 DESC"
    ).fetchall()
    return [Figure("size", name, float(size), "MB") for name, size in rows]


def keys(connection: psycopg.Connection, rows: int) -> list[Figure]:
    """A key that grows with time beside a random one: inserts, the log they write, the index they leave."""
    found: list[Figure] = []
    functions: dict[str, LiteralString] = {"UUIDv7": "uuid_v7()", "UUIDv4": "gen_random_uuid()"}
    for name, function in functions.items():
        table = sql.Identifier(f"keys_{name.lower()}")
        connection.execute(sql.SQL("CREATE TABLE {} (id uuid PRIMARY KEY, body text)").format(table))
        insert = sql.SQL("INSERT INTO {} SELECT {}, 'body' FROM generate_series(1, %s)").format(
            table, sql.SQL(function)
        )
        started = time.perf_counter()
        for _ in range(10):
            connection.execute(insert, (rows // 10,))
        seconds = time.perf_counter() - started
        connection.execute("CHECKPOINT")
        before = _log(connection)
        for _ in range(1000):
            connection.execute(insert, (1,))
        written = (_log(connection) - before) / 1000
        row = connection.execute(
            "SELECT pg_relation_size(indexrelid) / 1e6 FROM pg_index WHERE indrelid = %s::regclass",
            (f"keys_{name.lower()}",),
        ).fetchone()
        assert row is not None
        work = f"key, {rows:,} rows"
        found.append(Figure(work, name, rows / seconds, "per s", "in ten statements"))
        found.append(Figure(work, name, written, "bytes of log", "for a row committed alone, after a checkpoint"))
        found.append(Figure(work, name, float(row[0]), "MB", "index"))
    return sorted(found, key=lambda one: (one.unit, one.by))


def _log(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
    assert row is not None
    return int(row[0])


def hot(connection: psycopg.Connection, rows: int = 20_000, rounds: int = 8) -> list[Figure]:
    """Every row of a hot table updated again and again, vacuumed in between: how many were HOT, how it swells."""
    found: list[Figure] = []
    for table, change in HOT.items():
        for filled in FILLED:
            name = f"{table}_{filled}"
            place = sql.Identifier(name)
            connection.execute(
                sql.SQL(
                    "CREATE TABLE {} (LIKE {} INCLUDING ALL) WITH (fillfactor = {}, autovacuum_enabled = off)"
                ).format(place, sql.Identifier(table), sql.Literal(filled))
            )
            connection.execute(sql.SQL(HOT_ROWS[table]).format(place), {"rows": rows})
            started = time.perf_counter()
            for round_ in range(rounds):
                update = sql.SQL("UPDATE {} SET {} WHERE abs(hashtext(id::text)) %% 10 = %(part)s")
                for part in range(10):  # as separate transactions, so that pages are pruned as they would be
                    given = {"round": round_, "part": part}
                    connection.execute(update.format(place, sql.SQL(change)), given)
                connection.execute(sql.SQL("VACUUM {}").format(place))
            seconds = time.perf_counter() - started
            connection.execute("SELECT pg_stat_force_next_flush()")
            row = connection.execute(
                "SELECT n_tup_hot_upd::float / nullif(n_tup_upd, 0), pg_total_relation_size(relid) / 1e6"
                "  FROM pg_stat_user_tables WHERE relname = %s",
                (name,),
            ).fetchone()
            assert row is not None
            note = f"{row[1]:.1f} MB after {rounds} rounds, {seconds:.1f} s"
            found.append(Figure(f"{table} updated", f"fillfactor {filled}", 100 * (row[0] or 0), "% HOT", note))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description="Much of everything.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many messages; a tenth for the keys")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    wanted = parser.parse_args()
    with a_database({"max_wal_size": "4GB"}) as conninfo:
        about = machine(conninfo)
        print(" · ".join(f"{name} {value}" for name, value in about.items()))
        with psycopg.connect(conninfo, autocommit=True) as connection:
            figures = [
                *hot(connection),
                *keys(connection, max(wanted.rows // 5, 100_000)),
                seed(connection, wanted.rows),
            ]
            figures += [*pages(conninfo, wanted.rows), *sizes(connection)]
    show("Growth", figures)
    if wanted.json:
        save(wanted.json, about, figures)


if __name__ == "__main__":
    main()
