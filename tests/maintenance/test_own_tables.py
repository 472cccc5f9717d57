"""`storage check`, `new table` and the rotation of keys over the sources of a product, on a real database."""

from __future__ import annotations

import base64
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from agent_storage import Conflict, sync
from agent_storage.errors import InvalidValue
from agent_storage.maintenance.naming import KINDS
from agent_storage.maintenance.registry import registered
from agent_storage.maintenance.rotation import rotate
from agent_storage.maintenance.sources import check_sources
from agent_storage.migrations.migrator import Migrator
from agent_storage.migrations.verify.shadow import ShadowServer
from agent_storage.statements.encryption import Keyring

from ..conftest import fresh_database
from ..products import Product, product


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def made(tmp_path: Path) -> Product:
    return product(tmp_path)


def findings(server_conninfo: str, *products: Product) -> list[str]:
    """What `storage check` finds for the shipped tables and those of the products."""
    sources = [products[0].sources[0], *(one.configuration.own for one in products)]
    return check_sources(Migrator(server_conninfo, sources=sources), ShadowServer(server_conninfo, like=None))


# ---- columns on shipped tables -------------------------------------------------------------------------------------


def test_a_wider_record_is_checked_against_the_wider_table_and_the_shipped_one_tolerates_it(
    made: Product, server_conninfo: str
) -> None:
    made.extend_conversations("points", "integer NOT NULL DEFAULT 0", "points: int = 0")
    assert findings(server_conninfo, made) == []
    made.write("tables/conversations/record.py", wider("points: str = ''"))
    (made.storage / "tables/conversations/schema.sql").write_text("ALTER TABLE conversations ADD COLUMN point integer;")
    for name in [name for name in sys.modules if name.startswith(made.package)]:
        del sys.modules[name]
    found = "\n".join(findings(server_conninfo, made))
    assert "conversations.points: is int4 in the table, but str" in found
    assert "column public.conversations.point" in found


def wider(field: str) -> str:
    from ..products import WIDER_RECORD

    return WIDER_RECORD.replace("FIELD", field)


def test_a_column_that_no_record_of_its_source_has_is_found_where_the_source_has_a_record(
    made: Product, server_conninfo: str
) -> None:
    made.extend_conversations("points", "integer", "pass")
    assert findings(server_conninfo, made) == ["conversations.points: is a column, but Wider has no such field"]


def test_a_column_without_a_repository_is_tolerated(made: Product, server_conninfo: str) -> None:
    made.extend_conversations("points", "integer", "points: int | None = None")
    (made.storage / "tables/conversations/repository.py").unlink()
    assert findings(server_conninfo, made) == []


def test_a_required_column_on_a_shipped_table_is_found_because_the_shipped_methods_cannot_fill_it(
    made: Product, server_conninfo: str
) -> None:
    made.extend_conversations("points", "integer NOT NULL", "points: int")
    assert findings(server_conninfo, made) == [
        "conversations.points: is NOT NULL without a default, so Conversations, which has no such field, adds no rows"
    ]


def test_two_products_extend_the_same_table_and_tolerate_each_other(tmp_path: Path, server_conninfo: str) -> None:
    one, two = product(tmp_path / "one"), product(tmp_path / "two")
    one.extend_conversations("customer_id", "uuid", "customer_id: UUID | None = None")
    two.extend_conversations("points", "integer", "points: int | None = None")
    assert findings(server_conninfo, one, two) == []


def test_a_column_list_in_an_inherited_statement_cannot_name_the_column_but_a_new_one_has_to(
    made: Product, server_conninfo: str
) -> None:
    made.extend_conversations("points", "integer", "points: int | None = None")
    path = made.storage / "tables/conversations/repository.py"
    path.write_text(
        path.read_text("utf-8")
        + """
    @sql("INSERT INTO conversations (title, project_id, model_id, owner, metadata) SELECT title, project_id, model_id,"
         " owner, metadata FROM conversations RETURNING {columns}")
    async def twice(self) -> list[Wider]: ...
""",
        "utf-8",
    )
    (found,) = findings(server_conninfo, made)
    assert found.startswith("conversations.twice: INSERT INTO conversations leaves out points: list it, or write")


