"""A product with a source of its own beside the shipped one, on the command line."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from agent_storage.cli import app
from agent_storage.migrations.commands.losses import losses
from agent_storage.migrations.errors import HistoryProblem
from agent_storage.migrations.history.selection import last_applied
from agent_storage.migrations.migrator import Migrator
from agent_storage.sources import SHIPPED, configured

from .conftest import Folder, tables
from .test_interop import stock

CUSTOMERS, LINK = "20200101000000_customers", "20200102000000_link"
UP = """CREATE TABLE customers (id int PRIMARY KEY);
COMMENT ON TABLE customers IS 'Those who buy.';
"""
Storage = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A package with a table of its own and a column more on `conversations`; the current folder is the product's."""
    source = tmp_path / "src" / "shop"
    (source / "migrations").mkdir(parents=True)
    (source / "__init__.py").touch()
    folder = Folder(source / "migrations")
    folder.write(CUSTOMERS, UP, "DROP TABLE customers;")
    folder.write(
        LINK,
        f"-- depends: {SHIPPED}:20261120090000_chat\n"
        "ALTER TABLE conversations ADD COLUMN customer_id int REFERENCES customers;\n"
        "CREATE INDEX conversations_customer_id ON conversations (customer_id);",
        "ALTER TABLE conversations DROP COLUMN customer_id;",
    )
    for name, text in {
        "customers": UP,
        "conversations": "ALTER TABLE conversations ADD COLUMN customer_id int REFERENCES customers;\n"
        "CREATE INDEX conversations_customer_id ON conversations (customer_id);",
    }.items():
        (source / "tables" / name).mkdir(parents=True)
        (source / "tables" / name / "schema.sql").write_text(text, "utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.agent-storage]\nsources = ["src/shop"]\n', "utf-8")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def storage(database: str) -> Storage:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        ended = CliRunner().invoke(app, ["migrate", *words, "--db", database], prog_name="storage")
        assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.output
        return subprocess.CompletedProcess(words, ended.exit_code, ended.stdout, ended.stderr)

    return run


def test_a_product_lives_beside_the_shipped_tables(
    storage: Storage, shop: Folder, connection: psycopg.Connection, database: str
) -> None:
    up = storage("up")
    assert (up.returncode, f"applied {LINK}" in up.stderr, f"applied {SHIPPED}:20261120090000_chat" in up.stderr) == (
        0,
        True,
        True,
    )
    status = storage("status", "--check")
    assert status.returncode == 0
    assert f"source shop: {shop.path}" in status.stdout
    assert re.search(rf"applied +{CUSTOMERS} ", status.stdout)
    assert re.search(rf"applied +{SHIPPED}:20261120090000_chat ", status.stdout)
    check = storage("check")
    assert check.returncode == 0, check.stdout
    assert storage("check", "--strict", "--only", "drift").returncode == 0
    assert storage("history", "-n", "1").stdout.split()[3] == LINK
    assert storage("show", "link").stdout.startswith(f"-- {LINK}: applied")
    assert storage("show", f"{SHIPPED}:chat").stdout.startswith(f"-- {SHIPPED}:20261120090000_chat: applied")
    assert storage("down", "--yes").stdout == "1 rolled back; 1 pending\n"
    assert storage("down", "--all", "--yes").stdout == "1 rolled back; 2 pending\n"
    assert "customers" not in tables(connection)
    assert "conversations" in tables(connection)
    Migrator(database).ensure_current("fail")


def test_new_writes_into_the_own_source_and_a_draft_of_what_it_declares(storage: Storage, shop: Folder) -> None:
    made = storage("new", "add_note")
    assert made.returncode == 0, made.stderr
    assert all(Path(line).parent == shop.path for line in made.stdout.splitlines())
    for path in shop.path.glob("*_add_note*"):
        path.unlink()
    (shop.path.parent / "tables" / "customers" / "schema.sql").write_text(
        UP + "ALTER TABLE customers ADD COLUMN note text;", "utf-8"
    )
    drafted = storage("new", "note", "--draft")
    assert drafted.returncode == 0, drafted.stderr
    (up,) = shop.path.glob("*_note.sql")
    assert "ADD COLUMN note text" in up.read_text("utf-8")
    assert "conversations" not in up.read_text("utf-8")


def test_the_shipped_source_goes_only_by_name_and_never_below_what_the_product_needs(
    storage: Storage, shop: Folder, connection: psycopg.Connection
) -> None:
    storage("up")
    before = tables(connection)
    refused = storage("down", "--all", "--yes", "--source", SHIPPED)
    assert refused.returncode == 2
    assert f"20261120090000_chat cannot be rolled back: shop:{LINK} depends on it" in refused.stderr
    assert tables(connection) == before
    unknown = storage("down", "--source", "shpo", "--yes")
    assert (unknown.returncode, "there is no source 'shpo'" in unknown.stderr) == (2, True)


def test_a_rollback_says_what_is_lost_and_wants_a_yes(
    storage: Storage, shop: Folder, connection: psycopg.Connection
) -> None:
    storage("up")
    connection.execute("INSERT INTO customers SELECT generate_series(1, 3)")
    connection.execute("INSERT INTO conversations (title, customer_id) VALUES ('a', 1), ('b', NULL)")
    for command in (["down", "2"], ["down", "--all"], ["redo", "2"]):
        refused = storage(*command)
        assert refused.returncode == 2
        assert "column conversations.customer_id: 1 value\n" in refused.stderr
        assert "table customers: 3 rows\n" in refused.stderr
        assert f"roll back {LINK}, {CUSTOMERS}?: this needs a yes\nhint: add --yes" in refused.stderr
    assert connection.execute("SELECT count(*) FROM customers").fetchone() == (3,)
    shop.write(LINK, (shop.path / f"{LINK}.sql").read_text("utf-8"), "DO $$ BEGIN DELETE FROM customers; END $$;")
    assert f"unknown: {LINK}.rollback.sql:1 DO $$ BEGIN DELETE FROM customers; EN..." in storage("down").stderr
    shop.write(LINK, (shop.path / f"{LINK}.sql").read_text("utf-8"), "DROP INDEX conversations_customer_id;")
    assert "this loses no table, column or row" in storage("down").stderr


def test_only_what_was_confirmed_is_rolled_back(database: str, storage: Storage, shop: Folder) -> None:
    storage("up")
    sources = configured().sources
    migrator = Migrator(database, sources=sources)
    found = losses(migrator, lambda timelines: last_applied(timelines, 1, None, everything=False))
    assert found.names == [LINK]
    shop.table("20200103000000_later", "later")
    Migrator(database, sources=sources).up()
    with pytest.raises(HistoryProblem, match="since you confirmed"):
        migrator.down(1, confirmed=found.keys)
    assert migrator.status().at_head


def test_squash_and_rebase_leave_the_other_sources_alone(storage: Storage, shop: Folder, database: str) -> None:
    storage("up")
    before = sorted(path.name for path in configured().source(SHIPPED).migrations.glob("*.sql"))
    squashed = storage("squash", "--to", LINK, "--yes")
    assert squashed.returncode == 0, squashed.stderr
    (file,) = shop.path.glob("*squashed.sql")
    assert f"-- depends: {SHIPPED}:20261120090000_chat" in file.read_text("utf-8")
    assert storage("up").returncode == 0
    assert storage("status", "--check").returncode == 0
    shop.table("20190101000000_late", "late")
    shop.write("20300101000000_after", "-- depends: shop:20190101000000_late\nCREATE TABLE z ();", "DROP TABLE z;")
    rebased = storage("rebase")
    assert rebased.returncode == 0, rebased.stderr
    (late,) = shop.path.glob("*_late.sql")
    assert f"-- depends: shop:{late.stem}" in (shop.path / "20300101000000_after.sql").read_text("utf-8")
    assert storage("up").returncode == 0
    assert sorted(path.name for path in configured().source(SHIPPED).migrations.glob("*.sql")) == before
    assert Migrator(database).status().at_head


def test_a_product_can_do_without_the_shipped_tables(
    storage: Storage, shop: Folder, connection: psycopg.Connection, tmp_path: Path, database: str
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.agent-storage]\nsources = ["src/shop"]\ninclude = []\n', "utf-8")
    shop.remove(LINK)
    (shop.path.parent / "tables" / "conversations" / "schema.sql").unlink()
    assert stock("apply", database, shop.path).returncode == 0
    assert json.loads(storage("status", "--json").stdout)["applied"] == [CUSTOMERS]
    shop.table("20200103000000_orders", "orders")
    (shop.path.parent / "tables" / "orders").mkdir()
    (shop.path.parent / "tables" / "orders" / "schema.sql").write_text("CREATE TABLE orders (id int PRIMARY KEY);")
    assert storage("up").stdout == "1 applied; nothing pending\n"
    check = storage("check")
    assert check.returncode == 0, check.stdout
    assert tables(connection) == {"customers", "orders"}
    listed = stock("list", database, shop.path).stdout
    assert len(re.findall(r"^A ", listed, re.MULTILINE)) == 2
