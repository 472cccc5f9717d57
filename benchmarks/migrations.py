"""Migrations measured: a large file beside psql and stock yoyo, drafts, and migrators killed at random moments.

    python -m benchmarks.migrations                    all three, on a separate embedded server
    python -m benchmarks.migrations --only file        a file of 20,000 statements, in time and memory
    python -m benchmarks.migrations --only draft       every single-object change of the tests, drafted and proved
    python -m benchmarks.migrations --only kill        200 migrators killed wherever it hits
    python -m benchmarks.migrations --json FILE        the numbers too, as JSON

Times are medians of three runs, from the start of the process to its end; memory is the process's own peak (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from tests.migrations.test_catalog_schema import ROLES

from agent_storage.embedded import EmbeddedServer
from agent_storage.migrations.verify.shadow import ShadowServer

from .drafts import Drafted, drafts, show_drafts
from .kills import Killed, kills, show_kills

ID = "20260101000000_rows"
RUNS = 3
SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "100"}


# A large file


@dataclass(frozen=True)
class Applied:
    """How one tool got on: seconds and bytes are None where it failed."""

    tool: str
    statements: int
    seconds: float | None
    peak_bytes: int | None
    said: str = ""


def large_file(server: ShadowServer, psql: str | None, statements: int) -> list[Applied]:
    """The same file by each tool; the tools take turns, so that a slow moment of the machine meets them all."""
    with tempfile.TemporaryDirectory(prefix="a path with spaces ") as folder:
        rows = "".join(f"INSERT INTO rows VALUES ({n}, 'row {n}');\n" for n in range(statements - 1))
        (Path(folder) / f"{ID}.sql").write_text(f"CREATE TABLE rows (id int, t text);\n{rows}")
        (Path(folder) / f"{ID}.rollback.sql").write_text("DROP TABLE rows;\n")
        tools = {name: make for name, make in TOOLS.items() if name != "psql -1 -f" or psql}
        runs: dict[str, list[Applied]] = {name: [] for name in tools}
        for _ in range(RUNS):
            for name, make in tools.items():
                with server.database() as conninfo:
                    runs[name].append(applied(name, make(conninfo, folder, psql or ""), conninfo, statements))
    skipped = [] if psql else [Applied("psql -1 -f", statements, None, None, "skipped: there is no psql here")]
    return [*(middle(found) for found in runs.values()), *skipped]


def ours(conninfo: str, folder: str, _psql: str) -> list[str]:
    program = str(Path(sys.executable).parent / "storage")
    return [program, "migrate", "up", "--db", conninfo, "--folder", folder]


def by_psql(conninfo: str, folder: str, psql: str) -> list[str]:
    return [psql, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", conninfo, "-f", f"{folder}/{ID}.sql"]


def by_yoyo(conninfo: str, folder: str, _psql: str) -> list[str]:
    part = conninfo_to_dict(conninfo)
    url = f"postgresql+psycopg://{part['user']}@/{part['dbname']}?host={quote(str(part['host']), safe='')}"
    url += f"&port={part['port']}"
    return [sys.executable, "-m", "yoyo", "apply", "--batch", "--no-config-file", "--database", url, folder]


TOOLS: dict[str, Callable[[str, str, str], list[str]]] = {
    "storage migrate up": ours,
    "psql -1 -f": by_psql,
    "yoyo apply": by_yoyo,
}


def applied(tool: str, command: Sequence[str], conninfo: str, statements: int) -> Applied:
    """Run the tool, and see whether all rows have arrived."""
    with tempfile.TemporaryFile("w+") as said:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        peak = watched(process)
        seconds = time.monotonic() - started
        said.seek(0)
        lines = [line.strip() for line in said.read().splitlines() if line.strip()]
    if process.returncode != 0:
        return Applied(tool, statements, None, None, f"failed: {next(iter(errors(lines)), 'without a word')}")
    with psycopg.connect(conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (statements - 1,)
    return Applied(tool, statements, seconds, peak)


def errors(lines: Sequence[str]) -> Iterator[str]:
    yield from (line for line in reversed(lines) if re.match(r"(error:|psycopg\.|psql:)", line))
    yield from lines[-1:]


def watched(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for the process; its peak memory as last seen. The kernel's own sum would count what started it, too."""
    peak = None
    while process.poll() is None:
        try:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        except OSError:
            found = None
        peak = int(found[1]) * 1024 if found else peak
        time.sleep(0.005)
    return peak


