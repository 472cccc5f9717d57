"""A declared statement: the text as it is sent, how its arguments are encoded, and how its result is made.

`template.py` makes statements of methods that `@sql` declares; `query.py` composes those that depend on the call.
"""

from __future__ import annotations

import re
import types
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic, Protocol, TypeVar, Union, cast, get_args, get_origin

import orjson
from pydantic import BaseModel

from .connection.rows import Codec, RowMaker, check, encode, encode_row
from .connection.text import JsonText, escape_all, unusual
from .errors import InvalidValue, NotFound
from .records import Column, Input, bare, columns, nullable

T = TypeVar("T")

#: The most rows that a divisible statement takes at once, and how many it takes at a time when there are more. Chosen
#: with `benchmarks.compare --only W4`. Dividing pays from a few hundred, but far away its transaction costs more.
UNDIVIDED, PART = 1000, 250

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
_WRITES = re.compile(r"\b(insert|update|delete|merge|truncate|call|notify|nextval|pg_notify|lock)\b", re.IGNORECASE)

_PLAIN_INSERT = re.compile(r"\s*INSERT INTO [^()]+\([^()]*\) VALUES (?!.*\bON CONFLICT\b)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Shape:
    """What a return annotation promises: `many`, `optional`, `one`, `stream` or `nothing`, of `item`."""

    kind: str
    item: Any

    @classmethod
    def of(cls, annotation: Any) -> Shape:
        """The shape of a return annotation."""
        origin = get_origin(annotation)
        if annotation is None or annotation is type(None):
            return cls("nothing", None)
        if origin is list:
            return cls("many", get_args(annotation)[0])
        if origin in (AsyncIterator, Iterator):
            return cls("stream", get_args(annotation)[0])
        if origin in (Union, types.UnionType) and nullable(annotation):
            inner = bare(annotation)
            # A scalar may be null in the row; a record may only be missing.
            is_record = isinstance(inner, type) and issubclass(inner, BaseModel)
            return cls("optional", inner if is_record else annotation)
        return cls("one", annotation)


class Statement(Generic[T]):
    """SQL as it is sent, with everything that is known before it runs."""

    def __init__(
        self,
        name: str,
        text: str,
        shape: Shape,
        *,
        table: str,
        encoders: Sequence[tuple[str, Encoder]] = (),
        divisible: bool = False,
    ) -> None:
        self.name = name
        self.text = f"/* {name} */\n{text}"
        self.query = self.text.encode()
        self.shape = shape
        self.table = table
        self.writes = bool(_WRITES.search(_COMMENT.sub(" ", text)))
        self._encoders = encoders
        #: Whether many rows may be given to it in several parts, one after the other.
        self.divisible = divisible
        #: Whether no row can be missing from the answer: a plain INSERT gives its row or fails, a count is a number.
        self.always_answers = (
            shape.kind != "one"
            or bool(_PLAIN_INSERT.match(text))
            or (self.writes and shape.item in (int, bool) and "returning" not in text.lower())
        )
        self.rows = RowMaker(shape.item, table=table)

    def __repr__(self) -> str:
        return f"<Statement {self.name}>"

    @property
    def parameters(self) -> list[Parameter]:
        """The parameters in the order of their numbers, `$1` first."""
        return [parameter for _, encoder in self._encoders for parameter in encoder.parameters]

    def encode(self, arguments: Mapping[str, Any], codec: Codec) -> list[Any]:
        """The values to send, in order. Raises `InvalidValue` before anything is sent."""
        if len(self._encoders) == 1:
            name, encoder = self._encoders[0]
            return encoder.encode(arguments[name], codec)
        values: list[Any] = []
        for name, encoder in self._encoders:
            values += encoder.encode(arguments[name], codec)
        return values

    def encode_parts(self, arguments: Mapping[str, Any], codec: Codec) -> Iterator[list[Any]] | None:
        """The values of each part, where there are too many rows for one; a part is encoded when it is asked for."""
        ((name, encoder),) = self._encoders
        rows: Sequence[Any] = arguments[name]
        if not self.divisible or len(rows) <= UNDIVIDED:
            return None
        return (encoder.encode(rows[start : start + PART], codec) for start in range(0, len(rows), PART))

    def result(self, names: Sequence[str] | None, rows: Iterable[Sequence[Any]], affected: int, codec: Codec) -> T:
        """What the method returns. `names` is None when the statement gives no rows; then `affected` counts."""
        if names is None:
            return cast(T, self._without_rows(affected))
        kind = self.shape.kind
        if kind == "nothing":
            return cast(T, None)
        made = self.rows.make(names, rows, codec)
        if kind in ("many", "stream"):
            return cast(T, made)
        if made:
            return made[0]
        if kind == "optional":
            return cast(T, None)
        raise NotFound(f"{self.table} has no such row (statement {self.name})", table=self.table, statement=self.name)

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
        """The values of `parameters`, in order. Raises `InvalidValue`."""
        ...


class ValueEncoder:
    """A plain argument: checked against its annotation, one parameter."""

    def __init__(self, column: Column, table: str) -> None:
        self.column = column
        self.table = table
        self.parameters = [Parameter(column.name, column)]
        self._as_it_is = column.annotation if column.storage is None else None

    def encode(self, value: Any, codec: Codec) -> list[Any]:
        """The checked value."""
        if type(value) is self._as_it_is:
            return [value]
        return [encode(self.column, check(self.column, value, table=self.table), codec, table=self.table)]


class RowEncoder:
    """An `Input`: one parameter for each field that the text names."""

    def __init__(self, name: str, new: type[Input], fields: Sequence[str], table: str) -> None:
        self.new = new
        self.table = table
        self.fields = list(fields)
        self.parameters = [Parameter(f"{name}.{field}", columns(new)[field]) for field in fields]

    def encode(self, value: Any, codec: Codec) -> list[Any]:
        """The values of the named fields."""
        if not isinstance(value, self.new):
            raise InvalidValue(
                f"{self.table}: give a {self.new.__name__}, not {type(value).__name__}", table=self.table
            )
        return list(encode_row(value, self.fields, codec, table=self.table).values())


class RowsEncoder:
    """Several `Input`s: one JSON array, which the server spreads into rows of the table's own types."""

    def __init__(self, name: str, new: type[Input], table: str) -> None:
        self.new = new
        self.table = table
        self.fields = list(columns(new))
        self.parameters = [Parameter(name, Column(name, list[Any], nullable=False, storage="jsonb"))]

    def encode(self, value: Any, codec: Codec) -> list[Any]:
        """The array."""
        return [encode_rows(value, self.new, self.fields, codec, table=self.table)]


def encode_rows(
    news: Sequence[Input], new: type[Input], fields: Sequence[str], codec: Codec, *, table: str
) -> JsonText:
    """Rows as one JSON array of objects, each document in it checked as if it went alone."""
    rows: list[dict[str, Any]] = []
    for item in news:
        if not isinstance(item, new):
            raise InvalidValue(f"{table}: give a {new.__name__}, not {type(item).__name__}", table=table)
        rows.append(encode_row(item, fields, codec, table=table))
    try:
        raw = orjson.dumps(rows, default=_dump_field)
    except TypeError:  # a lone surrogate
        return JsonText(orjson.dumps(escape_all(rows), default=_dump_field))
    if unusual(raw):  # a text that needs the escape, or a document that has it
        raw = orjson.dumps(escape_all(rows), default=_dump_field)
    return JsonText(raw)


def _dump_field(value: object) -> Any:
    if isinstance(value, JsonText):
        return orjson.Fragment(bytes(value))
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(type(value).__name__)
