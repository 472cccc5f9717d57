"""`storage check` finds a deliberate mistake of each kind, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

from agent_storage.maintenance.check import check
from agent_storage.statements.records import Input, Jsonb, JsonObject, Record
from agent_storage.sync.repository import Repository, sql


@pytest.fixture
def connection(migrated: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(migrated, autocommit=True) as opened:
        opened.execute(
            "CREATE TABLE gadgets (id uuid PRIMARY KEY DEFAULT uuid_v7(), name text NOT NULL, note text,"
            " size integer NOT NULL DEFAULT 3, data jsonb NOT NULL DEFAULT '{}',"
            " created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now())"
        )
        yield opened


def test_the_package_itself_has_no_findings(connection: psycopg.Connection) -> None:
    assert check(connection) == []


class NewGadget(Input):
    name: str
    note: str | None = None
    size: int = 3
    data: Jsonb[JsonObject] = {}


class Gadget(Record, NewGadget):
    pass


def findings(connection: psycopg.Connection, new: type[Input], record: type[Record], **methods: Any) -> str:
    body = {"table": "gadgets", "__orig_bases__": (Repository[record, new],), **methods}  # type: ignore[valid-type]
    return "\n".join(map(str, check(connection, [type("Gadgets", (Repository,), body)])))


def method(text: Any, **annotations: Any) -> Any:
    import inspect

    def ask(self: Any) -> None: ...

    ask.__annotations__ = annotations
    names = [name for name in annotations if name != "return"]
    kinds = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *names)]
    ask.__signature__ = inspect.Signature(kinds)  # type: ignore[attr-defined]
    return sql(text)(ask)


def test_a_record_that_fits_has_no_findings(connection: psycopg.Connection) -> None:
    assert findings(connection, NewGadget, Gadget) == ""


def variant(name: str, base: type[Input], /, **fields: Any) -> tuple[type[Input], type[Record]]:
    """`NewGadget` and `Gadget` with fields replaced: name=(annotation, default)."""
    space: dict[str, Any] = {
        "__annotations__": {key: kind for key, (kind, *_) in fields.items()},
        "__module__": __name__,
    }
    space |= {key: value[1] for key, value in fields.items() if len(value) > 1}
    new = type(base)(f"New{name}", (base,), space)
    return new, type(Record)(name, (Record, new), {"__module__": __name__})


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"size": (str, "3")}, "gadgets.size: is int4 in the table, but str"),
        ({"name": (str | None, None)}, "gadgets.name: is NOT NULL in the table, but may be None"),
        ({"note": (str, "x")}, "gadgets.note: may be NULL in the table"),
        ({"size": (int, 4)}, "gadgets.size: has the default 3 in the table, but 4 in the record"),
        ({"data": (Jsonb[JsonObject], {"a": 1})}, "gadgets.data: has the default"),
        ({"data": (str, "")}, "gadgets.data: is jsonb in the table, but str"),
        ({"extra": (str, "x")}, "gadgets.extra: is a field of Variant, but the table has no such column"),
        ({"note": (datetime | None, None)}, "gadgets.note: is text in the table, but datetime"),
    ],
)
def test_a_field_that_disagrees_with_its_column_is_found(
    connection: psycopg.Connection, fields: Any, finding: str
) -> None:
    assert finding in findings(connection, *variant("Variant", NewGadget, **fields))


def test_a_column_that_no_field_has_is_found(connection: psycopg.Connection) -> None:
    connection.execute("ALTER TABLE gadgets ADD COLUMN fresh integer")
    assert "gadgets.fresh: is a column, but Gadget has no such field" in findings(connection, NewGadget, Gadget)


class Named(Record):
    name: str


class Noted(Input):
    note: str


@pytest.mark.parametrize(
    ("declared", "finding"),
    [
        (method("SELECT {columns} FROM {table} WHERE bogus = 1", **{"return": list[Gadget]}), "does not prepare"),
        (method("SELEC 1", **{"return": int}), "does not prepare: ERROR"),
        (method("SELECT size FROM {table} WHERE name = %(size)s", size=int, **{"return": list[int]}),
         "the parameter size ($1) is int, but text in SQL"),
        (method("SELECT name FROM {table}", **{"return": list[UUID]}), "is text in the result, but UUID in Python"),
        (method("SELECT id, name FROM {table}", **{"return": int}), "but the annotation is one scalar"),
        (method("DELETE FROM {table}", **{"return": list[str]}), "gives no rows, but its annotation"),
        (method("SELECT id, name FROM {table}", **{"return": list[Named]}), "created_at: the result has no such"),
        (method("SELECT id, note FROM {table}", **{"return": list[Noted]}), "note: may be NULL in the result"),
    ],
)  # fmt: skip
def test_a_statement_that_disagrees_with_its_signature_is_found(
    connection: psycopg.Connection, declared: Any, finding: str
) -> None:
    assert finding in findings(connection, NewGadget, Gadget, ask=declared)


def test_a_missing_table_is_found(connection: psycopg.Connection) -> None:
    connection.execute("DROP TABLE gadgets")
    assert "gadgets: the table does not exist" in findings(connection, NewGadget, Gadget)
