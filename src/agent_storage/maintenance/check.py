"""`storage check`: every declared statement is prepared on a database migrated to head and compared with its signature.

PostgreSQL says what it made of a statement without running it: the types of its parameters and the columns of its
result. They are compared with the annotations of the method and the fields of the record; each record is compared with
its table (columns, types, nullability, defaults; `rules.py`, `lists.py`). It is sqlx's compile-time check, for Python.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, Literal, Union, cast, get_args, get_origin

import psycopg
from psycopg import sql
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult
from pydantic_core import PydanticUndefined

from agent_storage.maintenance.findings import Finding
from agent_storage.maintenance.lists import check_lists
from agent_storage.maintenance.registry import AnyRepository
from agent_storage.maintenance.rules import check_descriptions, check_rules
from agent_storage.maintenance.stored import StoredColumn, load, type_name
from agent_storage.statements.codec import Codec, encode
from agent_storage.statements.records import MAINTAINED, Column, columns
from agent_storage.statements.statement import Statement
from agent_storage.statements.text import JsonText, decode_json, register
from agent_storage.statements.types import accepted
from agent_storage.tables import REPOSITORIES


def check(
    connection: psycopg.Connection[Any],
    repositories: Sequence[AnyRepository] | None = None,
    *,
    beside: Sequence[AnyRepository] = (),
    foreign: Mapping[str, Set[str]] = MappingProxyType({}),
) -> list[Finding]:
    """Return what disagrees between the declarations and the database of `connection`, which is only read.

    Default: the repositories of this package. `beside` are further ones, whose fields an INSERT into their tables has
    to list. `foreign` are columns that other sources added to the tables: a record need not have them.
    """
    register(connection)
    findings: list[Finding] = []
    checked = list(repositories if repositories is not None else REPOSITORIES.values())
    fields = {kind.table: frozenset(columns(kind.new)) for kind in (*beside, *checked)}
    for repository in checked:
        stored = load(connection, repository.table)
        findings += _check_record(connection, repository, stored.columns, foreign.get(repository.table, frozenset()))
        findings += check_rules(connection, repository, stored) if stored.columns else ()
        findings += check_descriptions(repository, stored) if stored.columns else ()
        for name, statement in repository.statements().items():
            findings += _check_statement(connection, statement)
            known = {**fields, repository.table: _fields_where_declared(repository, name)}
            findings += check_lists(statement.name, statement.text, known)
    return findings


def _fields_where_declared(repository: AnyRepository, name: str) -> Set[str]:
    """Return the fields that a column list has to name: those known to the class that declares the statement.

    A list that a shipped class writes by hand cannot name the columns that a subclass adds.
    """
    template = getattr(getattr(repository, name.removesuffix("_identified"), None), "template", None)
    module = getattr(getattr(template, "function", None), "__module__", None)
    declaring: Any = next((one for one in repository.__mro__ if one.__module__ == module and "new" in vars(one)), None)
    return frozenset(columns((declaring or repository).new))


def _check_record(
    connection: psycopg.Connection[Any],
    repository: AnyRepository,
    stored: Mapping[str, StoredColumn],
    foreign: Set[str],
) -> Iterator[Finding]:
    table, record = repository.table, repository.record.__name__
    if not stored:
        yield Finding(table, "the table does not exist in the migrated database")
        return
    declared = columns(repository.record)
    for name in stored.keys() - declared.keys():
        if name not in foreign:
            yield Finding(f"{table}.{name}", f"is a column, but {record} has no such field")
        elif stored[name].required:
            message = f"is NOT NULL without a default, so {repository.__name__}, which has no such field, adds no rows"
            yield Finding(f"{table}.{name}", message)
    for name, column in declared.items():
        if name not in stored:
            yield Finding(f"{table}.{name}", f"is a field of {record}, but the table has no such column")
            continue
        yield from _check_column(f"{table}.{name}", column, stored[name], record)
        yield from _check_default(connection, repository, column, stored[name])


def _check_column(subject: str, column: Column, stored: StoredColumn, record: str) -> Iterator[Finding]:
    if not _fits(column, stored.type):
        yield Finding(subject, f"is {stored.type} in the table, but {_shown(column)} in {record}")
    if stored.not_null and column.nullable:
        yield Finding(subject, f"is NOT NULL in the table, but may be None in {record}")
    if not stored.not_null and not column.nullable:
        yield Finding(subject, f"may be NULL in the table, but {record} does not admit None")


def _check_default(
    connection: psycopg.Connection[Any], repository: AnyRepository, column: Column, stored: StoredColumn
) -> Iterator[Finding]:
    """A default in the record must be the column's: rows that SQL inserts and rows that we insert are alike."""
    field = repository.new.model_fields.get(column.name)
    if field is None or column.name in MAINTAINED or field.is_required() or field.default_factory is not None:
        return
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined or (default is None and stored.default is None):
        return
    actual: Any = None
    if stored.default is not None:
        row = connection.execute(sql.SQL("SELECT {}").format(sql.SQL(stored.default))).fetchone()  # pyright: ignore[reportArgumentType]  # an expression of the catalog's own
        actual = row[0] if row else None
    expected = encode(column, default, Codec(), table=repository.table) if column.json else default
    if isinstance(expected, JsonText):
        expected = decode_json(expected)
    if expected != actual:
        subject = f"{repository.table}.{column.name}"
        yield Finding(subject, f"has the default {stored.default} in the table, but {default!r} in the record")


