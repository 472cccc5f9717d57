"""docs/migrations.md: what it names exists, and its SQL runs."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg

from agent_storage.cli import load
from agent_storage.migrations.files.file import DIRECTIVES
from agent_storage.migrations.migrator import Migrator

from .conftest import Folder, tables

GUIDE = (Path(__file__).parent.parent.parent / "docs" / "migrations.md").read_text("utf-8")


def test_every_command_and_directive_of_the_guide_exists() -> None:
    commands = set(load("migrate").commands)
    assert set(re.findall(r"storage migrate ([a-z]+)", GUIDE)) <= commands
    assert set(re.findall(r"^\| `-- ([a-z-]+)", GUIDE, re.MULTILINE)) == DIRECTIVES


def test_the_sql_of_the_guide_runs_from_the_first_file_to_contract(
    database: str, folder: Folder, connection: psycopg.Connection
) -> None:
    blocks = re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL)
    folder.write(
        "20260101000000_orders",
        "CREATE TABLE orders (id int PRIMARY KEY, customer_id int);",
        "DROP TABLE orders;",
    )
    # The second block is the way back of the first.
    forward = [blocks[0], *blocks[2:]]
    for number, text in enumerate(forward, 2):
        folder.write(f"202601{number:02}000000_step", text, "SELECT 1;")
    Migrator(database, folder.path).up(2)
    connection.execute("INSERT INTO orders VALUES (1, 1, 'at the door')")
    Migrator(database, folder.path).up()
    assert connection.execute("SELECT remark FROM orders").fetchone() == ("at the door",)
    assert tables(connection) == {"orders"}
