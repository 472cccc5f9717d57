"""Every text of every record and every declared statement: stored and read back equal, or refused before SQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_storage import sync
from agent_storage.errors import InvalidValue, StorageError
from agent_storage.statements.records import bare, columns
from agent_storage.statements.statement import LimitEncoder, ValueEncoder
from agent_storage.sync.tables import REPOSITORIES

from ..rows import START, Factory

#: Characters that are rare, take four bytes, are escaped, or mean something to SQL, JSON or a search.
ALPHABET = st.characters(exclude_categories=[]) | st.sampled_from(
    "\x00\x1a\ud800\udfff\\'\"%_<>&|!:*-é友𠮷\u0301\u2028 "
)
HUGE = [
    "", " ", "\x00", "\ud800", "\x1a0000", "x" * 500, "x" * 501, "𠮷" * 500, "\x00" * 500, "友" * 3000,
    "".join(chr(0x20000 + n * 7919 % 40_000) for n in range(500)),
    "".join(chr(0x4E00 + n * 7919 % 20_000) for n in range(9000)),
    "".join(chr(33 + n * 7919 % 90) for n in range(3000)),
    " ".join(f"w{n}" for n in range(110_000)),
    "x" * 3_000_000,
]  # fmt: skip
TEXTS = st.text(ALPHABET, max_size=60) | st.sampled_from(HUGE)


@pytest.fixture(scope="module")
def filled(server_conninfo: str) -> Iterator[tuple[sync.Storage, Factory]]:
    """A database with linked rows in every table, and the factory that has made them."""
    from agent_storage.migrations.migrator import Migrator

    from ..conftest import fresh_database

    with fresh_database(server_conninfo) as conninfo:
        Migrator(conninfo).up()
        with sync.Storage(conninfo) as storage:
            factory = Factory(storage, 1)
            factory.fill(3)
            yield storage, factory


def text_fields() -> list[tuple[str, str]]:
    """Every field of a `New…` record that is a text, a list of texts, or any JSON."""
    found: list[tuple[str, str]] = []
    for table, repository in REPOSITORIES.items():
        for name, column in columns(repository.new).items():
            kind = column.python_type
            texts = kind is str or (get_origin(kind) is list and bare(get_args(kind)[0]) is str)
            if texts or (column.json and (kind is Any or get_origin(kind) is dict)):
                found.append((table, name))
    return [*found, ("messages", "content")]


@pytest.mark.parametrize(("table", "field"), text_fields())
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_text_comes_back_equal_or_is_refused_before_sql(
    filled: tuple[sync.Storage, Factory], table: str, field: str, data: st.DataObject
) -> None:
    storage, factory = filled
    repository = getattr(storage, table)
    text = data.draw(TEXTS)
    kind = columns(repository.new)[field].python_type
    value: Any = text
    if get_origin(kind) is list:
        value = [text, "x"]
    elif get_origin(kind) is dict:
        value = {"key": text, text[:100]: ["x", text]}
    fields = {name: getattr(factory.new(table, factory.dice.randrange(3)), name) for name in columns(repository.new)}
    for name in ("name", "slug", "path", "node_id", "stream_id"):  # keys, where they are not what is tried
        if isinstance(fields.get(name), str) and name != field and table != "stream_events":
            fields[name] = str(uuid4())
    if table == "execution_states":
        fields["session_id"] = storage.workflow_sessions.create_from(storage.workflows.find(limit=1)[0].id).id
    if table == "approval_requests":  # decided, because a pending request has neither a name nor a reason
        fields |= {"status": "approved", "resolved_at": START, "resolved_by": "ada"}
    try:
        with storage.transaction() as tx:
            rows = getattr(tx, table)
            made = rows.create(repository.new(**fields | {"id": None, field: value}))
            assert getattr(rows.require(made.id), field) == value == getattr(made, field)
            raise Undone
    except Undone:
        pass
    except InvalidValue as error:
        assert error.sqlstate is None, f"{error} came from the database"


class Undone(Exception):
    """Undoes the transaction."""


def text_parameters() -> list[tuple[str, str, str]]:
    """Every declared statement with a text among its parameters."""
    return sorted(
        (table, name, of)
        for table, repository in REPOSITORIES.items()
        for name, statement in repository.statements().items()
        for of, encoder in vars(statement)["_encoders"]
        if isinstance(encoder, ValueEncoder) and encoder.column.python_type is str
    )


@pytest.mark.parametrize(("table", "name", "parameter"), text_parameters())
def test_a_text_parameter_is_compared_or_stored_or_refused_before_sql(
    filled: tuple[sync.Storage, Factory], table: str, name: str, parameter: str
) -> None:
    storage, _ = filled
    statement = REPOSITORIES[table].statements()[name]
    for text in HUGE:
        given: dict[str, Any] = {}
        for of, encoder in vars(statement)["_encoders"]:
            if of == parameter:
                given[of] = text
            elif isinstance(encoder, LimitEncoder):
                given[of] = 10
            elif isinstance(encoder, ValueEncoder):
                given[of] = plausible(encoder.column.annotation, nullable=encoder.column.nullable)
            else:
                given[of] = []
        try:
            with storage.transaction() as tx:
                tx.runner.run(statement, statement.encode(given, storage.database.codec))
        except StorageError as error:
            assert not isinstance(error, InvalidValue) or error.sqlstate is None, f"{error} came from the database"
            assert (error.sqlstate or "").startswith(("AS", "23503")) or error.sqlstate is None, repr(error)


def plausible(annotation: Any, *, nullable: bool) -> Any:
    """A value of the type."""
    if nullable:
        return None
    kind = bare(annotation)
    if get_args(kind) and isinstance(get_args(kind)[0], str):  # a Literal
        return get_args(kind)[0]
    made: dict[Any, Any] = {str: "x", int: 1, bool: False}
    return made.get(
        kind, uuid4() if getattr(kind, "__name__", "") == "UUID" else [] if get_origin(kind) is list else {}
    )
