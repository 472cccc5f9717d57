"""Every table: filters, orders and pages equal the same in Python; no string changes what is asked."""

from __future__ import annotations

import contextlib
import inspect
import operator
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_storage import StorageError, sync
from agent_storage.migrations.migrator import Migrator
from agent_storage.statements.records import Column, bare, columns
from agent_storage.sync.tables import REPOSITORIES
from agent_storage.types import NewBoard

from ..conftest import fresh_database
from ..rows import Factory

ORDERED = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge,
}  # fmt: skip


@pytest.fixture(scope="module")
def filled(server_conninfo: str) -> Iterator[sync.Storage]:
    """A database with 40 rows of edge values in every table."""
    with fresh_database(server_conninfo) as conninfo:
        Migrator(conninfo).up()
        with sync.Storage(conninfo) as storage:
            Factory(storage, 1).fill(40)
            for ticket in storage.tickets.find(limit=5):
                storage.tickets.archive(ticket.id)
            yield storage


def all_rows(storage: sync.Storage, table: str) -> list[Any]:
    repository = getattr(storage, table)
    with repository.stream() as found:
        rows = list(found)
    if repository.soft_delete:
        with repository.stream({f"{repository.soft_delete}__is_null": False}) as found:
            rows += found
    return rows


def conditions(column: Column, values: list[Any]) -> st.SearchStrategy[tuple[str, str, Any]]:
    """Filters on one column, with values that are there."""
    name, there = column.name, [value for value in values if value is not None]
    kind = column.python_type
    options = [st.tuples(st.just(name), st.just("is_null"), st.booleans())]
    if column.encrypted or not there:
        return options[0]
    value = st.sampled_from(there)
    if column.json:
        if all(isinstance(item, dict) for item in there):
            options.append(st.tuples(st.just(name), st.just("contains"), value))
    elif get_origin(kind) is list:
        options += [st.tuples(st.just(name), st.just(how), value) for how in ("contains", "overlaps")]
    else:
        collated = kind is str or get_origin(kind) is Literal
        comparisons = ["eq", "ne"] if collated else list(ORDERED)
        options.append(st.tuples(st.just(name), st.sampled_from(comparisons), value))
        some = st.lists(value, max_size=3)
        options.append(st.tuples(st.just(name), st.sampled_from(["in", "not_in"]), some))
    return st.one_of(options)


def matches(row: Any, field: str, how: str, wanted: Any) -> bool:
    value = getattr(row, field)
    if how == "is_null":
        return (value is None) is wanted
    if how == "not_in" and not wanted:
        return True  # as in PostgreSQL: nothing is in nothing
    if value is None:
        return False
    if how in ("in", "not_in"):
        return (value in wanted) is (how == "in")
    if how == "contains":
        return contains(value, wanted)
    if how == "overlaps":
        return bool(set(value) & set(wanted))
    return ORDERED[how](value, wanted)


def overdue(request: Any) -> bool:
    """Whether a request is stored as pending after its time, which no filter by status selects."""
    return request.status == "pending" and request.expires_at is not None and request.expires_at < datetime.now(UTC)


def contains(value: Any, wanted: Any) -> bool:
    """PostgreSQL's @>: for arrays all elements, for documents all pairs, at any depth."""
    if isinstance(value, dict) and isinstance(wanted, dict):
        return all(key in value and contains(value[key], item) for key, item in wanted.items())
    if isinstance(value, list) and isinstance(wanted, list):
        return all(any(contains(item, each) for item in value) for each in wanted)
    return bool(value == wanted)


@pytest.mark.parametrize("table", REPOSITORIES)
def test_filters_and_pages_are_what_python_says(filled: sync.Storage, table: str) -> None:
    repository: Any = getattr(filled, table)
    rows = all_rows(filled, table)
    assert len(rows) >= 3
    fields = columns(repository.record)
    plain = [
        name for name, c in fields.items() if not c.json and not c.encrypted and get_origin(c.python_type) is not list
    ]
    documents = {name for name, c in fields.items() if c.json and c.typed}
    filters = st.one_of([conditions(c, [getattr(r, n) for r in rows]) for n, c in fields.items() if n not in documents])
    orders = st.lists(st.sampled_from([*plain, *(f"-{name}" for name in plain)]), min_size=1, max_size=3,
                      unique_by=lambda name: name.lstrip("-"))  # fmt: skip

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(filters, max_size=3, unique_by=lambda item: item[:2]), orders, st.integers(1, 25))
    def compare(asked: list[tuple[str, str, Any]], order: list[str], limit: int) -> None:
        where = {f"{field}__{how}": value for field, how, value in asked}
        hidden = repository.soft_delete and repository.soft_delete not in {field for field, _, _ in asked}
        by_status = table == "approval_requests" and "status" in {field for field, _, _ in asked}
        expected = {
            row.id for row in rows
            if all(matches(row, *one) for one in asked) and not (hidden and getattr(row, repository.soft_delete))
            and not (by_status and overdue(row))
        }  # fmt: skip
        found = repository.find(where, order, limit=1000, total=True)
        assert {row.id for row in found} == expected
        assert found.total == len(found) == repository.count(where)
        assert found[2:5] == repository.find(where, order, limit=3, offset=2)
        for name in [name.lstrip("-") for name in order][:1]:
            check_order([getattr(row, name) for row in found], fields[name], descending=order[0].startswith("-"))
        paged, cursor = [], None
        while True:
            page = repository.page(where, order, limit, cursor)
            paged += page.items
            if (cursor := page.next_cursor) is None:
                break
        assert paged == list(found)

    compare()


