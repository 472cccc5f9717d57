"""The repositories of a product are found in its folders, and an error of an import names file and line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from agent_storage.errors import InvalidSettings
from agent_storage.maintenance.folders import declared
from agent_storage.maintenance.registry import by_table, registered
from agent_storage.sources import SHIPPED, Source
from agent_storage.tables import DOMAINS, REPOSITORIES

from ..products import Product, product


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's folders leave sys.path."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def made(tmp_path: Path) -> Product:
    return product(tmp_path)


def own(made: Product) -> list[Any]:
    return [one for one in registered(made.sources) if one.source != SHIPPED]


def test_without_a_product_there_are_the_shipped_repositories() -> None:
    assert [one.table for one in registered()] == list(REPOSITORIES)
    assert {one.table: one.domain for one in registered()} == DOMAINS


def test_a_table_is_found_with_and_without_a_domain(made: Product) -> None:
    made.table("customers", "email:key")
    made.table("orders", "customer_id:customers", domain="sales")
    assert [(one.table, one.domain, one.repository.__name__) for one in own(made)] == [
        ("customers", made.package, "Customers"),
        ("orders", "sales", "Orders"),
    ]
    assert made.configuration.own.root == made.folder / "src"
    assert declared([made.configuration.own]) == {"customers": made.package, "orders": "sales"}


def test_a_repository_that_extends_a_shipped_one_replaces_it_and_keeps_its_domain(made: Product) -> None:
    made.extend_conversations("customer_id", "uuid", "customer_id: UUID | None = None")
    found = by_table(made.sources)
    assert list(found) == list(REPOSITORIES)
    assert found["conversations"].repository.__name__ == "WiderConversations"
    assert (found["conversations"].domain, found["conversations"].source) == ("chat", made.package)
    assert '"customer_id"' in found["conversations"].repository.statements()["archive"].text


def test_a_repository_of_the_sync_face_counts_too(made: Product) -> None:
    made.table("customers")
    path = made.storage / "tables" / "customers" / "repository.py"
    path.write_text(
        path.read_text("utf-8").replace("import Repository", "import Found\nfrom agent_storage.sync import Repository"),
        "utf-8",
    )
    assert [one.table for one in own(made)] == ["customers"]


WRONG = """from agent_storage import Repository, sql
from PACKAGE.storage.tables.customers.record import Customer, NewCustomer

class Customers(Repository[Customer, NewCustomer]):
    table = "customers"

    @sql("SELECT {columns} FROM {table} WHERE id = %(other)s")
    async def one(self, id: int) -> Customer: ...
"""


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("record.py", "class NewCustomer(:\n", "record.py:1: SyntaxError: "),
        ("record.py", "\n\nmissing\n", "record.py:3: NameError: name 'missing' is not defined"),
        ("repository.py", "import no_such\n", "repository.py:1: ModuleNotFoundError: No module named 'no_such'"),
        ("repository.py", "raise SystemExit(3)\n", "repository.py:1: SystemExit: 3"),
        ("repository.py", "X = 1\n", "repository.py: there is no Repository with a table"),
        ("repository.py", WRONG, "repository.py:4: TypeError: customers.one"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_imported_is_named_with_its_line(
    made: Product, file: str, text: str, message: str
) -> None:
    made.table("customers")
    made.write(f"tables/customers/{file}", text)
    with pytest.raises(InvalidSettings) as caught:
        registered(made.sources)
    assert message in str(caught.value)
    assert f"tables/customers/{file}" in str(caught.value)


def test_a_folder_that_is_no_package_is_named(made: Product) -> None:
    made.table("customers")
    (made.storage / "__init__.py").unlink()
    with pytest.raises(InvalidSettings, match=r"cannot be imported: add .*__init__\.py"):
        registered([Source("x", made.storage / "tables", made.storage / "migrations")])


def test_a_package_of_the_same_name_elsewhere_gives_way_to_the_configured_folder(made: Product, tmp_path: Path) -> None:
    made.table("customers")
    other = tmp_path / "elsewhere" / made.package
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    sys.path.insert(0, str(other.parent))
    assert [one.table for one in own(made)] == ["customers"]


def test_a_package_that_was_imported_from_another_copy_is_refused(made: Product, tmp_path: Path) -> None:
    made.table("customers")
    assert own(made)
    moved = tmp_path / "copy"
    made.folder.joinpath("src").rename(moved)
    copy = Source(
        made.package, moved / made.package / "storage" / "tables", moved / "m", f"{made.package}.storage", moved
    )
    with pytest.raises(InvalidSettings, match=r"is imported from .*, which is another copy"):
        registered([copy])
