"""pgbench, which prepares and decodes nothing: the limit of what a client can ask of this server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..workloads import CONNECTIONS, New, Work
from .base import Contender, environment

COLUMNS = "id, owner, body, data, created_at, updated_at"
#: The number of different calls in a script, each prepared as a separate statement, and the least number of calls, so
#: that preparing them is negligible.
SCRIPT, LEAST = 10, 2000


def program() -> str | None:
    """pgbench of PATH, else Debian's newest."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
    return shutil.which("pgbench", path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, debian)]))


class Pgbench(Contender):
    """One client; ten of them for `mixed`."""

    name: ClassVar[str] = "pgbench"
    methods = frozenset({"insert", "get", "newest", "update", "mixed"})
    elsewhere = True

    @classmethod
    def missing(cls) -> str | None:
        return None if program() else "pgbench"

    def open(self) -> None:
        self.environment = environment(self.conninfo)

    def close(self) -> None:
        """Nothing is held."""

    def time(self, work: Work, arguments: Sequence[tuple[Any, ...]]) -> float:
        chosen = [statement(work.method, *given) for given in arguments[:SCRIPT]]
        clients = CONNECTIONS if work.method == "mixed" else 1
        runs = max(len(arguments), LEAST) // len(chosen) // clients
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write("\n".join(chosen))
            script.flush()
            command = [program() or "", "-n", "-M", "prepared", "-c", str(clients), "-j", "2", "-t", str(runs)]
            done = subprocess.run([*command, "-f", script.name], env=self.environment, capture_output=True, text=True)
        found = re.search(r"tps = ([\d.]+)", done.stdout)
        if found is None:
            raise RuntimeError(done.stdout + done.stderr)
        return len(arguments) / (float(found[1]) * len(chosen))


def statement(method: str, given: Any, body: str = "") -> str:
    """The statement of one call, its values as literals."""
    match method:
        case "insert" | "mixed" if isinstance(given, New):
            document = json.dumps(given.data)  # with a space after each colon: ":name" would be a variable
            row = f"'{given.owner}', '{given.body}', '{document}'"
            return f"INSERT INTO bench_rows (owner, body, data) VALUES ({row}) RETURNING {COLUMNS};"
        case "newest":
            return f"SELECT {COLUMNS} FROM bench_rows WHERE owner = '{given}' ORDER BY id DESC LIMIT 100;"
        case "update":
            return f"UPDATE bench_rows SET body = '{body}' WHERE id = '{given}' RETURNING {COLUMNS};"
        case _:
            return f"SELECT {COLUMNS} FROM bench_rows WHERE id = '{given}';"
