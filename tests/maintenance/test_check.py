"""`storage check` finds a deliberate mistake of each kind, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import psycopg
import pytest
from pydantic import AfterValidator, Field

from agent_storage.maintenance.check import check
from agent_storage.statements.records import Count, Input, Jsonb, JsonObject, Key, Record
from agent_storage.sync.repository import Repository, sql


@pytest.fixture
def connection(migrated: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(migrated, autocommit=True) as opened:
        opened.execute(
            "CREATE TABLE gadgets (id uuid PRIMARY KEY DEFAULT uuid_v7(), name text NOT NULL, note text,"
            " size integer NOT NULL DEFAULT 3, data jsonb NOT NULL DEFAULT '{}',"
            " created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now())"
        )
        opened.execute("COMMENT ON TABLE gadgets IS 'Gadgets'")
        for name in ("id", "name", "note", "size", "data", "created_at", "updated_at"):
            opened.execute(f"COMMENT ON COLUMN gadgets.{name} IS 'A column'")
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


def findings(connection: psycopg.Connection, new: type[Input], record: type[Record], **members: Any) -> str:
    body = {"table": "gadgets", "__orig_bases__": (Repository[record, new],), **members}  # type: ignore[valid-type]
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


def test_references_are_the_foreign_keys_to_ids(connection: psycopg.Connection) -> None:
    connection.execute("ALTER TABLE gadgets ADD project_id uuid REFERENCES projects, ADD other_id uuid")
    connection.execute("COMMENT ON COLUMN gadgets.project_id IS 'A column'")
    connection.execute("COMMENT ON COLUMN gadgets.other_id IS 'A column'")
    of = variant("Linked", NewGadget, project_id=(UUID | None, None), other_id=(UUID | None, None))
    assert findings(connection, *of, references={"project_id": "projects"}) == ""
    assert findings(connection, *of) == (
        "gadgets.project_id: refers to projects in the table, but references says nothing"
    )
    assert "gadgets.other_id: refers to no id in the table, but references says projects" in findings(
        connection, *of, references={"project_id": "projects", "other_id": "projects"}
    )


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


def altered(connection: psycopg.Connection, change: str, **fields: Any) -> str:
    """The findings after an ALTER TABLE, with fields replaced."""
    connection.execute(f"ALTER TABLE gadgets {change}")
    return findings(connection, *variant("Variant", NewGadget, **fields))


KINDS = Literal["a", "b"] | None
NAME = "ADD CHECK (char_length(name) BETWEEN 1 AND 500)"


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ("ADD CHECK (note IN ('a', 'b'))", {"note": (KINDS, None)}),
        ("ADD CHECK (note = 'a' OR note = 'b')", {"note": (KINDS, None)}),
        ("ADD CHECK (note ~ '^[ab]$')", {"note": (KINDS, None)}),
        ("ADD CHECK (note IN ('it''s', '50 %'))", {"note": (Literal["it's", "50 %"] | None, None)}),
        (NAME, {"name": (Key,)}),
        ("ALTER name TYPE varchar(500), ADD CHECK (name <> '')", {"name": (Key,)}),
        ("ALTER note TYPE varchar(9)", {"note": (Annotated[str, Field(max_length=9)] | None, None)}),
        ("ADD CHECK (length(note) <= 9)", {"note": (Annotated[str, Field(max_length=9)] | None, None)}),
        ("ADD CHECK (size >= 0)", {"size": (Count, 3)}),
        ("ADD CHECK (size BETWEEN -1 AND 7)", {"size": (Annotated[int, Field(ge=-1, le=7)], 3)}),
        ("ADD CHECK (size IN (1, 3))", {"size": (Literal[1, 3], 3)}),
        (
            "ALTER size TYPE numeric(20,6), ADD CHECK (size > 0)",
            {"size": (Annotated[Decimal, Field(gt=0)], Decimal(3))},
        ),
        ("ADD CHECK (name <> note)", {}),
    ],
)
def test_a_rule_that_both_sides_state_is_no_finding(
    connection: psycopg.Connection, change: str, fields: dict[str, Any]
) -> None:
    assert altered(connection, change, **fields) == ""


@pytest.mark.parametrize(
    ("change", "fields", "finding"),
    [
        ("ADD CHECK (note IN ('a', 'c'))", {"note": (KINDS, None)},
         "gadgets.note: admits 'c' in the table, but NewVariant does not"),
        ("ADD CHECK (note IN ('a', 'c'))", {"note": (KINDS, None)}, "gadgets.note: does not admit 'b' in the table"),
        ("ADD CHECK (note IN ('a', 'b'))", {}, "does not admit '', 'x' in the table"),
        ("ALTER note SET DEFAULT NULL", {"note": (KINDS, None)}, "admits '', 'x' in the table"),
        ("ADD CHECK (name <> '')", {"name": (Key,)}, "gadgets.name: admits a text of 501 characters"),
        ("ADD CHECK (char_length(name) < 500)", {"name": (Key,)}, "gadgets.name: admits ''"),
        ("ADD CHECK (char_length(name) < 500)", {"name": (Key,)}, "does not admit a text of 500 characters"),
        ("ALTER name TYPE varchar(100), ADD CHECK (name <> '')", {"name": (Key,)}, "admit a text of 101 characters"),
        ("ALTER note TYPE varchar(9)", {}, "gadgets.note: does not admit 'xxxxxxxxxx' in the table"),
        ("ADD CHECK (size > 0)", {"size": (Count, 3)}, "gadgets.size: does not admit 0 in the table"),
        ("ALTER size TYPE smallint", {"size": (Count, 3)}, "does not admit 2147483647 in the table"),
    ],
)  # fmt: skip
def test_a_rule_that_differs_is_found(
    connection: psycopg.Connection, change: str, fields: dict[str, Any], finding: str
) -> None:
    assert finding in altered(connection, change, **fields)


def test_an_enum_is_compared_label_by_label(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TYPE kind AS ENUM ('a', 'b', 'c')")
    found = altered(connection, "ALTER note TYPE kind USING note::kind", note=(KINDS, None))
    assert found == "gadgets.note: admits 'c' in the table, but NewVariant does not"


def test_the_rule_of_a_domain_is_tried_too(connection: psycopg.Connection) -> None:
    connection.execute("CREATE DOMAIN kind AS text CHECK (VALUE IN ('a', 'b'))")
    assert altered(connection, "ALTER note TYPE kind", note=(KINDS, None)) == ""


def test_a_validator_may_check_what_sql_does_not(connection: psycopg.Connection) -> None:
    def refuse(value: str) -> str:
        raise ValueError("never")

    assert altered(connection, "ALTER note SET DEFAULT NULL", note=(Annotated[str, AfterValidator(refuse)] | None,
                                                                    None)) == ""  # fmt: skip


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("ALTER note SET DEFAULT NULL", "gadgets: has the natural key (name), but no such UNIQUE constraint"),
        ("ADD UNIQUE (name, note)", "but no such UNIQUE"),
        ("ADD UNIQUE (name) DEFERRABLE", "but no such UNIQUE"),
        ("ADD UNIQUE (name), ALTER name DROP NOT NULL", "gadgets.name: is part of the natural key, but may be NULL"),
    ],
)
def test_a_natural_key_without_its_constraint_is_found(
    connection: psycopg.Connection, change: str, finding: str
) -> None:
    connection.execute(f"ALTER TABLE gadgets {change}")
    assert finding in findings(connection, NewGadget, Gadget, natural_key=("name",))


def test_a_partial_index_is_no_natural_key(connection: psycopg.Connection) -> None:
    connection.execute("CREATE UNIQUE INDEX gadgets_name ON gadgets (name) WHERE size > 0")
    assert "but no such UNIQUE" in findings(connection, NewGadget, Gadget, natural_key=("name",))
    connection.execute("CREATE UNIQUE INDEX gadgets_name_idx ON gadgets (name) INCLUDE (note)")
    assert findings(connection, NewGadget, Gadget, natural_key=("name",)) == ""


def test_a_constraint_name_of_a_trigger_has_its_table_as_prefix(connection: psycopg.Connection) -> None:
    body = "BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'AS001', CONSTRAINT = 'name_is_immutable'; END"
    connection.execute(f"CREATE FUNCTION keep_name() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
    connection.execute("CREATE TRIGGER keep_name BEFORE UPDATE ON gadgets FOR EACH ROW EXECUTE FUNCTION keep_name()")
    finding = "gadgets: keep_name() raises the constraint name_is_immutable, without the prefix gadgets_"
    assert findings(connection, NewGadget, Gadget) == finding


def test_a_table_or_column_without_a_description_is_found(connection: psycopg.Connection) -> None:
    connection.execute("COMMENT ON TABLE gadgets IS NULL")
    connection.execute("COMMENT ON COLUMN gadgets.note IS NULL")
    assert findings(connection, NewGadget, Gadget).splitlines() == [
        "gadgets: has no description: add COMMENT ON TABLE",
        "gadgets.note: has no description: add COMMENT ON COLUMN",
    ]


def test_the_docstring_of_a_repository_begins_with_the_description(connection: psycopg.Connection) -> None:
    assert findings(connection, NewGadget, Gadget, __doc__="Gadgets.\n\nMore.") == ""
    found = findings(connection, NewGadget, Gadget, __doc__="Things.")
    assert found == "gadgets: is described as 'Gadgets', but Gadgets begins with 'Things'"


INSERT = "INSERT INTO gadgets (name, note, size) VALUES ('a', 'b', 3)"
UPSERT = "INSERT INTO gadgets AS g ({columns}) SELECT {columns} FROM gadgets ON CONFLICT (id) DO UPDATE"


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("INSERT INTO gadgets (name, note, size, data) VALUES ('a', 'b', 3, '{}')", ""),
        (INSERT, "gadgets.ask: INSERT INTO gadgets leaves out data: list it, or write `-- without data` after"),
        (INSERT.replace(")", ") -- without data\n", 1), ""),
        (INSERT.replace(")", ")\n-- without data, size\n", 1), "says that it is without size, which is listed"),
        (INSERT.replace(")", ") -- without data, dta\n", 1), "is without dta, which is listed or no field"),
        (f"WITH other AS ({INSERT} RETURNING id) DELETE FROM gadgets", "INSERT INTO gadgets leaves out data"),
        (f"{UPSERT} SET name = g.name, note = 'x', size = (SELECT 1), data = coalesce(excluded.data, g.data)", ""),
        (f"{UPSERT} SET name = excluded.name, size = g.size + 1 WHERE g.data = '{{}}'",
         "INSERT INTO gadgets … DO UPDATE SET leaves out data, note: list it"),
        (f"{UPSERT} SET name = excluded.name, size = 1 -- without data, note", ""),
    ],
)  # fmt: skip
def test_a_column_list_that_leaves_a_field_out_is_found(
    connection: psycopg.Connection, text: str, finding: str
) -> None:
    found = findings(connection, NewGadget, Gadget, ask=method(text, **{"return": None}))
    assert (finding in found) if finding else (found == "")
