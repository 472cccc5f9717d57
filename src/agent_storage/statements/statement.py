"""A declared statement: the text as it is sent, how its arguments are encoded, and how its result is made.

`declaration.py` makes statements of methods that `@sql` declares; `dynamic.py` makes those that depend on the call.
"""

from __future__ import annotations

import re
import types
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Protocol, TypeVar, Union, cast, get_args, get_origin
from uuid import UUID

import orjson
from pydantic import BaseModel

from agent_storage.errors import InvalidValue, NotFound
from agent_storage.statements.codec import Codec, RowMaker, check, encode, encode_row
from agent_storage.statements.ids import uuid7
from agent_storage.statements.lists import Found, check_limit, within
from agent_storage.statements.records import Column, Input, Record, bare, columns, nullable
from agent_storage.statements.text import JsonText, escape_all, unusual
from agent_storage.statements.types import to_json

T = TypeVar("T")

#: The most rows that a chunked statement takes at once, and how many it takes at a time when there are more. Chosen
#: with `benchmarks.compare --only W4`. Chunks pay from a few hundred rows.
UNDIVIDED, CHUNK = 1000, 250

_COMMENT = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*", re.DOTALL)
#: The commands that PostgreSQL undoes as a whole when they fail. Others (CALL, DO) may commit what they did before.
_ATOMIC = frozenset({"select", "insert", "update", "delete", "merge", "with", "values", "table"})


@dataclass(frozen=True)
class Shape:
    """The shape of a result: `found`, `many`, `optional`, `one`, `stream` or `nothing`, of `item`."""

    kind: str
    item: Any

    @classmethod
    def of(cls, annotation: Any) -> Shape:
        """Return the shape of a return annotation."""
        origin = get_origin(annotation)
        if annotation is None or annotation is type(None):
            return cls("nothing", None)
        if origin is Found:
            return cls("found", get_args(annotation)[0])
        if origin is list:
            return cls("many", get_args(annotation)[0])
        if origin in (AbstractAsyncContextManager, AbstractContextManager):
            (rows,) = get_args(annotation)
            return cls("stream", get_args(rows)[0])
        if origin in (AsyncIterator, Iterator):
            raise TypeError("a stream is a context manager of its rows: annotate it Stream[…]")
        if origin in (Union, types.UnionType) and nullable(annotation):
            inner = bare(annotation)
            # A scalar may be null in the row; a record may only be missing.
            is_record = isinstance(inner, type) and issubclass(inner, BaseModel)
            return cls("optional", inner if is_record else annotation)
        return cls("one", annotation)


