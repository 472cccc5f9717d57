"""Processes that start at once, and that are killed: in the middle of writes, and of migrations."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_storage.adapters.checkpoints.engines.migrating import EngineMigrations
from agent_storage.adapters.checkpoints.engines.mysql import Mysql
from agent_storage.errors import MigrationError
from agent_storage.sync.adapters.checkpoints import checkpoint_provider
from agent_storage.types import NewCheckpoint

from .conftest import ENGINES

ROOT = Path(__file__).parents[3]


def program(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [sys.executable, "-m", "tests.adapters.checkpoints.programs", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)


@pytest.mark.parametrize("engine", ENGINES)
def test_eight_processes_initialize_at_once(engine: str, url_of: Any, database: str) -> None:
    url = database if engine == "postgres" else url_of(engine)
    started = [program("initialize", url) for _ in range(8)]
    for one in started:
        assert one.stdout and one.stdout.readline() == "ready\n"
    for one in started:
        assert one.stdin
        one.stdin.write("go\n")
        one.stdin.flush()
    ids = [one.communicate(timeout=120)[0].strip() for one in started]
    assert [one.returncode for one in started] == [0] * 8
    with checkpoint_provider(url) as provider:
        assert {str(one.id) for one in provider.list_checkpoints()} == set(ids) and len(set(ids)) == 8


@pytest.mark.parametrize("engine", ENGINES)
def test_acknowledged_checkpoints_survive_kill_9(engine: str, url_of: Any) -> None:
    url = url_of(engine)
    acknowledged: set[str] = set()
    for wanted in (1, 30, 100):
        process = program("store", url)
        assert process.stdout
        for _ in range(wanted):
            acknowledged.add(process.stdout.readline().strip())
        process.send_signal(signal.SIGKILL)
        acknowledged |= {line.strip() for line in process.stdout if line.endswith("\n")}
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    with checkpoint_provider(url) as provider:
        kept: set[str] = set()
        cursor = None
        while True:
            page = provider.list_checkpoints(limit=500, cursor=cursor)
            kept |= {str(one.id) for one in page}
            if (cursor := page.next_cursor) is None:
                break
        assert len(acknowledged) >= 131 and acknowledged <= kept
        assert len(kept - acknowledged) <= 3 * 8  # those under way
        for id_ in kept:
            found = provider.retrieve_checkpoint(id_)
            assert found and len(found.state["text"]) == 2000
        provider.store_checkpoint(NewCheckpoint(agent_id="after", state=1))


class Killed(Mysql):
    """A MySQL that kills its process at a statement of the migrations: before it is sent, or after it was executed."""

    at: int
    after: bool
    count = 0

    def execute(self, connection: Any, text: str, values: Any) -> Any:
        self.count += 1
        if self.count == self.at and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = super().execute(connection, text, values)
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return found


def migrate(url: str, folder: Path, direction: str, at: int, after: str) -> None:
    """Migrate up or down, and be killed at the statement `at`."""
    engine = Killed(url)
    engine.at, engine.after = at, after == "after"
    engine.open()
    migrations = EngineMigrations(engine, folder)
    migrations.up() if direction == "up" else migrations.down(9)


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a process that has imported everything. Return its exit code, negative for a signal."""
    process = os.fork()
    if process == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two migrations of several statements, of which MySQL commits each."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    texts = {
        "20260101000000_first.sql": "CREATE TABLE a (id INT PRIMARY KEY);\nALTER TABLE a ADD COLUMN b INT;\n"
        "INSERT INTO a VALUES (1, 1);\nCREATE INDEX a_b_idx ON a (b);\n",
        "20260101000000_first.rollback.sql": "DROP INDEX a_b_idx ON a;\nALTER TABLE a DROP COLUMN b;\nDROP TABLE a;\n",
        "20260102000000_second.sql": "CREATE TABLE c (id INT PRIMARY KEY);\nALTER TABLE c ADD COLUMN a_id INT;\n"
        "ALTER TABLE c ADD CONSTRAINT c_a_fkey FOREIGN KEY (a_id) REFERENCES a (id);\n",
        "20260102000000_second.rollback.sql": "ALTER TABLE c DROP FOREIGN KEY c_a_fkey;\nDROP TABLE c;\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


HALFWAY = "SELECT id FROM checkpoint_migrations WHERE finished_at IS NULL"


def schema(engine: Mysql) -> dict[str, str]:
    names = [name for (name,) in engine.read("SHOW TABLES", ()) if name != "checkpoint_migrations"]
    return {name: engine.read(f"SHOW CREATE TABLE {name}", ())[0][1] for name in names}


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("after", ["before", "after"])
def test_a_migration_of_mysql_killed_at_any_statement_is_finished_by_the_next_start(
    mysql_url: str, folder: Path, direction: str, after: str
) -> None:
    engine = Mysql(mysql_url)
    engine.open()
    migrations = EngineMigrations(engine, folder)
    migrations.up()
    whole = schema(engine)
    assert set(whole) == {"a", "c"}
    migrations.down(2)
    assert schema(engine) == {}
    # The statements are those of a session too: its lock and its tracking rows.
    at = unfinished = 0
    while True:
        at += 1
        migrations.up() if direction == "down" else migrations.down(2)
        if (ended := forked(lambda at=at: migrate(mysql_url, folder, direction, at, after))) == 0:
            break
        assert ended == -signal.SIGKILL
        unfinished += bool(migrations.pending()) if direction == "up" else not migrations.pending()
        if direction == "up" and migrations.pending() and engine.read(HALFWAY, ()):
            with pytest.raises(MigrationError, match="was interrupted"):
                migrations.down()
        if direction == "up" or at % 2:
            migrations.up()
            assert schema(engine) == whole
            rows = engine.read("SELECT id FROM a", ())
            assert rows == [(1,)]
        else:
            migrations.down(2)
            assert schema(engine) == {}
    assert at > 15 and unfinished
    engine.close()
