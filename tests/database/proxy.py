"""A proxy before the server of the tests, which cuts a connection at one packet."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Proxy:
    """Forwards connections to the server of `conninfo`, and cuts one at the packet that `arm` names."""

    def __init__(self, conninfo: str) -> None:
        parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
        self._server = parts
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.conninfo = make_conninfo(conninfo, host="127.0.0.1", port=self._listening.getsockname()[1])
        self._lock = threading.Lock()
        self._armed: tuple[str, int, bool] | None = None
        self.cuts = 0
        #: Connections that were cut, on which the server has not finished yet.
        self.ending = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, direction: str, number: int, *, deliver: bool) -> None:
        """Cut at the packet of this number in a direction (`request`, `answer`), delivered or not."""
        with self._lock:
            self._armed = (direction, number, deliver)

    def disarm(self) -> bool:
        """Cut no more. Return whether a cut was still to come."""
        with self._lock:
            armed, self._armed = self._armed, None
        return armed is not None

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = self._connect()
                cut = threading.Event()
                for one_way in (("request", client, server, cut), ("answer", server, client, cut)):
                    threading.Thread(target=self._pass_on, args=one_way, daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = self._server.get("host", "localhost"), self._server.get("port", "5432")
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _pass_on(self, direction: str, source: socket.socket, sink: socket.socket, cut: threading.Event) -> None:
        client, server = (source, sink) if direction == "request" else (sink, source)
        with suppress(OSError):
            while data := source.recv(65536):
                deliver = self._delivers(direction, cut)
                if deliver:
                    sink.sendall(data)
                if cut.is_set():
                    break
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)
        if direction == "answer":
            with suppress(OSError):
                while server.recv(65536):  # until the server has finished what it runs
                    pass
            with self._lock:
                self.ending -= cut.is_set()
            source.close()
            sink.close()

    def _delivers(self, direction: str, cut: threading.Event) -> bool:
        with self._lock:
            if cut.is_set() or self._armed is None or self._armed[0] != direction:
                return not cut.is_set()
            _, number, deliver = self._armed
            self._armed = (direction, number - 1, deliver) if number else None
            if number:
                return True
            self.cuts += 1
            self.ending += 1
            cut.set()
            return deliver
