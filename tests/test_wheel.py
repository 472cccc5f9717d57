"""The wheel, made from the sdist, in an empty environment: alone, and as a product uses and upgrades it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agent_storage.migrations.files import lockfile
from agent_storage.migrations.files.file import read_folder

from .products import ENVIRONMENT, ROOT, SHOP

pytest.importorskip("hatchling")

IGNORED = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".hypothesis", ".*_cache", "dist", "node_modules")
#: A file of a later release, older than those of the shop and newer than those of this release.
LATER = "20261122080000_news"
NEWS = "CREATE TABLE news (id uuid PRIMARY KEY DEFAULT uuid_v7());\nCOMMENT ON TABLE news IS 'News';\n"

ORDERS = """
import asyncio
from decimal import Decimal
from shop.storage import Shop
from shop.storage.sync import Shop as SyncShop
from shop.storage.tables.conversations.record import NewShopConversation
from shop.storage.tables.customers.record import NewCustomer

async def main():
    async with Shop() as shop:
        ada = await shop.customers.create(NewCustomer(email="ada@example.org"))
        chat = await shop.conversations.create(NewShopConversation(customer_id=ada.id))
        await shop.order(chat.id, Decimal(5))

asyncio.run(main())
with SyncShop() as shop:
    (order,) = shop.orders.find()
    print(shop.orders.pay(order.id).status)
"""


def run(*command: str | Path, cwd: Path, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def build(source: Path, target: Path, *kinds: str) -> Path:
    """Build distributions of a copy of the checkout. Return the wheel."""
    run(sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", target, source, cwd=source)
    (wheel,) = target.glob("*.whl")
    return wheel


@dataclass
class Installed:
    """An environment with the wheel alone. The libraries come from the running environment."""

    folder: Path
    source: Path
    wheel: Path

    def pip(self, *arguments: str | Path) -> None:
        # An editable install's .pth file is not followed through PYTHONPATH.
        command = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", *arguments)
        run(self.folder / "bin" / "python", *command, cwd=self.folder, PYTHONPATH=self.libraries)

    @property
    def libraries(self) -> str:
        return str(Path(psycopg.__file__).parents[1])

    def run(self, *command: str, cwd: Path, url: str, code: int = 0, **environment: str) -> str:
        program, *arguments = command
        environment = {"STORAGE_DATABASE_URL": url, "PYTHONPATH": self.libraries, **environment}
        return run(self.folder / "bin" / program, *arguments, cwd=cwd, code=code, **environment)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "a checkout"
    shutil.copytree(ROOT, source, symlinks=True, ignore=IGNORED)
    made = Installed(folder / "installed here", source, build(source, folder / "dist"))
    run(sys.executable, "-m", "venv", made.folder, cwd=folder)
    made.pip(made.wheel)
    return made


def test_a_wheel_works_in_an_empty_environment_outside_the_checkout(
    installed: Installed, tmp_path: Path, database: str
) -> None:
    """The wheel's own files and nothing of the checkout: its SQL, its typing marker, its command."""
    names = zipfile.ZipFile(installed.wheel).namelist()
    for wanted in ("py.typed", "tables/_shared.sql", "tables/chat/messages/schema.sql", "cli/conversation.json",
                   "migrations/versions/20261120090000_chat.sql", "sync/storage.py",
                   "tables/checkpoints/checkpoints/sqlite/20261122034000_create_checkpoints.sql",
                   "tables/checkpoints/checkpoints/mysql/20261122034000_create_checkpoints.rollback.sql"):  # fmt: skip
        assert f"agent_storage/{wanted}" in names
    assert not [name for name in names if name.startswith(("tests", "examples", "shop"))]
    where = installed.run("python", "-c", "import agent_storage; print(agent_storage.__file__)", cwd=tmp_path, url="")
    assert str(installed.folder) in where
    installed.run("storage", "migrate", "up", cwd=tmp_path, url=database)
    assert "13 messages" in installed.run("storage", "demo", cwd=tmp_path, url=database)