class Statement(Generic[T]):
    """SQL as it is sent, with everything that is known before it runs.

    `repeatable`: running it twice does what running it once does, so that it may be sent again when its answer was
    lost. `certain`: the server gives a row or an error, so that the answer cannot be refused. `missing`: what
    `NotFound` says when there is no row. `chunked`: many rows may be given to it in several chunks.
    """

    def __init__(
        self,
        name: str,
        text: str,
        shape: Shape,
        *,
        table: str,
        encoders: Sequence[tuple[str, Encoder]] = (),
        repeatable: bool = False,
        certain: bool = False,
        missing: str | None = None,
        chunked: bool = False,
        identified: Statement[T] | None = None,
        keyed: bool = False,
        ordered: bool = False,
    ) -> None:
        self.name = name
        self.text = f"/* {name} */\n{text}"
        self.query = self.text.encode()
        self.shape = shape
        self.table = table
        self.repeatable = repeatable
        self.certain = certain or shape.kind != "one"
        self.chunked = chunked
        #: The statement for rows that have an id or times of the caller's; this one is for rows that have none.
        self.identified = identified
        #: Whether `identified` is also for rows that have none, because it makes them in the order of a unique key.
        self.keyed = keyed
        #: Whether it makes rows in the order of a unique key, or of ids, whatever the order given.
        self.ordered = ordered
        #: Whether PostgreSQL undoes it as a whole when it fails, so that it may share a connection.
        self.atomic = _COMMENT.sub("", text, count=1).partition(" ")[0].split("\n")[0].lower() in _ATOMIC
        self.rows = RowMaker(shape.item, table=table)
        self._encoders = encoders
        self._missing = missing
        if shape.kind == "found":
            self._limit_at = [parameter.name for parameter in self.parameters].index("limit")

    def __repr__(self) -> str:
        return f"<Statement {self.name}>"

    @property
    def parameters(self) -> list[Parameter]:
        """The parameters in the order of their numbers, `$1` first."""
        return [parameter for _, encoder in self._encoders for parameter in encoder.parameters]

    def identifies(self, arguments: Mapping[str, Any]) -> bool:
        """Return whether a row that is given has an id or times of the caller's."""
        return any(map(_identified, arguments.values()))

    def encode(self, arguments: Mapping[str, Any], codec: Codec) -> list[Any]:
        """Return the values to send, in order. Raises `InvalidValue` before anything is sent."""
        if len(self._encoders) == 1:
            name, encoder = self._encoders[0]
            return encoder.encode(arguments[name], codec)
        values: list[Any] = []
        for name, encoder in self._encoders:
            values += encoder.encode(arguments[name], codec)
        return values

    def encode_chunks(self, arguments: Mapping[str, Any], codec: Codec) -> Iterator[list[Any]] | None:
        """Return the values of each chunk, encoded on demand, or None when one statement takes all rows."""
        ((name, encoder),) = self._encoders
        rows: Sequence[Any] = arguments[name]
        if len(rows) <= UNDIVIDED:
            return None
        return (encoder.encode(rows[start : start + CHUNK], codec) for start in range(0, len(rows), CHUNK))

    def result(
        self,
        names: Sequence[str] | None,
        rows: Iterable[Sequence[Any]],
        affected: int,
        values: Sequence[Any],
        codec: Codec,
    ) -> T:
        """Return the result of the method. `names` is None if the statement returns no rows; then `affected` counts.

        `values` are those that were sent. Raises `NotFound`, `SchemaMismatch`.
        """
        if names is None:
            return cast(T, self._without_rows(affected))
        kind = self.shape.kind
        if kind == "nothing":
            return cast(T, None)
        made = self.rows.make(names, rows, codec)
        if kind in ("many", "stream"):
            return cast(T, made)
        if kind == "found":
            return cast(T, within(values[self._limit_at] - 1, made))
        if made:
            return made[0]
        if kind == "optional":
            return cast(T, None)
        raise self._not_found(values)

    def _not_found(self, values: Sequence[Any]) -> NotFound:
        error = NotFound(self.absence(values), table=self.table, statement=self.name)
        error.id = self.given_id(values)
        return error

    def given_id(self, values: Sequence[Any]) -> UUID | None:
        """Return the id that the row was requested by, if it was requested by its id."""
        return next((value for one, value in zip(self.parameters, values, strict=False) if one.name == "id"), None)

    def absence(self, values: Sequence[Any]) -> str:
        """Return the message for a missing row."""
        given = {parameter.name: value for parameter, value in zip(self.parameters, values, strict=False)}
        if self._missing:
            return self._missing % given
        subject = f"row {given['id']}" if "id" in given else "such row"
        return f"{self.table} has no {subject} (statement {self.name})"

    def _without_rows(self, affected: int) -> Any:
        if self.shape.item in (int, bool):
            return self.shape.item(affected)
        if self.shape.kind == "nothing":
            return None
        raise TypeError(f"{self.name} returns no rows, but its annotation promises {self.shape.item}")


@dataclass(frozen=True)
class Parameter:
    """One `$n`: its name in the source and the column that says its type."""

    name: str
    column: Column


class Encoder(Protocol):
    """Encodes one argument of a method into the parameters that are made from it."""

    parameters: list[Parameter]

    def encode(self, value: Any, codec: Codec) -> list[Any]:
        """Return the values of `parameters`, in order. Raises `InvalidValue`."""
        ...


class ValueEncoder:
    """A plain argument: checked against its annotation, one parameter."""

    def __init__(self, column: Column, table: str) -> None:
        self.column = column
        self.table = table
        self.parameters = [Parameter(column.name, column)]
        self._as_it_is = column.annotation if column.storage is None else None

    def encode(self, value: Any, codec: Codec) -> list[Any]:
        """Return the checked value."""
        if type(value) is self._as_it_is:
            return [value]
        return [encode(self.column, check(self.column, value, table=self.table), codec, table=self.table)]


class LimitEncoder:
    """The limit of a list: one row more is requested, so that the result says whether there is more."""

    def __init__(self, table: str) -> None:
        self.table = table
        self.parameters = [Parameter("limit", Column("limit", int, nullable=False, storage=None))]

    def encode(self, value: Any, codec: Codec) -> list[Any]:
        """Return the limit plus one."""
        return [check_limit(value, self.table, least=0, most=2**31 - 2) + 1]


class RowEncoder:
    """An `Input`: one parameter for each field that the text names."""

    def __init__(self, name: str, new: type[Input], fields: Sequence[str], table: str) -> None:
        self.new = new
        self.table = table
        self.fields = list(fields)
        self.parameters = [Parameter(f"{name}.{field}", columns(new)[field]) for field in fields]

    def encode(self, value: Any, codec: Codec) -> list[Any]:
        """Return the values of the named fields."""
        if not isinstance(value, self.new):
            raise InvalidValue(
                f"{self.table}: give a {self.new.__name__}, not {type(value).__name__}", table=self.table
            )
        return list(encode_row(value, self.fields, codec, table=self.table).values())


