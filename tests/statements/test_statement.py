"""`@sql`: the checks when a class is made, the shapes of results, and what is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from agent_storage import SchemaMismatch
from agent_storage.statements.records import Input, Jsonb, JsonObject, Key, Record
from agent_storage.sync import Repository, Stream, sql


class NewThing(Input):
    name: Key
    data: Jsonb[JsonObject] = {}
    tags: list[str] = []


class Thing(Record, NewThing):
    pass


def declare(text: Any, **annotations: Any) -> Any:
    """A repository class with one method `ask`, of these parameters and this text."""

    def ask(self: Any) -> None: ...

    names = [name for name in annotations if name != "return"]
    source: dict[str, Any] = {}
    ask.__annotations__ = annotations
    import inspect

    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *names)]
    ask.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    source.update(
        table="things", ask=sql(text)(ask), __module__=__name__, __orig_bases__=(Repository[Thing, NewThing],)
    )
    return type("Things", (Repository,), source)


@pytest.mark.parametrize(
    ("text", "annotations", "reasons"),
    [
        ("SELECT {columns} FROM {table} WHERE id = %(idd)s", {"id": UUID, "return": list[Thing]}, ["idd", "id"]),
        ("SELECT {columns} FROM {table}", {"limit": int, "return": list[Thing]}, ["limit", "no placeholder"]),
        ("SELECT {columns} FROM {table}", {"return": list[UUID]}, ["columns", "UUID"]),
        ("SELECT {columns} FROM {table}", {"return": int}, ["columns", "int"]),
        ("SELECT 1 WHERE name LIKE 'a%'", {"return": int}, ["%%"]),
        ("SELECT %(new.bogus)s", {"new": NewThing, "return": str}, ["new.bogus", "no field"]),
        ("SELECT %(new)s", {"new": NewThing, "return": str}, ["name its fields"]),
        ("SELECT {other.values}", {"new": NewThing, "return": str}, ["slot"]),
    ],
)
def test_a_wrong_declaration_fails_when_the_class_is_made_and_names_both_sides(
    text: str, annotations: Any, reasons: list[str]
) -> None:
    with pytest.raises(TypeError) as caught:
        declare(text, **annotations)
    for reason in [*reasons, "things.ask"]:
        assert reason in str(caught.value)


def test_the_text_starts_with_its_name_numbers_parameters_and_leaves_other_braces_alone() -> None:
    things = declare(
        "SELECT {t.columns} FROM {table} t WHERE name = %(name)s AND data <> '{}'::jsonb"
        " AND name LIKE 'a%%' AND (%(name)s = %(other)s OR %(other)s IS NULL)",
        name=str,
        other=str,
        **{"return": list[Thing]},
    )
    text = things.statements()["ask"].text
    assert text.startswith("/* things.ask */\nSELECT ")
    assert '"t"."id", "t"."name"' in text
    assert "'{}'::jsonb AND name LIKE 'a%' AND ($1 = $2 OR $2 IS NULL)" in text


def test_table_and_column_names_that_would_need_escaping_are_refused() -> None:
    with pytest.raises(TypeError, match="plain lower-case name"):
        type("Bad", (Repository,), {"table": 'x"; DROP', "__orig_bases__": (Repository[Thing, NewThing],)})


class Things(Repository[Thing, NewThing]):
    """Things."""

    table = "things"
    natural_key = ("name",)

    @sql("SELECT name FROM {table} ORDER BY name")
    def names(self) -> list[str]:
        """Scalars, many."""
        ...

    @sql("SELECT max(name) FROM {table}")
    def last(self) -> str | None:
        """A scalar that may be null."""
        ...

    @sql("UPDATE {table} SET tags = tags || %(tags)s::text[]")
    def tag_all(self, tags: list[str]) -> int:
        """Rows affected."""
        ...

    @sql("DELETE FROM {table}")
    def clear(self) -> None:
        """Nothing."""
        ...

    @sql("SELECT {columns} FROM {table} ORDER BY name")
    def all(self) -> Stream[Thing]:
        """A stream."""
        ...

    @sql("SELECT id, name FROM {table}")
    def partial(self) -> list[Thing]:
        """A result that lacks fields."""
        ...


@pytest.fixture
def things(database: str) -> Iterator[Things]:
    from pathlib import Path

    import agent_storage

    shared = Path(agent_storage.__file__).parent / "tables" / "_shared.sql"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(shared.read_bytes())
        connection.execute(
            "CREATE TABLE things (id uuid PRIMARY KEY DEFAULT uuid_v7(), name text NOT NULL UNIQUE,"
            " data jsonb NOT NULL DEFAULT '{}', tags text[] NOT NULL DEFAULT '{}',"
            " created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());"
            " CREATE TRIGGER set_timestamp BEFORE UPDATE ON things"
            " FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp()"
        )
        yield Things(connection)


def test_a_repository_stands_alone_on_a_connection_of_the_callers(things: Things) -> None:
    made = things.create_many([NewThing(name=name, tags=["a\x00", '"{,}']) for name in ("x", "y")])
    assert things.names() == ["x", "y"]
    assert things.last() == "y"
    assert things.tag_all(["\x1a"]) == 2
    assert things.require(made[0].id).tags == ["a\x00", '"{,}', "\x1a"]
    with things.all() as rows:
        assert [thing.name for thing in rows] == ["x", "y"]
    assert things.upsert(NewThing(name="x", data={"n": 1})).id == made[0].id
    with things.transaction() as inside:
        inside.clear()
        assert inside.last() is None
    assert things.names() == []


def test_a_result_that_lacks_a_field_is_never_filled_from_its_default(things: Things) -> None:
    things.create(NewThing(name="x"))
    with pytest.raises(SchemaMismatch, match=r"missing: created_at, data, tags"):
        things.partial()


def test_a_call_that_does_not_fit_the_signature_is_a_type_error(things: Things) -> None:
    for call in (lambda: things.tag_all(), lambda: things.tag_all([], []), lambda: things.tag_all(bogus=[])):  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            call()


def test_a_missing_table_says_to_migrate(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection, pytest.raises(SchemaMismatch, match="migrate up"):
        Things(connection).names()
