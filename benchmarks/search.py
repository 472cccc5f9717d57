"""Measure search in messages: what the index costs a writer, and what a search takes.

    python -m benchmarks.search                        60,000 messages of 80 words, with the index and without
    python -m benchmarks.search --json FILE            the figures too, as JSON

Messages are inserted in batches of 1,000, by a writer alone, and one by one beside that writer. The index of a round
without is dropped. One more round merges the words in the INSERT, as an index without `gin_pending_list_limit` does.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString
from uuid import UUID

import psycopg

from agent_storage.sync import Storage
from agent_storage.types import NewConversation, NewMessage

from .figures import Figure, percentile, save, show
from .serving import a_database, machine

BATCH, WORDS, VOCABULARY, SEARCHES = 1000, 80, 20_000, 100
SETTINGS = {"synchronous_commit": "off", "autovacuum_naptime": "5s"}

WAYS: dict[str, LiteralString] = {
    "without the index": "DROP INDEX messages_search_idx",
    "agent-storage": "SELECT",
    "agent-storage, merged in the INSERT": "ALTER INDEX messages_search_idx RESET (gin_pending_list_limit)",
}


def vocabulary(dice: random.Random) -> list[str]:
    syllables = [a + b for a in "bcdfghklmnprstv" for b in "aeiou"]
    return list(dict.fromkeys("".join(dice.choices(syllables, k=dice.randint(1, 4))) for _ in range(2 * VOCABULARY)))


def texts(count: int) -> Iterator[str]:
    """Sentences of words that are as frequent as words are (Zipf), the same in each run."""
    dice = random.Random(1)
    words = vocabulary(dice)[:VOCABULARY]
    weights = list(itertools.accumulate(1 / (rank + 10) for rank in range(len(words))))
    for _ in range(count):
        chosen = dice.choices(words, cum_weights=weights, k=WORDS)
        yield " ".join(word + "." if place % 11 == 10 else word for place, word in enumerate(chosen)).capitalize()


def insert(storage: Storage, chat: UUID, contents: list[str]) -> list[float]:
    """Insert the messages in batches. Return the seconds of each."""
    taken: list[float] = []
    for first in range(0, len(contents), BATCH):
        news = [NewMessage(conversation_id=chat, role="user", content=one) for one in contents[first : first + BATCH]]
        started = time.perf_counter()
        storage.messages.create_many(news)
        taken.append(time.perf_counter() - started)
    return taken


@contextmanager
def appending(storage: Storage, chat: UUID, contents: list[str]) -> Iterator[list[float]]:
    """Append messages one by one while the block runs. Yield the list of their seconds."""
    taken: list[float] = []
    ended = threading.Event()

    def append() -> None:
        for one in itertools.cycle(contents):
            if ended.is_set():
                return
            started = time.perf_counter()
            storage.messages.append(chat, "user", one)
            taken.append(time.perf_counter() - started)

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield taken
    finally:
        ended.set()
        thread.join()


def bulk(by: str, conninfo: str, contents: list[str]) -> Iterator[Figure]:
    """The cost of the index for a writer alone, then for single appends beside it."""
    with psycopg.connect(conninfo, autocommit=True) as connection, Storage(conninfo, statement_timeout=60) as storage:
        connection.execute(WAYS[by])
        chats = storage.conversations.create_many([NewConversation(), NewConversation()])
        connection.execute("CHECKPOINT")
        (before,) = connection.execute("SELECT pg_current_wal_lsn()").fetchone() or (None,)
        taken = insert(storage, chats[0].id, contents)
        wal = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), %s)::float8 / 1e6", [before]).fetchone()
        work = f"{len(contents):,} messages of {WORDS} words, in batches of {BATCH:,}"
        yield Figure(work, by, sum(taken), "s", f"worst batch {1000 * max(taken):.0f} ms")
        yield Figure(f"{work}: WAL", by, (wal or (0,))[0], "MB")
        with appending(storage, chats[1].id, contents[:BATCH]) as single:
            insert(storage, chats[0].id, contents)
        note = f"p50 {1000 * statistics.median(single):.2f} ms, p99.9 {1000 * percentile(single, 0.999):.1f} ms"
        yield Figure("worst single append beside such a bulk", by, 1000 * max(single), "ms", note)


def found(storage: Storage, chat: UUID) -> float:
    """Return the seconds from the beginning of an append until a search has found the message."""
    started = time.perf_counter()
    word = f"needle{time.monotonic_ns()}"
    storage.messages.append(chat, "user", f"a {word} among them")
    while not storage.messages.search(word):
        pass
    return time.perf_counter() - started


def searches(conninfo: str, contents: list[str]) -> Iterator[Figure]:
    """The duration of searches of all messages: words as messages have them, so mostly frequent ones."""
    dice = random.Random(2)
    words = [word for text in dice.sample(contents, SEARCHES) for word in dice.sample(text.strip(".").split(), 2)]
    rare = vocabulary(random.Random(1))[VOCABULARY - SEARCHES : VOCABULARY]
    with psycopg.connect(conninfo, autocommit=True) as connection, Storage(conninfo, statement_timeout=60) as storage:
        chat = storage.conversations.create(NewConversation()).id
        insert(storage, chat, contents)
        count = storage.messages.count()
        kinds: dict[str, Callable[[int], str]] = {
            "a word of a message": lambda n: words[n],
            "two words of a message": lambda n: " ".join(words[2 * n : 2 * n + 2]),
            "a rare word": lambda n: rare[n],
            "the first letters of a rare word": lambda n: rare[n][:5],
        }
        merged = 0.0
        for state in ("words waiting", "merged"):
            if state == "merged":
                started = time.perf_counter()
                connection.execute("SELECT gin_clean_pending_list('messages_search_idx')")
                merged = time.perf_counter() - started
            yield Figure(
                "until an appended message is found", f"agent-storage, {state}",
                1000 * statistics.median(found(storage, chat) for _ in range(20)), "ms", "median of 20",
            )  # fmt: skip
            for kind, text in kinds.items():
                taken: list[float] = []
                for n in range(SEARCHES):
                    started = time.perf_counter()
                    storage.messages.search(text(n))
                    taken.append(time.perf_counter() - started)
                note = f"p99 {1000 * percentile(taken, 0.99):.0f} ms"
                work = f"search {count:,} messages: {kind}"
                yield Figure(work, f"agent-storage, {state}", 1000 * statistics.median(taken), "ms", note)
        yield Figure("merge the waiting words, as autovacuum does", "agent-storage", merged, "s")


def main() -> None:
    """Run all rounds, each on a server of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=60_000, metavar="N", help="messages inserted (60,000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    contents = list(texts(options.messages))
    figures: list[Figure] = []
    for by in WAYS:
        with a_database(SETTINGS) as conninfo:
            figures += bulk(by, conninfo, contents)
    with a_database({**SETTINGS, "autovacuum": "off"}) as conninfo:
        about = machine(conninfo)
        figures += searches(conninfo, list(texts(100_000 * options.messages // 60_000)))
    figures.sort(key=lambda figure: figure.work)
    show("search", figures)
    if options.json:
        save(options.json, about, figures)


if __name__ == "__main__":
    main()
