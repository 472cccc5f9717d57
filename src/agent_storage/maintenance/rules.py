"""`storage check`: the rules that SQL and the records both state, and the descriptions that only SQL states.

A rule is compared by trying it. The constants on both sides (choices, lengths, limits) give values to try; each is put
to the column's CHECK constraints and to the field of the `New…` record, and both have to give the same answer. So a
rule may be written in any form that PostgreSQL evaluates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal, cast, get_args, get_origin

import psycopg
from psycopg import sql
from pydantic import ValidationError

from agent_storage.maintenance.findings import Finding
from agent_storage.maintenance.registry import AnyRepository
from agent_storage.maintenance.stored import StoredColumn, StoredTable
from agent_storage.statements.records import Column, columns

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?![\w.])")
_TEXT = re.compile(r"'((?:[^']|'')*)'")
_RAISED = re.compile(r"\bCONSTRAINT\s*=\s*'([^']*)'", re.IGNORECASE)
_LIMITS = ("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_FOREIGN_KEYS = """
    SELECT own.attname, target.relname
      FROM pg_catalog.pg_constraint c
      JOIN pg_catalog.pg_class target ON target.oid = c.confrelid
      JOIN pg_catalog.pg_attribute own ON own.attrelid = c.conrelid AND own.attnum = c.conkey[1]
      JOIN pg_catalog.pg_attribute id ON id.attrelid = c.confrelid AND id.attnum = c.confkey[1] AND id.attname = 'id'
     WHERE c.contype = 'f' AND c.conrelid = to_regclass(quote_ident(%s)) AND cardinality(c.conkey) = 1
