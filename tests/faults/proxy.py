"""A TCP proxy before the server of the tests, which fails in the ways of a network and of a server.

| fault | what happens |
|---|---|
| `down()`, `up()` | connections are refused, and those that are open are reset |
| `reset()` | the open connections are reset |
| `half_close()` | the client gets the end of the answers, and may go on sending |
| `silent` | bytes are accepted and acknowledged in both directions, and passed on in none |
| `black_hole` | the server gets what is sent, and its answers are lost |
| | A connection that lost a byte in one of these ways passes nothing on any more, as TCP would not. |
| `delay` | each piece of an answer comes so many seconds later |
| `cut(answers=n)`, `cut(requests=n)` | one connection ends after exactly n more bytes in that direction |

`python -m tests.faults.proxy CONNINFO HOST` runs one until its input ends, for a proxy in another network namespace.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from typing import Literal, Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_RESET = struct.pack("ii", 1, 0)
Direction = Literal["answers", "requests"]


class Proxy:
    """Forwards connections to the server of `conninfo`, in one thread for each connection."""

    def __init__(self, conninfo: str, host: str = "127.0.0.1") -> None:
        parts = conninfo_to_dict(conninfo)
        self._target = (str(parts.get("host") or "localhost"), int(parts.get("port") or 5432))
        self._listening: socket.socket | None = None
        self._host, self._port = host, 0
        #: The open connections, by the client's socket.
        self._open: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self._cut: tuple[Direction, int, bool] | None = None
        #: How many bytes have passed.
        self.passed: dict[Direction, int] = {"answers": 0, "requests": 0}
        self.silent = False
        self.black_hole = False
        self.delay = 0.0
        self.up()
        self.conninfo = make_conninfo(conninfo, host=host, port=self._port, sslmode="disable", gssencmode="disable")

    def up(self) -> None:
        """Accept connections, on the same port as before."""
        listening = socket.create_server((self._host, self._port), reuse_port=False)
        self._listening, self._port = listening, listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections, and reset those that are open."""
        if self._listening is not None:
            with suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        self.reset()

    def reset(self) -> None:
        """Reset the connections that are open."""
        with self._lock:
            for one in [*self._open, *self._open.values()]:
                with suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    one.shutdown(socket.SHUT_RDWR)

    def half_close(self) -> None:
        """End the answers on the open connections, which accept requests as before."""
        with self._lock:
            for client in self._open:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_WR)

    def cut(self, *, answers: int | None = None, requests: int | None = None, reset: bool = False) -> None:
        """End the connection on which the given number of bytes has passed from now on; with `reset` by a reset."""
        with self._lock:
            if answers is not None:
                self._cut = ("answers", answers, reset)
            elif requests is not None:
                self._cut = ("requests", requests, reset)
            else:
                self._cut = None

    @property
    def armed(self) -> bool:
        """Return whether a `cut` has not happened yet."""
        return self._cut is not None

    def heal(self) -> None:
        """End every fault but the resets."""
        self.silent = self.black_hole = False
        self.delay = 0.0
        self.cut()
        if self._listening is None:
            self.up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.silent = self.black_hole = False
        self.down()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = self._target
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
            return server
        return socket.create_connection(self._target)

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, self._connect() as server, selectors.DefaultSelector() as selector:
            with self._lock:
                self._open[client] = server
            try:
                selector.register(client, selectors.EVENT_READ, server)
                selector.register(server, selectors.EVENT_READ, client)
                lost: set[Direction] = set()
                while self._forward(selector, server, lost):
                    pass
            finally:
                with self._lock:
                    del self._open[client]

    def _forward(self, selector: selectors.BaseSelector, server: socket.socket, lost: set[Direction]) -> bool:
        for key, _ in selector.select(0.05):
            source, sink = key.fileobj, key.data
            assert isinstance(source, socket.socket)
            data = source.recv(65536)
            if not data:
                return False
            direction: Direction = "answers" if source is server else "requests"
            if self.silent or (self.black_hole and direction == "answers"):
                lost.add(direction)
            if direction in lost:
                continue
            if self.delay and direction == "answers":
                time.sleep(self.delay)
            data, ends = self._shortened(direction, data, source if direction == "requests" else sink)
            sink.sendall(data)
            if ends:
                return False
        return True

    def _shortened(self, direction: Direction, data: bytes, client: socket.socket) -> tuple[bytes, bool]:
        """Return the part of `data` that passes, and whether the connection ends after it."""
        with self._lock:
            ends = False
            if self._cut is not None and self._cut[0] == direction:
                _, left, reset = self._cut
                ends = len(data) >= left
                self._cut = None if ends else (direction, left - len(data), reset)
                data = data[:left]
                if ends and reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.passed[direction] += len(data)
            return data, ends


if __name__ == "__main__":
    with Proxy(*sys.argv[1:3]) as made:
        sys.stdout.write(made.conninfo + "\n")
        sys.stdout.flush()
        sys.stdin.read()
