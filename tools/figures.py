"""Count the frames of a call: the Python function calls of this package, by `sys.setprofile`, on a temporary server.

    python tools/figures.py             print the figures of "The cost of a call" in ARCHITECTURE.md
    python tools/figures.py --frames    list the functions too

A frame is a "call" event of a function whose file is in the package. Resuming a coroutine or generator is one more, and
so is a comprehension until Python 3.11, so compare figures of the same Python version. Files are the distinct files of
these functions, returns the functions that return or yield a value. Calls of psycopg, pydantic and yoyo are not
counted.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import agent_storage
from agent_storage import sync
from agent_storage.embedded import EmbeddedServer
from agent_storage.migrations.migrator import Migrator
from agent_storage.types import NewConversation

PACKAGE = Path(agent_storage.__file__).parent
HEADER = "| call | frames | files | returns |\n|---|---|---|---|"


class Frames:
    """The functions of the package that a block called, in order."""

    def __init__(self) -> None:
        self.called: list[CodeType] = []
        # The frames are kept, because the identity of a finished one may be used again.
        self._returned: set[FrameType] = set()

    def profile(self, frame: FrameType, event: str, value: Any) -> None:
        """Count an event, as `sys.setprofile` reports it."""
        code = frame.f_code
        if not code.co_filename.startswith(str(PACKAGE)):
            return
        if event == "call":
            self.called.append(code)
        elif event == "return" and value is not None:
            self._returned.add(frame)  # once, though a generator yields several times

    def __str__(self) -> str:
        files = len({code.co_filename for code in self.called})
        return f"{len(self.called)} | {files} | {len(self._returned)}"

    def listed(self) -> str:
        """Return the functions with how often each was called, in the order of their first calls."""
        counts = Counter(
            f"{Path(code.co_filename).relative_to(PACKAGE)}:{code.co_firstlineno} {code.co_qualname}"
            for code in self.called
        )
        return "\n".join(f"    {times:>4}  {name}" for name, times in counts.items())


@contextmanager
def counted() -> Generator[Frames]:
    """Count the frames of the block, in this thread and in those that it starts."""
    frames = Frames()
    threading.setprofile(frames.profile)
    sys.setprofile(frames.profile)
    try:
        yield frames
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # pyright: ignore[reportArgumentType]


async def on_the_async_face(conninfo: str) -> dict[str, Frames]:
    """Count a warm `messages.append`."""
    async with agent_storage.Storage(conninfo) as storage:
        conversation = await storage.conversations.create(NewConversation())
        for _ in range(20):  # every shared connection has described the statement
            await storage.messages.append(conversation.id, "user", "hello")
        with counted() as append:
            await storage.messages.append(conversation.id, "user", "hello")
    return {"`messages.append`, warm, async": append}


def on_the_sync_face(conninfo: str) -> dict[str, Frames]:
    """Count a warm `messages.append`, and a `page` that is composed and one that is cached."""
    with sync.Storage(conninfo) as storage:
        conversation = storage.conversations.create(NewConversation())
        for _ in range(20):
            storage.messages.append(conversation.id, "user", "hello")
        with counted() as append:
            storage.messages.append(conversation.id, "user", "hello")
        where = {"title__ilike": "%x%"}
        with counted() as cold:
            storage.conversations.page(where, limit=10)
        with counted() as warm:
            storage.conversations.page(where, limit=10)
    return {
        "`messages.append`, warm, sync": append,
        "`page(where)`, cold, sync": cold,
        "`page(where)`, warm, sync": warm,
    }


def of_a_migration(conninfo: str, folder: Path) -> dict[str, Frames]:
    """Count `up` of one file with one statement, in a database that has the tracking tables."""
    (folder / "20260101000000_first.sql").write_text("CREATE TABLE first (id int);\n", "utf-8")
    (folder / "20260101000000_first.rollback.sql").write_text("DROP TABLE first;\n", "utf-8")
    Migrator(conninfo, folder).up()
    (folder / "20260101000001_second.sql").write_text("CREATE TABLE second (id int);\n", "utf-8")
    (folder / "20260101000001_second.rollback.sql").write_text("DROP TABLE second;\n", "utf-8")
    with counted() as up:
        Migrator(conninfo, folder).up()
    with counted() as nothing:
        Migrator(conninfo, folder).up()
    return {"`migrate up` of one statement": up, "`migrate up` at head": nothing}


def main() -> None:
    """Count and print."""
    with tempfile.TemporaryDirectory(prefix="storage-figures-") as temporary:
        Path(temporary).chmod(0o755)  # as root, the server runs under another account
        with EmbeddedServer(Path(temporary) / "data") as server:
            conninfo = server.conninfo("figures")
            Migrator(conninfo).up()
            found = asyncio.run(on_the_async_face(conninfo)) | on_the_sync_face(conninfo)
            folder = Path(temporary) / "versions"
            folder.mkdir()
            found |= of_a_migration(server.conninfo("migrations"), folder)
    print(HEADER)
    for name, frames in found.items():
        print(f"| {name} | {frames} |")
    top = [path for path in PACKAGE.iterdir() if path.name not in {"__pycache__", "py.typed"}]
    print(f"\nentries at the top of the package: {len(top)}")
    if "--frames" in sys.argv[1:]:
        for name, frames in found.items():
            print(f"\n{name}\n{frames.listed()}")


if __name__ == "__main__":
    main()