def check_order(values: list[Any], column: Column, *, descending: bool) -> None:
    nulls = [value is None for value in values]
    assert nulls == sorted(nulls, reverse=descending)  # nulls last ascending, first descending
    there = [value for value in values if value is not None]
    if column.python_type in (int, datetime, Decimal, bool, UUID):
        assert there == sorted(there, reverse=descending)


def test_keyset_pages_hold_what_was_there_once_and_in_order_while_rows_are_inserted(sync_storage: sync.Storage) -> None:
    boards = sync_storage.boards
    boards.create_many([NewBoard(name=str(n % 7), slug=f"old {n}") for n in range(500)])
    old = [board.id for board in boards.find(order_by=["name", "id"], limit=1000)]
    stop = threading.Event()

    def insert() -> None:
        number = 0
        while not stop.is_set():
            boards.create(NewBoard(name=str(number % 7), slug=f"new {number}"))
            number += 1

    thread = threading.Thread(target=insert)
    thread.start()
    try:
        for limit in (1, 7, 50):
            seen: list[UUID] = []
            cursor = None
            while True:
                page = boards.page(order_by=["name", "id"], limit=limit, cursor=cursor)
                seen += [board.id for board in page.items]
                if (cursor := page.next_cursor) is None:
                    break
            assert len(seen) == len(set(seen))
            assert [id_ for id_ in seen if id_ in set(old)] == old
    finally:
        stop.set()
        thread.join()


HOSTILE = [
    "'; DROP TABLE messages; --", '"; DROP TABLE messages; --', "\\'; SELECT pg_sleep(10); --", "$1", "%s", "%(id)s",
    "{table}", "id; DELETE FROM tasks", "id) OR (1=1", "1' OR '1'='1", "id DESC; --", "(SELECT 1)", "id::text",
    "pg_sleep(1)", "/* */", "\x00", "\x1a", "\ud800", "💥" * 50, "..", "__proto__", "id__", "__", "-", "--", "",
]  # fmt: skip


def counts(storage: sync.Storage) -> dict[str, int]:
    with storage.database.connection() as connection:
        return {table: connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0] for table in REPOSITORIES}


@pytest.mark.parametrize("table", REPOSITORIES)
def test_no_string_in_a_name_an_operator_an_order_or_a_cursor_changes_anything(
    filled: sync.Storage, table: str
) -> None:
    before = counts(filled)
    repository: Any = getattr(filled, table)
    texts = [name for name, column in columns(repository.record).items() if column.python_type is str]
    for text in HOSTILE:
        calls = [
            {"where": {text: 1}}, {"where": {f"id__{text}": uuid4()}}, {"where": {f"{text}__eq": 1}},
            {"order_by": text}, {"order_by": [text, "id"]}, {"cursor": text}, {"limit": text},
            *({"where": {name: text}} for name in texts), *({"where": {f"{name}__like": text}} for name in texts),
            *({"where": {f"{name}__in": [text]}} for name in texts),
        ]  # fmt: skip
        for call in calls:
            try:
                page = repository.page(**call)
            except StorageError:
                continue
            assert call.get("where") or call.get("order_by") == ""  # all else is refused
            for name, value in (call.get("where") or {}).items():
                if name in texts:
                    assert all(getattr(row, name) == value for row in page.items)
        for attempt in (repository.resolve, repository.update, lambda given: repository.update(uuid4(), **{given: 1})):
            with pytest.raises(StorageError):
                attempt(text)
    assert counts(filled) == before


def argument(annotation: Any, text: str) -> Any:
    """A value for a parameter; `text` wherever text may go."""
    kind = bare(annotation)
    if kind is str or get_origin(kind) is Literal:
        return text
    if get_origin(kind) is list:
        return [text] if get_args(kind)[0] is str else [uuid4()]
    plain = {UUID: uuid4(), int: 1, bool: False, datetime: datetime.now(UTC), Decimal: Decimal(1)}
    return plain.get(kind, {"x": text})


def takes_text(method: Any) -> bool:
    """Whether a method has a parameter for text, and none for whole rows."""
    annotations = [p.annotation for p in inspect.signature(method, eval_str=True).parameters.values()]
    return any(argument(annotation, "?") in ("?", ["?"]) for annotation in annotations)


def test_no_string_in_any_declared_statement_changes_what_it_only_reads(filled: sync.Storage) -> None:
    before = counts(filled)
    methods = [
        getattr(getattr(filled, table), name)
        for table, repository in REPOSITORIES.items()
        for name, statement in repository.statements().items()
        if statement.repeatable and name != "_id_of"
    ]
    methods = [method for method in methods if takes_text(method)]
    assert len(methods) > 8
    for method in methods:
        for text in HOSTILE:
            parameters = inspect.signature(method, eval_str=True).parameters
            with contextlib.suppress(StorageError):
                method(**{name: argument(p.annotation, text) for name, p in parameters.items()})
    assert counts(filled) == before
