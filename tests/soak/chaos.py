"""Random faults of the server, the network and the process."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import psycopg

from agent_storage.embedded import EmbeddedServer

from ..faults.proxy import Proxy

LOAD = "application_name LIKE 'soak %' AND datname = current_database()"


class Chaos:
    """Injects one fault at a time, and ends it. Runs in a thread."""

    def __init__(self, server: EmbeddedServer, conninfo: str, proxies: list[Proxy], seed: int) -> None:
        self._server = server
        self._conninfo = conninfo
        self._proxies = proxies
        self._chance = random.Random(seed)
        self._columns = 0
        self.faults: dict[str, Callable[[], None]] = {
            "a backend is terminated": self._terminate,
            "a backend is killed (kill -9)": self._kill_backend,
            "the server is killed (kill -9)": self._kill_server,
            "connections are reset": self._reset,
            "connections are half closed": self._half_close,
            "connections are refused for 1 s": self._refuse,
            "the peer is silent for 1 s": self._silent,
            "answers are lost for 1 s": self._black_hole,
            "answers come 20 ms late for 1 s": self._delay,
            "an answer is cut": self._cut_answers,
            "a request is cut": self._cut_requests,
            "tables are locked for 0.3 s": self._lock,
            "statements are cancelled": self._cancel,
            "the schema changes": self._alter,
        }

    def inject(self, name: str | None = None) -> tuple[str, float]:
        """Inject a fault and end it. Return its name, and when it ended."""
        name = name or self._chance.choice(list(self.faults))
        with suppress(psycopg.Error):  # the fault before may still be felt
            self.faults[name]()
        for proxy in self._proxies:
            proxy.silent = proxy.black_hole = False
            proxy.delay = 0.0
        return name, time.monotonic()

    def _admin(self) -> psycopg.Connection:
        return psycopg.connect(self._conninfo, autocommit=True, application_name="chaos", connect_timeout=5)

    def _backends(self) -> list[int]:
        with self._admin() as admin:
            query = f"SELECT pid FROM pg_stat_activity WHERE {LOAD}"
            return [row[0] for row in admin.execute(query.encode()).fetchall()]

    def _terminate(self) -> None:
        found = self._backends()
        with self._admin() as admin:
            for pid in self._chance.sample(found, min(3, len(found))):
                admin.execute("SELECT pg_terminate_backend(%s)", (pid,))

    def _kill_backend(self) -> None:
        """The server ends all sessions and recovers."""
        if found := self._backends():
            with suppress(ProcessLookupError):
                os.kill(self._chance.choice(found), signal.SIGKILL)
        self._until_up()

    def _kill_server(self) -> None:
        pid = int((self._server.data_dir / "cluster" / "postmaster.pid").read_text().split()[0])
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(pid)
            for one in [postmaster, *postmaster.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.SIGKILL)
        self._server.start()
        self._until_up()

    def _until_up(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(psycopg.Error), self._admin() as admin:
                admin.execute("SELECT 1")
                return
            time.sleep(0.02)

    def _reset(self) -> None:
        for proxy in self._proxies:
            proxy.reset()

    def _half_close(self) -> None:
        for proxy in self._proxies:
            proxy.half_close()

    def _refuse(self) -> None:
        for proxy in self._proxies:
            proxy.down()
        time.sleep(1.0)
        for proxy in self._proxies:
            proxy.up()

    def _silent(self) -> None:
        for proxy in self._proxies:
            proxy.silent = True
        time.sleep(1.0)

    def _black_hole(self) -> None:
        for proxy in self._proxies:
            proxy.black_hole = True
        time.sleep(1.0)

    def _delay(self) -> None:
        for proxy in self._proxies:
            proxy.delay = 0.02
        time.sleep(1.0)

    def _cut_answers(self) -> None:
        for proxy in self._proxies:
            proxy.cut(answers=self._chance.randrange(4000), reset=self._chance.random() < 0.5)

    def _cut_requests(self) -> None:
        for proxy in self._proxies:
            proxy.cut(requests=self._chance.randrange(4000), reset=self._chance.random() < 0.5)

    def _lock(self) -> None:
        with self._admin() as admin, admin.transaction():
            admin.execute("SET LOCAL lock_timeout = '2s'")
            for table in self._chance.sample(["messages", "boards", "budget_pools", "tasks", "stream_events"], 2):
                admin.execute(f"LOCK {table} IN ACCESS EXCLUSIVE MODE".encode())
            time.sleep(0.3)

    def _cancel(self) -> None:
        with self._admin() as admin:
            for _ in range(20):
                admin.execute(f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {LOAD}".encode())
                time.sleep(0.01)

    def _alter(self) -> None:
        """Prepared statements become stale."""
        table = self._chance.choice(["messages", "boards", "tasks", "budget_pools"])
        with self._admin() as admin:
            admin.execute("SET lock_timeout = '2s'")
            self._columns += 1
            admin.execute(f"ALTER TABLE {table} ADD COLUMN soak_{self._columns} text".encode())
            time.sleep(0.1)
            admin.execute(f"ALTER TABLE {table} DROP COLUMN soak_{self._columns}".encode())
            admin.execute(f"ALTER TABLE {table} ALTER created_at SET STATISTICS 100".encode())