def middle(runs: Sequence[Applied]) -> Applied:
    """The median of runs that went well; a tool that fails once has failed."""
    failed = next((run for run in runs if run.seconds is None), None)
    if failed is not None:
        return failed
    seconds = statistics.median(run.seconds or 0 for run in runs)
    peak = max((run.peak_bytes or 0 for run in runs), default=0) or None
    return Applied(runs[0].tool, runs[0].statements, seconds, peak)


def show_files(found: Sequence[Applied]) -> None:
    base = {one.statements: one for one in found if one.tool == "psql -1 -f" and one.seconds}
    print(f"{'a file of':>12}  {'by':<20}{'seconds':>9}{'x psql':>8}{'peak MB':>9}{'x psql':>8}")
    for one in found:
        psql = base.get(one.statements)
        times, sizes = (
            (one.seconds, psql and psql.seconds),
            (one.peak_bytes and one.peak_bytes / 2**20, psql and psql.peak_bytes and psql.peak_bytes / 2**20),
        )
        cells = [cell for value, unit in (times, sizes) for cell in (number(value), ratio(value, unit))]
        print(f"{one.statements:>12}  {one.tool:<20}{cells[0]:>9}{cells[1]:>8}{cells[2]:>9}{cells[3]:>8}  {one.said}")


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def ratio(value: float | None, unit: float | None) -> str:
    return "-" if value is None or not unit else f"{value / unit:.1f}"


# The whole


@contextmanager
def a_server() -> Iterator[str]:
    """An embedded server that waits for no disk, since the tools are measured and not the disk; with PostgreSQL's own
    number of connections, on which the size of its lock table depends.
    """
    with tempfile.TemporaryDirectory(prefix="storage-bench-") as folder:
        Path(folder).chmod(0o755)  # as root, the server runs under another account
        with EmbeddedServer(Path(folder) / "data", settings=SETTINGS) as server:
            conninfo = server.conninfo("postgres")
            with psycopg.connect(conninfo, autocommit=True) as connection:
                for role in ROLES:
                    connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
            yield conninfo


def client(name: str, conninfo: str) -> str | None:
    """A client program: that beside the server, Debian's newest, or that of PATH."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchone()
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
    places = [*(row or ()), *map(str, debian), os.environ.get("PATH", "")]
    return shutil.which(name, path=os.pathsep.join(places))


@dataclass
class Measured:
    """Everything that was measured; a part that was not asked for is empty."""

    large_file: list[Applied] = field(default_factory=list[Applied])
    drafts: list[Drafted] = field(default_factory=list[Drafted])
    kills: list[Killed] = field(default_factory=list[Killed])

    @property
    def wrong(self) -> bool:
        """Whether a draft was silently wrong, or a kill left anything broken."""
        return any(one.outcome == "wrong" for one in self.drafts) or any(one.broken for one in self.kills)


def measure(only: str | None, statements: int, count: int) -> Measured:
    found = Measured()
    with a_server() as conninfo:
        server = ShadowServer(conninfo, like=None)
        if only in {None, "file"}:
            psql = client("psql", conninfo)
            # The half shows stock yoyo where it still works, two statements what starting alone costs.
            for size in (statements, statements // 2, 2):
                found.large_file += large_file(server, psql, size)
            show_files(found.large_file)
        if only in {None, "kill"}:
            found.kills = kills(server, count)
            show_kills(found.kills)
        if only in {None, "draft"}:
            found.drafts = list(drafts(server, client("pg_dump", conninfo)))
            show_drafts(found.drafts)
    return found


def main() -> int:
    """Measure and print; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.migrations", description="Migrations measured.")
    parser.add_argument("--only", choices=["file", "draft", "kill"], help="one of the three")
    parser.add_argument("--statements", type=int, default=20_000, help="of the large file (default: 20000)")
    parser.add_argument("--kills", type=int, default=200, help="how many migrators to kill (default: 200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    wanted = parser.parse_args()
    found = measure(wanted.only, wanted.statements, wanted.kills)
    if wanted.json:
        wanted.json.write_text(json.dumps(asdict(found), indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
