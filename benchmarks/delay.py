"""Part of `benchmarks.compare`: a network between client and server, made of a proxy that lets everything wait."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo


@contextmanager
def delayed(conninfo: str, seconds: float) -> Iterator[str]:
    """The same server behind a proxy that adds `seconds` to each way; without any, the server itself."""
    if not seconds:
        yield conninfo
        return
    part = conninfo_to_dict(conninfo)
    name = f".s.PGSQL.{part.get('port') or 5432}"
    server = Path(str(part["host"])) / name
    with tempfile.TemporaryDirectory(prefix="delay-") as folder:
        proxy = _Proxy(server, Path(folder) / name, seconds)
        proxy.start()
        try:
            yield make_conninfo(conninfo, host=folder)
        finally:
            proxy.stop()


class _Proxy:
    """Forward bytes between two unix sockets, in a separate thread and event loop."""

    def __init__(self, server: Path, own: Path, seconds: float) -> None:
        self._server, self._own, self._seconds = server, own, seconds
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(self._connected, os.fspath(self._own))
        self._ready.set()
        await self._ended.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(os.fspath(self._server))
        with suppress(asyncio.CancelledError):  # asyncio's streams do not expect their task to be cancelled
            await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(65536):
            loop.call_later(self._seconds, writer.write, data)
        loop.call_later(self._seconds, writer.close)
