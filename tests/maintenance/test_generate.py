"""`storage generate`: the sync face of a product, and the typed keywords of `update`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent_storage.errors import InvalidSettings
from agent_storage.maintenance import faces
from agent_storage.maintenance.generate import generated, stale, write
from agent_storage.sources import Source

from ..products import Product, product

pytest.importorskip("unasyncd")


@pytest.fixture
def made(tmp_path: Path) -> Product:
    return product(tmp_path)


def texts(made: Product) -> dict[str, str]:
    files = generated(made.configuration.own)
    return {str(path.relative_to(made.storage)): text for path, text in files.items()}


STORAGE = '''"""The storage."""

import agent_storage
from agent_storage import (
    Found,
    Repository,
    Storage,
    sql as declared,
)
from agent_storage.adapters.workflow import WorkflowStorage
from agent_storage.errors import NotFound
from agent_storage.storage import Storage as Base
from agent_storage.tables.chat.conversations.repository import Conversations

from .tables.orders.repository import Orders
from PACKAGE.storage.tables.orders.record import Order


class Shop(Storage):
    orders: Orders

    async def first(self) -> Order | None:
        async with self.transaction() as tx:
            async with tx.orders.stream() as rows:
                async for row in rows:
                    return row
        return None


USED = (Found, Repository, declared, WorkflowStorage, NotFound, Base, Conversations, agent_storage)
'''


def test_imports_lead_to_the_sync_face_where_there_is_one(made: Product) -> None:
    made.table("orders", "total:money", domain="sales")
    made.write("storage.py", STORAGE.replace("tables.orders", "tables.sales.orders"))
    made.write("__init__.py", "from PACKAGE.storage.storage import Shop\n\n__all__ = ['Shop']\n")
    found = texts(made)
    package = made.package
    assert sorted(name for name in found if not name.endswith("__init__.py")) == [
        "sync/storage.py",
        "sync/tables/sales/orders/repository.py",
        "tables/changes.py",
    ]
    text = found["sync/storage.py"]
    for line in (
        "import agent_storage\n",
        "from agent_storage import Found\n",
        "from agent_storage.sync import Repository, Storage\n",
        "from agent_storage.sync import sql as declared\n",
        "from agent_storage.sync.adapters.workflow import WorkflowStorage\n",
        "from agent_storage.errors import NotFound\n",
        "from agent_storage.sync.storage import Storage as Base\n",
        "from agent_storage.sync.tables.chat.conversations.repository import Conversations\n",
        f"from {package}.storage.sync.tables.sales.orders.repository import Orders\n",
        f"from {package}.storage.tables.sales.orders.record import Order\n",
        "    def first(self) -> Order | None:\n        with self.transaction() as tx:\n",
        "                for row in rows:\n",
    ):
        assert line in text, f"{line}\n{text}"
    assert "async" not in text.replace("agent_storage", "")
    assert f"from {package}.storage.sync.storage import Shop" in found["sync/__init__.py"]


def test_a_product_of_the_sync_face_alone_has_only_its_keywords_generated(made: Product) -> None:
    made.table("orders", "total:money", "note:text?")
    path = made.storage / "tables" / "orders" / "repository.py"
    path.write_text(
        path.read_text("utf-8").replace("from agent_storage import", "from agent_storage.sync import"), "utf-8"
    )
    (text,) = texts(made).values()
    assert "class OrderChanges(TypedDict, total=False):" in text
    assert "    total: Money\n    note: str | None\n" in text


def test_keywords_follow_records_of_other_modules_and_leave_out_immutable_fields(made: Product) -> None:
    made.extend_conversations("points", "integer", "points: int | None = None")
    made.table("orders", "total:money", "kind:text")
    path = made.storage / "tables" / "orders" / "repository.py"
    path.write_text(
        path.read_text("utf-8").replace('    table = "orders"', '    table = "orders"\n    immutable = ("kind",)'),
        "utf-8",
    )
    text = texts(made)["tables/changes.py"]
    assert "class WiderChanges(ConversationChanges, total=False):" in text
    assert "    points: int | None\n" in text
    assert "    total: Money\n" in text
    assert "kind" not in text


def test_a_second_run_changes_nothing_and_what_is_left_over_is_removed(made: Product) -> None:
    made.table("orders")
    made.table("customers")
    own = made.configuration.own
    files = generated(own)
    write(stale(made.storage, files), files)
    assert stale(made.storage, generated(own)) == []
    for path in (made.storage / "tables" / "customers").iterdir():
        path.unlink()
    files = generated(own)
    left = stale(made.storage, files)
    assert made.storage / "sync/tables/customers/repository.py" in left
    write(left, files)
    assert not (made.storage / "sync/tables/customers/repository.py").exists()
    assert stale(made.storage, files) == []


@pytest.mark.parametrize("name", ["sync/storage.py", "tables/changes.py", "sync/mine.py"])
def test_a_file_that_was_not_generated_is_neither_replaced_nor_removed(made: Product, name: str) -> None:
    made.table("orders")
    made.write("storage.py", "from agent_storage import Storage\n\n\nclass Shop(Storage):\n    pass\n")
    path = made.write(name, "MINE = 1\n")
    with pytest.raises(InvalidSettings, match="is not generated: move it"):
        stale(made.storage, generated(made.configuration.own))
    assert path.read_text("utf-8") == "MINE = 1\n"


def test_without_unasyncd_or_ruff_the_error_says_which_extra_is_missing(
    made: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.table("orders")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "unasyncd.transformers", None)
        with pytest.raises(InvalidSettings, match=r"needs unasyncd: pip install 'agent-storage\[generate\]'"):
            generated(made.configuration.own)
    bare = made.folder / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    monkeypatch.setattr(faces.sys, "executable", str(bare / "bin" / "python"))
    with pytest.raises(InvalidSettings, match=r"needs ruff: pip install 'agent-storage\[generate\]'"):
        generated(made.configuration.own)


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="is no Python package: add"):
        generated(Source("x", tmp_path / "tables", tmp_path / "migrations"))


def test_a_module_that_does_not_parse_is_named(made: Product) -> None:
    made.table("orders")
    path = made.write("storage.py", "class Shop(:\n")
    with pytest.raises(InvalidSettings, match=r"storage\.py:1: "):
        generated(made.configuration.own)
    path.write_text("", "utf-8")
    made.write("tables/orders/record.py", "class NewOrder(:\n")
    with pytest.raises(InvalidSettings, match=r"record\.py:1: "):
        generated(made.configuration.own)


def test_the_command_compares_and_writes(made: Product) -> None:
    made.table("orders")
    command = ("-m", "agent_storage.cli", "generate")
    assert "not current: src/" in made.run(*command, "--check", code=7)
    assert f"wrote src/{made.package}/storage/sync/tables/orders/repository.py" in made.run(*command)
    assert "everything is current" in made.run(*command, "--check")