def test_a_reference_of_an_own_column_is_found_where_it_is_not_declared(made: Product, server_conninfo: str) -> None:
    made.extend_conversations("session_id", "uuid REFERENCES sessions", "session_id: UUID | None = None")
    assert findings(server_conninfo, made) == [
        "conversations.session_id: refers to sessions in the table, but references says nothing"
    ]


# ---- new table -----------------------------------------------------------------------------------------------------


def test_a_new_table_with_columns_of_every_kind_and_reserved_names_is_ready(
    made: Product, server_conninfo: str
) -> None:
    made.table("user", *(f"{kind}_: {kind}".replace(" ", "") for kind in KINDS), "order:text?", "when:integer")
    made.table("order", "user_id:user", "group:user?", "parent_id:order?", "session_id:sessions", domain="sales")
    made.table("boxes", "money:money?", "limit:jsonb?")
    assert findings(server_conninfo, made) == []
    server = ShadowServer(server_conninfo, like=None)
    report = Migrator(server_conninfo, sources=made.sources).check(
        ["lint", "test", "schema"], shadow_url=server_conninfo
    )  # type: ignore[list-item]
    assert report.exit_code == 0, report
    of = {one.table: one.repository for one in registered(made.sources)}
    records = importlib.import_module(f"{made.package}.storage.tables.sales.order.record")
    users = importlib.import_module(f"{made.package}.storage.tables.user.record")
    with server.database() as url:
        Migrator(url, sources=made.sources).up()
        synced = {name: sync_version(of[name]) for name in ("user", "order")}
        with sync.Storage(url) as storage, storage.transaction() as tx:
            people, orders = synced["user"](tx), synced["order"](tx)
            values: dict[str, Any] = dict.fromkeys(("text_", "key_"), "a")
            values |= dict.fromkeys(("integer_", "bigint_", "numeric_", "money_", "when"), 1)
            values |= {"boolean_": True, "date_": "2026-01-01", "timestamptz_": "2026-01-01T00:00:00Z"}
            values |= {"uuid_": "00000000-0000-7000-8000-000000000001", "jsonb_": [1], "order": "x"}
            ada, bob = people.create_many([users.NewUserRow(**values)] * 2)
            chat = tx.sessions.create(sync_session())
            first = orders.create(records.NewOrderRow(user_id=ada.id, session_id=chat.id))
            rows = [records.NewOrderRow(user_id=ada.id, group=bob.id, parent_id=first.id, session_id=chat.id)] * 3
            orders.create_many(rows)
            assert people.update(ada.id, order=None, when=2).when == 2
            assert [row.parent_id for row in orders.find({"group": bob.id})] == [first.id] * 3
            assert orders.delete(first.id)
            assert orders.update_where({"group": bob.id}, {"group": None}) == 3
            assert people.delete_many([bob.id]) == 1


def sync_session() -> Any:
    from agent_storage.types import NewSession

    return NewSession(agent="a")


