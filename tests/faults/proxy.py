"""A TCP proxy before the server of the tests, which fails in the ways of a network and of a server.

`silent`: bytes are accepted and acknowledged, and nothing comes back. `down()`: connections are refused, and those that
are open are reset. `delay`: each piece of an answer comes later. `cut_at`: the connection is reset after so many bytes
of the answers, which then do not reach the client.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections to the server of `conninfo`, in one thread for each connection."""

    def __init__(self, conninfo: str) -> None:
        parts = conninfo_to_dict(conninfo)
        self._target = (str(parts.get("host") or "localhost"), int(parts.get("port") or 5432))
        self._listening: socket.socket | None = None
        self._port = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._answered = 0
        self.silent = False
        self.delay = 0.0
        self.cut_at: int | None = None
        self.up()
        self.conninfo = make_conninfo(
            conninfo, host="127.0.0.1", port=self._port, sslmode="disable", gssencmode="disable"
        )

    def up(self) -> None:
        """Accept connections, on the same port as before."""
        listening = socket.create_server(("127.0.0.1", self._port), reuse_port=False)
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
            for one in self._open:
                with suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.silent = False
        self.down()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
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
                self._open |= {client, server}
            try:
                selector.register(client, selectors.EVENT_READ, server)
                selector.register(server, selectors.EVENT_READ, client)
                while self._forward(selector, server):
                    pass
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _forward(self, selector: selectors.BaseSelector, server: socket.socket) -> bool:
        for key, _ in selector.select(0.05):
            source, sink = key.fileobj, key.data
            assert isinstance(source, socket.socket)
            data = source.recv(65536)
            if not data:
                return False
            if self.silent:
                continue
            if source is server:
                if self.delay:
                    time.sleep(self.delay)
                self._answered += len(data)
                if self.cut_at is not None and self._answered >= self.cut_at:
                    sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    return False
            sink.sendall(data)
        return True