def _check_statement(connection: psycopg.Connection[Any], statement: Statement[Any]) -> Iterator[Finding]:
    pgconn = connection.pgconn
    prepared = pgconn.prepare(b"storage_check", statement.query)
    if prepared.status != ExecStatus.COMMAND_OK:
        reason = prepared.error_message.decode(errors="replace").strip().splitlines()
        yield Finding(statement.name, f"does not prepare: {reason[0] if reason else 'no reason given'}")
        return
    described = pgconn.describe_prepared(b"storage_check")
    connection.execute("DEALLOCATE storage_check")
    yield from _check_parameters(connection, statement, [described.param_type(i) for i in range(described.nparams)])
    if described.nfields:
        yield from _check_result(connection, statement, described)
    elif statement.shape.kind != "nothing" and statement.shape.item not in (int, bool):
        yield Finding(statement.name, f"gives no rows, but its annotation promises {_name(statement.shape.item)}")


def _check_parameters(
    connection: psycopg.Connection[Any], statement: Statement[Any], oids: Sequence[int]
) -> Iterator[Finding]:
    for number, (parameter, oid) in enumerate(zip(statement.parameters, oids, strict=True), start=1):
        kind = type_name(connection, oid)
        if not _fits(parameter.column, kind):
            shown = _shown(parameter.column)
            yield Finding(statement.name, f"the parameter {parameter.name} (${number}) is {shown}, but {kind} in SQL")


def _check_result(
    connection: psycopg.Connection[Any], statement: Statement[Any], described: PGresult
) -> Iterator[Finding]:
    names = [(described.fname(i) or b"").decode() for i in range(described.nfields)]
    model = statement.rows.model
    if model is None:
        if statement.shape.kind != "nothing" and len(names) != 1:
            yield Finding(statement.name, f"gives the columns {', '.join(names)}, but the annotation is one scalar")
        fields = {names[0]: Column(names[0], statement.shape.item, nullable=True, storage=None)}
        check_null = False
    else:
        fields, check_null = columns(model), True
        for name in sorted(set(names) ^ set(fields)):
            side = "the result has no such column" if name in fields else f"{model.__name__} has no such field"
            yield Finding(f"{statement.name}, {name}", side)
    for index, name in enumerate(names):
        column = fields.get(name)
        if column is None or statement.shape.item is None:
            continue
        kind = type_name(connection, described.ftype(index))
        if not _fits(column, kind):
            yield Finding(f"{statement.name}, {name}", f"is {kind} in the result, but {_shown(column)} in Python")
        if check_null and not column.nullable and _may_be_null(connection, described, index):
            yield Finding(f"{statement.name}, {name}", "may be NULL in the result, but the field does not admit None")


def _may_be_null(connection: psycopg.Connection[Any], described: PGresult, index: int) -> bool:
    """Return whether a result column comes straight from a nullable column; PostgreSQL says nothing of expressions."""
    table, number = described.ftable(index), described.ftablecol(index)
    if not table or number <= 0:
        return False
    query = "SELECT NOT attnotnull FROM pg_attribute WHERE attrelid = %s AND attnum = %s"
    row = connection.execute(query, (table, number)).fetchone()
    return bool(row and row[0])


def _fits(column: Column, kind: str) -> bool:
    """Return whether values of `column` and of the PostgreSQL type `kind` are made for each other."""
    if column.json:
        return kind in ("json", "jsonb")
    if column.encrypted:
        return kind in accepted(str)
    python = column.python_type
    if get_origin(python) in (list, Sequence) or (get_origin(python) is not None and kind.startswith("_")):
        (element,) = get_args(python) or (str,)
        inner = Column(column.name, element, nullable=False, storage=None)
        return kind in ("json", "jsonb") or (kind.startswith("_") and _fits(inner, kind[1:]))
    if get_origin(python) is Literal:
        return all(kind in accepted(cast(Any, type(value))) for value in get_args(python))
    if get_origin(python) in (Union, types.UnionType):
        return any(_fits(Column(column.name, part, nullable=False, storage=None), kind) for part in get_args(python))
    if kind in ("json", "jsonb"):
        return python is Any or python is dict or get_origin(python) is dict or not isinstance(python, type)
    return python is Any or kind in accepted(python)


def _shown(column: Column) -> str:
    return column.storage or _name(column.python_type)


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) if isinstance(annotation, type) else str(annotation)  # pyright: ignore[reportReturnType]