def sync_version(kind: Any) -> Any:
    """The repository on the sync face, without the methods that it declares."""
    from agent_storage.sync.repository import Repository

    names = {name: getattr(kind, name) for name in ("table", "references", "refers_to_itself")}
    return type(kind.__name__, (Repository,), {**names, "__orig_bases__": (Repository[kind.record, kind.new],)})  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("messages", [], "there is a table messages already, in chat"),
        ("customers", [], "there is a table customers already, in product_"),
        ("transaction", [], "`storage.transaction` has another meaning"),
        ("run", [], "another meaning"),
        ("changes", [], "`tables/` contains a module of that name"),
        ("class", [], "keyword of Python"),
        ("Orders", [], "cannot name a table"),
        ("order-lines", [], "cannot name a table"),
        ("../orders", [], "cannot name a table"),
        ("x" * 41, [], "at most 40 characters"),
        ("orders", ["total"], "'total' is no column: give NAME:KIND, where KIND is one of text, key"),
        ("orders", ["total:float"], "'total:float' is no column"),
        ("orders", ["id:uuid"], "every table has a column id"),
        ("orders", ["lambda:text"], "keyword of Python"),
        ("orders", ["a:text", "a:text"], "the column a is given twice"),
        ("orders", ["a:text); DROP TABLE messages; --:text"], "is no column"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_written(
    made: Product, name: str, columns: list[str], message: str
) -> None:
    made.table("customers")
    before = sorted(made.folder.rglob("*"))
    with pytest.raises(InvalidValue) as caught:
        made.table(name, *columns)
    assert message in str(caught.value)
    assert sorted(made.folder.rglob("*")) == before


def test_the_record_is_the_singular_or_what_was_asked_for(made: Product) -> None:
    names = {"customers": "Customer", "addresses": "Address", "companies": "Company", "boxes": "Box",
             "staff": "StaffRow", "inputs": "InputRow", "order_lines": "OrderLine"}  # fmt: skip
    assert {name: made.table(name).record for name in names} == names
    assert made.table("people", record="Person").record == "Person"
    with pytest.raises(InvalidValue, match="cannot name the record"):
        made.table("mice", record="mouse-row")


def test_a_product_without_the_shipped_tables_gets_the_functions_that_tables_use(
    tmp_path: Path, server_conninfo: str
) -> None:
    made = product(tmp_path, "include = []")
    first = made.table("customers", "email:key")
    assert [path.name.partition("_")[2] or path.name for path in first.files][:3] == [
        "shared.sql", "shared_functions.sql", "shared_functions.rollback.sql",
    ]  # fmt: skip
    made.table("orders", "customer_id:customers")
    sources = made.sources
    assert check_sources(Migrator(server_conninfo, sources=sources), ShadowServer(server_conninfo, like=None)) == []
    with fresh_database(server_conninfo) as url:
        migrator = Migrator(url, sources=sources)
        migrator.up()
        of = {one.table: sync_version(one.repository) for one in registered(sources)}
        records = importlib.import_module(f"{made.package}.storage.tables.customers.record")
        with psycopg.connect(url, autocommit=True) as connection, sync.Storage(url) as storage:
            customers = of["customers"](storage)
            ada = customers.create(records.NewCustomer(email="ada@example.org"))
            with pytest.raises(Conflict):
                customers.create(records.NewCustomer(id=ada.id, email="eve@example.org"))
            assert customers.delete(ada.id)
            assert connection.execute("SELECT to_regclass('conversations')").fetchone() == (None,)
        migrator.down(all=True)
        migrator.up()


# ---- keys ----------------------------------------------------------------------------------------------------------


def test_the_secrets_of_own_tables_and_columns_are_wrapped_again(made: Product, server_conninfo: str) -> None:
    made.table("customers", "phone:text?")
    made.write(
        "tables/customers/record.py",
        """from agent_storage import Encrypted, Input, Record


class NewCustomer(Input):
    phone: Encrypted[str] | None = None


class Customer(Record, NewCustomer):
    pass
""",
    )
    made.extend_conversations("note", "text", "note: Encrypted[str] | None = None")
    path = made.storage / "tables/conversations/record.py"
    path.write_text(
        path.read_text("utf-8").replace("from uuid", "from agent_storage import Encrypted\nfrom uuid"), "utf-8"
    )
    assert findings(server_conninfo, made) == []
    old, new = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
    repositories = [one.repository for one in registered(made.sources)]
    records = {
        name: importlib.import_module(f"{made.package}.storage.tables.{name}.record")
        for name in ("customers", "conversations")
    }
    with fresh_database(server_conninfo) as url:
        Migrator(url, sources=made.sources).up()
        of = {one.table: sync_version(one.repository) for one in registered(made.sources) if one.source == made.package}
        with sync.Storage(url, secret_key=SecretStr(old)) as storage:
            of["customers"](storage).create_many([records["customers"].NewCustomer(phone=str(n)) for n in range(700)])
            of["conversations"](storage).create(records["conversations"].NewWider(note="x"))
        with psycopg.connect(url, autocommit=True) as connection:
            done = rotate(connection, Keyring.from_setting(SecretStr(f"{new},{old}")), repositories)
        assert (done.rewrapped["customers.phone"], done.rewrapped["conversations.note"]) == (700, 1)
        assert not done.faults
        with sync.Storage(url, secret_key=SecretStr(new)) as storage:
            assert {row.phone for row in of["customers"](storage).find(limit=1000)} == {str(n) for n in range(700)}
            assert of["conversations"](storage).find()[0].note == "x"