"""
#: Longer texts are not tried.
_LONGEST = 100_000
#: The errors of validators, which may check what SQL cannot say.
_OWN = frozenset({"value_error", "assertion_error"})


def check_rules(
    connection: psycopg.Connection[Any], repository: AnyRepository, stored: StoredTable
) -> Iterator[Finding]:
    """Compare choices, lengths, limits, the natural key, references, and the constraint names that triggers raise."""
    for name, column in columns(repository.new).items():
        if name in stored.columns and column.storage is None:
            yield from _check_values(connection, repository, column, stored.columns[name])
    yield from _check_natural_key(repository, stored)
    yield from _check_references(connection, repository)
    for function, source in stored.trigger_sources.items():
        for constraint in _RAISED.findall(source):
            if not constraint.startswith(f"{repository.table}_"):
                message = f"{function}() raises the constraint {constraint}, without the prefix {repository.table}_"
                yield Finding(repository.table, message)


def check_descriptions(repository: AnyRepository, stored: StoredTable) -> Iterator[Finding]:
    """Refuse a table or column without a COMMENT, and a docstring of the repository that begins otherwise.

    A repository that extends that of another source says in its docstring how it differs.
    """
    table = repository.table
    if not stored.comment:
        yield Finding(table, "has no description: add COMMENT ON TABLE")
    extends = any("table" in vars(base) for base in repository.__mro__[1:])
    first = "" if extends else (vars(repository).get("__doc__") or "").strip().partition("\n")[0].removesuffix(".")
    if first and stored.comment and first != stored.comment:
        yield Finding(table, f"is described as {stored.comment!r}, but {repository.__name__} begins with {first!r}")
    for name, column in stored.columns.items():
        if not column.comment:
            yield Finding(f"{table}.{name}", "has no description: add COMMENT ON COLUMN")


def _check_references(connection: psycopg.Connection[Any], repository: AnyRepository) -> Iterator[Finding]:
    """Compare the foreign keys of one column, to an id, with the `references` that `create_many` locks."""
    found = connection.execute(_FOREIGN_KEYS, (repository.table,)).fetchall()
    keys = {name: table for name, table in found if name in columns(repository.new)}
    for name in sorted(keys.keys() | repository.references.keys()):
        declared, stored = repository.references.get(name), keys.get(name)
        if declared != stored:
            message = f"refers to {stored or 'no id'} in the table, but references says {declared or 'nothing'}"
            yield Finding(f"{repository.table}.{name}", message)


def _check_natural_key(repository: AnyRepository, stored: StoredTable) -> Iterator[Finding]:
    key = repository.natural_key
    if not key:
        return
    if frozenset(key) not in stored.unique:
        yield Finding(repository.table, f"has the natural key ({', '.join(key)}), but no such UNIQUE constraint")
    for name in key:
        if name in stored.columns and not stored.columns[name].not_null:
            yield Finding(f"{repository.table}.{name}", "is part of the natural key, but may be NULL")


def _check_values(
    connection: psycopg.Connection[Any], repository: AnyRepository, column: Column, stored: StoredColumn
) -> Iterator[Finding]:
    new = repository.new.__name__
    admitted: list[str] = []
    refused: list[str] = []
    for value in _values(column, stored):
        in_python, in_sql = _fits_field(column, value), _fits_column(connection, column.name, stored, value)
        if in_sql and not in_python:
            admitted.append(_shown(value))
        if in_python and not in_sql:
            refused.append(_shown(value))
    subject = f"{repository.table}.{column.name}"
    if admitted:
        yield Finding(subject, f"admits {', '.join(admitted)} in the table, but {new} does not")
    if refused:
        yield Finding(subject, f"does not admit {', '.join(refused)} in the table, but {new} does")


def _values(column: Column, stored: StoredColumn) -> list[Any]:
    """Return what is to be tried: every constant, what lies beside each number, and texts of such lengths."""
    of = column.python_type
    choices: tuple[Any, ...] = ()
    if get_origin(of) is Literal:
        choices = get_args(of)
        of = cast(Any, type(choices[0]))
    if of not in (str, int, Decimal):
        return []
    expressions = " ".join(stored.checks)
    texts = {*(text.replace("''", "'") for text in _TEXT.findall(expressions)), *stored.labels}
    numbers = {int(number) for number in _NUMBER.findall(expressions)} | set(_limits(column.adapter.json_schema()))
    numbers |= set() if stored.length is None else {stored.length}
    beside = {number + step for number in numbers for step in (-1, 0, 1)}
    if of is not str:
        return sorted({*choices, *map(of, beside)})
    lengths = {length for length in beside if 0 <= length <= _LONGEST}
    return [*dict.fromkeys([*choices, *sorted(texts), *("x" * length for length in sorted({0, 1, *lengths}))])]


def _limits(schema: Any) -> Iterator[int]:
    """Yield the limits in a JSON schema, at any depth."""
    if isinstance(schema, dict):
        for name, item in cast(Mapping[str, Any], schema).items():
            if name in _LIMITS:
                yield int(item)
            yield from _limits(item)
    elif isinstance(schema, list):
        for item in cast(list[Any], schema):
            yield from _limits(item)


def _fits_field(column: Column, value: Any) -> bool:
    try:
        column.adapter.validate_python(value)
    except ValidationError as error:
        return all(one["type"] in _OWN for one in error.errors())
    return True


def _fits_column(connection: psycopg.Connection[Any], name: str, stored: StoredColumn, value: Any) -> bool:
    if stored.length is not None and len(value) > stored.length:  # a cast would cut it
        return False
    checks = [sql.SQL("(({}) IS NOT FALSE)").format(_catalog_sql(check)) for check in stored.checks]
    query = sql.SQL("SELECT {}, tried.* FROM (SELECT $1::text::{} AS {}) AS tried").format(
        sql.SQL(" AND ").join([sql.SQL("true"), *checks]), _catalog_sql(stored.declared), sql.Identifier(name)
    )
    try:
        row = psycopg.RawCursor(connection).execute(query, [str(value)]).fetchone()
    except (psycopg.DataError, psycopg.IntegrityError):  # beyond the type: an integer, an enum, a domain
        return False
    return bool(row and row[0])


def _catalog_sql(text: str) -> sql.SQL:
    return sql.SQL(text)  # pyright: ignore[reportArgumentType]  # the catalog wrote it


def _shown(value: Any) -> str:
    return f"a text of {len(value)} characters" if isinstance(value, str) and len(value) > 60 else repr(value)