class RowsEncoder:
    """Several `Input`s: one JSON array, which the server spreads into rows of the table's own types."""

    def __init__(self, name: str, new: type[Input], fields: Sequence[str], table: str) -> None:
        self.new = new
        self.table = table
        self.fields = list(fields)
        self.parameters = [Parameter(name, Column(name, list[Any], nullable=False, storage="jsonb"))]

    def encode(self, value: Any, codec: Codec) -> list[Any]:
        """Return the array."""
        return [encode_rows(value, self.new, self.fields, codec, table=self.table)]


class IdentifiedEncoder(RowsEncoder):
    """One `Input` or several as a JSON array of rows that all have ids, with the names of the fields that were given.

    `rows_as_given()` compares those fields with the row that has the id. Not compared are `updated_at`, which later
    changes move, fields for which None lets the database decide, and secrets, whose ciphertexts always differ.
    """

    def __init__(self, name: str, new: type[Input], record: type[Record], table: str) -> None:
        super().__init__(name, new, list(columns(new)), table)
        known = columns(record)
        self._compared = {name for name in self.fields if name not in ("id", "updated_at")}
        self._secret = {name for name in self._compared if known[name].encrypted}
        self._decided = {name for name in self._compared if not known[name].nullable and not known[name].json}

    def encode(self, value: Any, codec: Codec) -> list[Any]:
        """Return the array. Raises `InvalidValue` for an id that is given twice."""
        rows: list[Any] = [value] if isinstance(value, Input) else list(value)
        rows = [one if getattr(one, "id", value) else with_id(one) for one in rows]
        ids = [one.id for one in rows if isinstance(one, Input)]
        if len(set(ids)) < len(ids):
            twice = next(one for one in ids if ids.count(one) > 1)
            raise InvalidValue(f"{self.table}.id: {twice} is given twice", table=self.table, column="id")
        return [encode_rows(rows, self.new, self.fields, codec, table=self.table, given=self._given)]

    def _given(self, new: Input) -> list[str]:
        values = new.__dict__
        given = self._compared & new.model_fields_set
        return sorted(name for name in given if name not in (self._decided if values[name] is None else self._secret))


def with_id(new: Input) -> Input:
    """Return the row with an id that sorts by its time of creation."""
    return new.model_copy(update={"id": uuid7(new.created_at)})


def _identified(given: Any) -> bool:
    """Return whether an argument is a row, or holds one, that has an id or times of the caller's."""
    if isinstance(given, Input):
        return given.id is not None or given.created_at is not None or given.updated_at is not None
    return isinstance(given, list) and any(map(_identified, cast(list[Any], given)))


def encode_rows(
    news: Iterable[Input],
    new: type[Input],
    fields: Sequence[str],
    codec: Codec,
    *,
    table: str,
    given: Callable[[Input], list[str]] | None = None,
) -> JsonText:
    """Return rows as one JSON array of objects, each value as the server reads it exactly.

    The names that `given` returns are added to each object as `?`, which is the name of no column.
    """
    rows: list[dict[str, Any]] = []
    others = _not_json(cast(Any, new), tuple(fields))
    for item in news:
        if not isinstance(item, new):
            raise InvalidValue(f"{table}: give a {new.__name__}, not {type(item).__name__}", table=table)
        row = encode_row(item, fields, codec, table=table)
        for name in others:
            try:
                row[name] = to_json(row[name])
            except (TypeError, ValueError, OverflowError) as error:
                raise InvalidValue(f"{table}.{name} cannot be sent: {error}", table=table, column=name) from None
        if given is not None:
            row["?"] = given(item)
        rows.append(row)
    try:
        raw = orjson.dumps(rows, default=_fragment)
    except TypeError:  # a lone surrogate
        return JsonText(orjson.dumps(escape_all(rows), default=_fragment))
    if unusual(raw):  # a text that needs the escape, or a document that has it
        raw = orjson.dumps(escape_all(rows), default=_fragment)
    return JsonText(raw)


@cache
def _not_json(new: Any, fields: tuple[str, ...]) -> list[str]:
    """The fields that may hold what JSON does not hold exactly."""
    known = {str, bool, UUID}
    return [
        name for name in fields if columns(new)[name].storage is None and columns(new)[name].python_type not in known
    ]


def _fragment(value: object) -> Any:
    if isinstance(value, JsonText):
        return orjson.Fragment(bytes(value))
    raise TypeError(type(value).__name__)