def test_a_product_lives_beside_the_wheel_through_an_upgrade(
    installed: Installed, tmp_path: Path, database: str
) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(SHOP, shop, ignore=IGNORED)
    installed.pip(shop)

    def storage(*command: str, code: int = 0, cwd: Path = shop, **environment: str) -> str:
        return installed.run("storage", *command, cwd=cwd, url=database, code=code, **environment)

    def states() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        status: Any = json.loads(storage("migrate", "status", "--json").partition("\n}")[0] + "\n}")
        for one in status["migrations"]:
            found.setdefault(f"{one['source']} {one['state']}", set()).add(one["id"].partition("_")[2])
        return found

    own = {"customers", "orders", "conversations_customer_id"}
    storage("migrate", "up")
    assert states().keys() == {"agent_storage applied", "shop applied"}
    assert "agree" in storage("check")
    environment = {"PYTHONPATH": f"{installed.libraries}{os.pathsep}{shop / 'src'}"}
    assert "paid" in installed.run("python", "-c", ORDERS, cwd=shop, url=database, **environment)

    # An upgrade of the package brings a file that is older than those of the product.
    versions = installed.source / "src/agent_storage/migrations/versions"
    (versions / f"{LATER}.sql").write_text(NEWS, "utf-8")
    (versions / f"{LATER}.rollback.sql").write_text("DROP TABLE news;\n", "utf-8")
    (versions.parents[1] / "tables" / "chat" / "news").mkdir()
    (versions.parents[1] / "tables" / "chat" / "news" / "schema.sql").write_text(NEWS, "utf-8")
    lockfile.write(versions, read_folder(versions))
    installed.pip("--force-reinstall", build(installed.source, tmp_path / "later", "--wheel"))
    assert states()["agent_storage pending"] == {"news"}
    storage("migrate", "status", "--check", code=3)
    storage("migrate", "up")
    assert states()["shop applied"] == own
    assert "agree" in storage("check")
    assert "ok" in storage("migrate", "check", "--only", "history", "--only", "drift")

    # A change by hand in a table of the product is drift; a stranger's table is not.
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE stranger (id int)")
        storage("migrate", "check", "--only", "drift")
        connection.execute("ALTER TABLE customers ADD COLUMN by_hand int")
        assert "customers.by_hand" in storage("migrate", "check", "--only", "drift", code=4)
        connection.execute("ALTER TABLE customers DROP COLUMN by_hand")

        # The product's migrations go back alone.
        storage("migrate", "down", code=2)
        assert states()["shop applied"] == own
        storage("migrate", "down", "--yes")
        assert states()["shop pending"] == {"conversations_customer_id"}
        shipped = states()["agent_storage applied"]
        refused = storage("migrate", "down", "--source", "agent_storage", "--all", "--yes", code=2)
        assert "depend" in refused
        storage("migrate", "down", "--all", "--yes")
        assert states()["shop pending"] == own
        assert states()["agent_storage applied"] == shipped
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (1,)
        assert connection.execute("SELECT to_regclass('orders'), to_regclass('stranger')::text").fetchone() == (
            None,
            "stranger",
        )

    # In a container there is no pyproject.toml: the source is that of the installed package.
    elsewhere = tmp_path / "container"
    elsewhere.mkdir()
    storage("migrate", "up", cwd=elsewhere, STORAGE_SOURCES="shop")
    storage("migrate", "status", "--check", cwd=elsewhere, STORAGE_SOURCES="shop")
    assert "Orders of customers" in storage("tables", cwd=elsewhere, STORAGE_SOURCES="shop")
    assert "agree" in storage("check", cwd=elsewhere, STORAGE_SOURCES="shop")
    assert "paid" in installed.run("python", "-c", ORDERS, cwd=elsewhere, url=database)
