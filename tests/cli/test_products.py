"""The commands in the folder of a product."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from ..products import SHOP, Product, product

STORAGE = ("-m", "agent_storage.cli")


@pytest.fixture
def shop(tmp_path: Path) -> Product:
    """A copy of examples/shop."""
    shutil.copytree(SHOP, tmp_path / "shop", ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    return Product(tmp_path / "shop", "shop")


def test_the_commands_list_check_and_explain_own_tables(shop: Product, database: str) -> None:
    def storage(*words: str, code: int = 0) -> str:
        return shop.run(*STORAGE, *words, code=code, STORAGE_DATABASE_URL=database)

    storage("migrate", "up")
    found = json.loads(storage("tables", "--json"))["tables"]
    assert [(one["table"], one["domain"], one["purpose"]) for one in found[-2:]] == [
        ("customers", "shop", "Customers of the shop"),
        ("orders", "shop", "Orders of customers"),
    ]
    assert len(found) == 30
    assert '"customer_id"' in storage("sql", "conversations.archive")
    assert "orders_customer_id_idx" in storage("sql", "orders.by_customer", "--explain")
    assert "did you mean orders?" in storage("sql", "order", code=1)
    assert "2,1" in storage("seed", "demo")
    assert "agree" in storage("check")

    record = shop.storage / "tables" / "orders" / "record.py"
    record.write_text(record.read_text("utf-8").replace("total: Money", "total: str"), "utf-8")
    assert "orders.total: is numeric in the table, but str in Order" in storage("check", code=7)
    record.write_text("import shop.nothing\n", "utf-8")
    for command in (["check"], ["sql"], ["secrets", "rotate"]):
        refused = storage(*command, code=2)
        assert "record.py:1: ModuleNotFoundError: No module named 'shop.nothing'" in refused
        assert "Traceback" not in refused
    assert "Orders of customers" in storage("tables")


def test_the_tests_of_the_shop_pass(shop: Product, server_conninfo: str) -> None:
    done = shop.run("-m", "pytest", "-q", "-p", "no:cacheprovider", STORAGE_TEST_DATABASE_URL=server_conninfo)
    assert "9 passed" in done


def test_of_many_that_make_a_table_at_once_one_does(tmp_path: Path) -> None:
    made = product(tmp_path)

    def new(_: int) -> str:
        command = (*STORAGE, "new", "table", "orders", "total:money")
        try:
            return made.run(*command)
        except AssertionError as error:
            return str(error)

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(new, range(6)))
    assert sum("next:" in one for one in said) == 1, said
    assert all("next:" in one or "exists already" in one or "there is a table orders already" in one for one in said)
    assert len(list(made.storage.glob("migrations/*_add_orders.sql"))) == 1


def test_without_the_shipped_tables_demo_data_is_refused(tmp_path: Path) -> None:
    made = product(tmp_path, "include = []")
    assert "`include` of pyproject.toml leaves out" in made.run(*STORAGE, "seed", "demo", code=2)


def test_a_table_in_an_installed_package_is_refused(tmp_path: Path) -> None:
    made = product(tmp_path)
    code = (
        "import sysconfig, sys; sysconfig.get_path = lambda name: sys.argv[1]\n"
        "from agent_storage.cli import main; sys.exit(main(['new', 'table', 'orders']))"
    )
    refused = made.run("-c", code, str(tmp_path), code=2)
    assert "belongs to an installed package" in refused
    assert not list(made.storage.glob("tables/orders"))


def test_completion_is_silent_where_a_module_cannot_be_imported(shop: Product) -> None:
    (shop.storage / "tables" / "orders" / "record.py").write_text("import shop.nothing\n", "utf-8")
    words = {"_STORAGE_COMPLETE": "complete_bash", "COMP_WORDS": "storage sql mess", "COMP_CWORD": "2"}
    assert shop.run("-c", "from agent_storage.cli import main; main()", **words).strip() == ""


def test_an_import_does_not_print_or_leave_files(shop: Product) -> None:
    before = {path: path.stat().st_mtime_ns for path in shop.folder.rglob("*") if path.is_file()}
    shop.run(*STORAGE, "sql", "orders")
    assert {path: path.stat().st_mtime_ns for path in shop.folder.rglob("*") if path.is_file()} == before


def test_a_product_in_a_schema_is_migrated_checked_and_tested_there(
    shop: Product, database: str, server_conninfo: str
) -> None:
    settings = shop.folder / "pyproject.toml"
    text = settings.read_text("utf-8")
    settings.write_text(text.replace("[tool.agent-storage]", '[tool.agent-storage]\nschema = "My Schema"'), "utf-8")
    for words in (("migrate", "up"), ("check",), ("seed", "demo"), ("migrate", "check", "--only", "drift")):
        shop.run(*STORAGE, *words, STORAGE_DATABASE_URL=database)
    assert "Orders of customers" in shop.run(*STORAGE, "tables", STORAGE_DATABASE_URL=database)
    with psycopg.connect(database) as connection:
        query = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        assert connection.execute(query).fetchone() == (0,)
    done = shop.run("-m", "pytest", "-q", "-p", "no:cacheprovider", STORAGE_TEST_DATABASE_URL=server_conninfo)
    assert "9 passed" in done
