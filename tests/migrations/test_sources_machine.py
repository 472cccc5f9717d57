"""Whatever is done to sources and files, no command without --yes removes a table that holds rows."""

from __future__ import annotations

import itertools
import random
import re
import shutil
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from typer.testing import CliRunner

from agent_storage.cli import app
from agent_storage.migrations.migrator import Migrator
from agent_storage.sources import at

from .conftest import tables

NAMES = ["one", "two", "three", "four"]
PICK = st.randoms(use_true_random=False)
#: Commands as a user types them, without --yes.
SAFE = [
    "up",
    "up 1",
    "up --allow-out-of-order",
    "up --dry-run",
    "down",
    "down --all",
    "down 3",
    "redo",
    "redo 2",
    "sync",
    "rebase",
    "repair",
    "squash --to {id}",
    "baseline --to {id}",
    "status",
    "doctor",
    "show {id}",
    "diff --fix-sql",
]
#: Commands that the user has confirmed. They may remove tables, of the source they work in.
CONFIRMED = ["down --yes", "redo --yes", "sync --yes", "repair --yes", "down --all --yes"]


class Sources(RuleBasedStateMachine):
    """A product whose sources come, go and are renamed, and whose files are added, edited, renamed and removed."""

    def __init__(self, database: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.database, self.folder, self.environment = database, folder, monkeypatch
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.number = itertools.count(1)
        self.configured: list[str] = []
        self.connection = psycopg.connect(database, autocommit=True)
        self.connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        self.last: tuple[str, str] = ("", "")
        for name in NAMES[:2]:
            self.add(name, late=False)

    def teardown(self) -> None:
        self.connection.close()

    def migrations(self, name: str) -> Path:
        return self.folder / name / "migrations"

    def files(self, name: str) -> list[Path]:
        return sorted(path for path in self.migrations(name).glob("*.sql") if not path.name.endswith(".rollback.sql"))

    def add(self, name: str, *, late: bool) -> None:
        """Write a migration that makes a table; a late one is older than all others."""
        number = next(self.number)
        self.migrations(name).mkdir(parents=True, exist_ok=True)
        id_ = f"{20250101000000 - number if late else 20260101000000 + number}_t{number}"
        path = self.migrations(name) / f"{id_}.sql"
        path.write_text(f"CREATE TABLE t{number} (id int);\n", "utf-8")
        path.with_name(f"{id_}.rollback.sql").write_text(f"DROP TABLE t{number};\n", "utf-8")
        if name not in self.configured:
            self.configured.append(name)

    def holding(self) -> dict[str, int]:
        """The tables that hold rows, with their number."""
        counted: dict[str, int] = {}
        for table in tables(self.connection):
            row = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            if row and row[0]:
                counted[table] = row[0]
        return counted

    def command(self, line: str, pick: random.Random) -> None:
        """Run a command line, in any of the configured sources."""
        places = ",".join(f"{name}={self.folder / name}" for name in self.configured)
        self.environment.setenv("STORAGE_SOURCES", places)
        self.environment.setenv("STORAGE_INCLUDE", "")
        ids = [path.stem for name in self.configured for path in self.files(name)] or ["none"]
        words = line.format(id=pick.choice(ids)).split()
        if words[0] in {"down", "redo", "sync", "rebase", "squash", "baseline"} and pick.random() < 0.5:
            words += ["--source", pick.choice(self.configured)]
        ended = CliRunner().invoke(app, ["migrate", *words, "--db", self.database])
        self.last = (line, ended.stdout + ended.stderr)
        assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.output
        assert ended.exit_code in {0, 1, 2, 3, 4, 5, 7}, (words, ended.output)

    @rule(pick=PICK, late=st.booleans())
    def add_a_file(self, pick: random.Random, late: bool) -> None:
        self.add(pick.choice(self.configured), late=late)

    @rule(pick=PICK)
    def edit_a_file(self, pick: random.Random) -> None:
        found = self.files(pick.choice(self.configured))
        if found:
            path = pick.choice(found)
            path.write_text(
                path.read_text("utf-8").replace("id int", f"id int, more_{next(self.number)} text", 1), "utf-8"
            )

    @rule(pick=PICK)
    def remove_a_file(self, pick: random.Random) -> None:
        found = self.files(pick.choice(self.configured))
        if len(found) > 1:
            path = pick.choice(found)
            path.unlink()
            path.with_name(f"{path.stem}.rollback.sql").unlink(missing_ok=True)

    @rule(pick=PICK)
    def rename_a_file(self, pick: random.Random) -> None:
        found = self.files(pick.choice(self.configured))
        if found:
            path = pick.choice(found)
            new = f"{path.stem}_{next(self.number)}"
            path.with_name(f"{path.stem}.rollback.sql").rename(path.with_name(f"{new}.rollback.sql"))
            path.rename(path.with_name(f"{new}.sql"))

    @rule(pick=PICK)
    def move_a_file_to_another_source(self, pick: random.Random) -> None:
        here, there = pick.choice(self.configured), pick.choice(self.configured)
        found = self.files(here)
        if here != there and len(found) > 1:
            path = pick.choice(found)
            for part in (path, path.with_name(f"{path.stem}.rollback.sql")):
                part.rename(self.migrations(there) / part.name)

    @rule(pick=PICK)
    def rename_a_source(self, pick: random.Random) -> None:
        free = [name for name in NAMES if not (self.folder / name).exists()]
        if free:
            at_ = pick.randrange(len(self.configured))
            (self.folder / self.configured[at_]).rename(self.folder / free[0])
            self.configured[at_] = free[0]

    @rule(pick=PICK)
    def forget_a_source(self, pick: random.Random) -> None:
        if len(self.configured) > 1:
            self.configured.remove(pick.choice(self.configured))

    @rule(pick=PICK)
    def configure_a_source(self, pick: random.Random) -> None:
        there = [name for name in NAMES if name not in self.configured]
        if there:
            self.add(pick.choice(there), late=False)
            pick.shuffle(self.configured)

    @rule()
    def fill_the_tables(self) -> None:
        for table in tables(self.connection):
            self.connection.execute(f"INSERT INTO {table} (id) VALUES (1)")

    @rule(pick=PICK, line=st.sampled_from(SAFE))
    def without_yes(self, pick: random.Random, line: str) -> None:
        before = self.holding()
        self.command(line, pick)
        assert self.holding() == before, self.last

    @rule(pick=PICK, line=st.sampled_from(CONFIRMED))
    def with_yes(self, pick: random.Random, line: str) -> None:
        self.command(line, pick)

    @invariant()
    def what_is_recorded_is_what_is_there(self) -> None:
        """Each applied migration has made its table, and each table belongs to one."""
        if self.connection.execute("SELECT to_regclass('_storage_migration')").fetchone() == (None,):
            return
        rows = self.connection.execute(
            "SELECT s.up_sql FROM _storage_migration s JOIN _yoyo_migration y"
            " ON y.migration_id = s.migration_id AND y.applied_at_utc = s.applied_at"
        ).fetchall()
        made = [text for (sql,) in rows for text in re.findall(r"CREATE TABLE (\w+)", sql)]
        assert sorted(made) == sorted(tables(self.connection)), self.last
        count = self.connection.execute("SELECT count(*) FROM _yoyo_migration").fetchone()
        assert count == (len(rows),), self.last
        sources = [at(self.folder / name, name) for name in self.configured if self.files(name)]
        if sources:
            status = Migrator(self.database, sources=sources).status()
            recorded = [one for one in status.migrations if one.state != "pending"]
            replaced = sum(
                len(re.findall("^-- replaces", path.read_text(), re.MULTILINE)) for path in self.folder.rglob("*.sql")
            )
            assert replaced or len(recorded) == len(rows), self.last


def test_no_command_without_yes_removes_a_table_that_holds_rows(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Sources(database, tmp_path / "product", monkeypatch),
        settings=settings(
            max_examples=10, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
