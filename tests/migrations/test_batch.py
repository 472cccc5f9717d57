"""Runs of INSERT … VALUES travel together; an error still belongs to one statement."""

from __future__ import annotations

import os
import signal

import psycopg
import pytest

from agent_storage.migrations.errors import LockNotObtained, StatementFailed
from agent_storage.migrations.files.splitter import split
from agent_storage.migrations.migrator import Migrator
from agent_storage.migrations.run.batch import batches

from .conftest import Command, Folder, tables, until

A = "20260101000000_a"
TABLE = "CREATE TABLE a (id int PRIMARY KEY, t text);\n"


def inserts(count: int) -> list[str]:
    return [f"INSERT INTO a VALUES ({n}, 'row {n}');\n" for n in range(count)]


def test_only_plain_inserts_go_together_and_the_order_stays() -> None:
    text = f"{TABLE}{''.join(inserts(250))}UPDATE a SET t = '';INSERT INTO a SELECT 1000;INSERT INTO a VALUES (-1);"
    found = list(batches(split(text)))
    assert [len(batch) for batch in found] == [1, 100, 100, 50, 1, 1, 1]
    assert [one.number for batch in found for one in batch] == list(range(1, 255))


@pytest.mark.parametrize(
    ("broken", "state", "column"),
    [
        ("INSERT INTO a VALUES (3, 'again');\n", "23505", 1),
        ("INSERT INTO a VALUES (1000, nonsense);\n", "42703", 29),
        ("INSERT INTO a VALUES (1000,, 'x');\n", "42601", 28),
        ("INSERT INTO a VALUES ('x', 'x');\n", "22P02", 23),
    ],
)
@pytest.mark.parametrize("at", [0, 57, 99, 100, 149])
def test_the_statement_that_failed_is_named_with_its_line(
    broken: str,
    state: str,
    column: int,
    at: int,
    database: str,
    folder: Folder,
    connection: psycopg.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = inserts(150)
    broken = broken if at > 3 or state != "23505" else "INSERT INTO a VALUES (NULL, 'x');\n"
    rows[at] = broken
    folder.write(A, TABLE + "".join(rows), "DROP TABLE a;")
    with pytest.raises(StatementFailed) as caught:
        Migrator(database, folder.path).up()
    state = state if "NULL" not in broken else "23502"
    assert f"{A}.sql:{at + 2}:{column} {state} " in caught.value.message
    assert broken.strip() in caught.value.lines[0]
    assert not caplog.records, "psycopg logs no second error"
    assert tables(connection) == set()


def test_a_lock_that_one_of_them_waits_for_is_told_as_its_own(
    database: str, folder: Folder, connection: psycopg.Connection
) -> None:
    connection.execute(TABLE)
    rows = inserts(100)
    folder.write(A, "".join(rows), "DELETE FROM a;")
    with psycopg.connect(database, application_name="long report") as blocker:
        blocker.execute("INSERT INTO a VALUES (40)")
        with pytest.raises(LockNotObtained) as caught:
            Migrator(database, folder.path, lock_timeout=0.2, retries=0).up()
        blocker.rollback()
    assert f"{A}.sql:41:1 55P03" in caught.value.message
    assert any("(long report)" in line for line in caught.value.lines)
    assert Migrator(database, folder.path).up().done[0].statements == 100


def test_a_signal_amid_them_rolls_everything_back(
    migrate: Command, folder: Folder, connection: psycopg.Connection
) -> None:
    connection.execute(TABLE)
    folder.write(A, "".join(inserts(300)), "DELETE FROM a;")
    with psycopg.connect(migrate.conninfo) as blocker:
        blocker.execute("INSERT INTO a VALUES (140)")
        process = migrate.start("up", "--lock-timeout", "60s")
        until(lambda: connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone())
        os.kill(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        blocker.rollback()
    assert process.returncode == 130, err
    assert f"  {A} was rolled back\n  not applied: {A}\nhint: `storage migrate status` shows" in err
    assert "ignored" not in err
    assert connection.execute("SELECT count(*) FROM a").fetchone() == (0,)
    assert migrate("up").returncode == 0
