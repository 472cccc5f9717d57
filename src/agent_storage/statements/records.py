"""Records: what a caller gives (`New…`, an `Input`) and what the database gives back (a `Record`), both frozen.

The annotation of a field says how its column is stored. Plain types are themselves (`str` is text, `Decimal` numeric,
`list[str]` text[]); `Jsonb[…]` is a jsonb document and `Encrypted[…]` text that only the key's owner can read.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    model_serializer,
)
from pydantic_core import core_schema

from agent_storage.errors import InvalidValue
from agent_storage.statements.encryption import MASK, Stored
from agent_storage.statements.text import escape

T = TypeVar("T")

#: The timestamps of every table, and the columns that the database fills unless the caller gives them.
TIMES = ("created_at", "updated_at")
MAINTAINED = frozenset({"id", *TIMES})

#: Any JSON value, and a JSON object.
Json = Any
JsonObject = dict[str, Any]


class _Marker:
    """The storage of a column, for fields whose Python type does not determine it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class _Encrypted(_Marker):
    """A field that also takes a secret as it is stored, unseen."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        inner = handler(source)
        return core_schema.no_info_wrap_validator_function(
            _unless_stored,
            inner,
            serialization=core_schema.wrap_serializer_function_ser_schema(_masked, schema=inner, info_arg=True),
        )


def _unless_stored(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, Stored) else validate(value)


def _masked(value: Any, serialize: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
    if isinstance(value, Stored):
        return MASK if info.mode == "json" else value
    return serialize(value)


_LABEL = 500

JSONB = _Marker("jsonb")
ENCRYPTED = _Encrypted("encrypted")

Jsonb = Annotated[T, JSONB]
Encrypted = Annotated[T, ENCRYPTED]


def _check_key(value: str) -> str:
    if any(character in "\x00\x1a" or "\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("must not contain NUL, SUBSTITUTE or a lone surrogate")
    return value


def _check_stored_length(value: str) -> str:
    if len(escape(value)) > _LABEL:
        raise ValueError(f"has more than {_LABEL} characters as it is stored: NUL and lone surrogates take five each")
    return value


def _check_timestamp(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("must have a time zone, such as datetime.now(UTC)")
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie between the years 1 and 9999 in UTC") from None
    return value


def _check_time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # PostgreSQL would take "UTC+2" for two hours to the west
        raise ValueError("must be the name of a time zone, such as Europe/Oslo or UTC") from None
    return value


#: A name, slug or key: 1 to 500 characters that PostgreSQL's text holds as they are.
Key = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_check_key)]
#: The version of a thing that has a name: at most 100 characters, none of those that a key refuses.
Version = Annotated[str, Field(max_length=100), AfterValidator(_check_key)]
#: A text that an index holds: any text of at most 500 characters.
Label = Annotated[str, Field(max_length=_LABEL), AfterValidator(_check_stored_length)]
#: A moment: aware, and within what both PostgreSQL and Python can hold.
Timestamp = Annotated[datetime, AfterValidator(_check_timestamp)]
#: The name of a time zone in the IANA database.
TimeZone = Annotated[str, AfterValidator(_check_time_zone)]
#: A number of things (PostgreSQL integer): 0 to 2,147,483,647.
Count = Annotated[int, Field(ge=0, lt=2**31)]
#: A size or a sequence (PostgreSQL bigint), from 0.
BigCount = Annotated[int, Field(ge=0, lt=2**63)]
#: Exact decimal money; never a float.
Money = Annotated[Decimal, Field(ge=0, max_digits=20, decimal_places=6)]


if TYPE_CHECKING:  # mypy wants a name for a base class
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class _RaisesInvalidValue(ModelMetaclass):
    """`NewMessage(role="bogus")` raises the package's `InvalidValue`; reading rows does not pass here."""

    if not TYPE_CHECKING:

        def __call__(cls, *args, **kwargs):  # noqa: N805  # a metaclass
            try:
                return super().__call__(*args, **kwargs)
            except ValidationError as error:
                raise invalid(error, cls.__name__) from None


def invalid(
    error: ValidationError, subject: str, *, column: str | None = None, table: str | None = None
) -> InvalidValue:
    """Return the `InvalidValue` for pydantic's error, without the value that was given.

    `subject` is a class or a table.
    """
    first, *others = error.errors(include_url=False, include_input=False, include_context=False)
    place = [str(part) for part in first["loc"]]
    field = ".".join([column, *place] if column else place)
    more = f" (and {len(others)} more)" if others else ""
    reason = first["msg"].removeprefix("Value error, ")
    result = InvalidValue(f"{subject}.{field}: {reason}{more}", table=table, column=column or next(iter(place), None))
    result.path = "$" + "".join(
        f"[{part}]" if part.isdigit() else f".{part}" for part in (place if column else place[1:])
    )
    return result


class Input(BaseModel, metaclass=_RaisesInvalidValue):
    """Fields to create a row. With an `id` the call can be repeated; the default is a UUIDv7 of the database.

    `created_at` and `updated_at` are for rows that are imported; by default both are the database's time of the INSERT.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    id: UUID | None = None
    created_at: Timestamp | None = None
    updated_at: Timestamp | None = None


class Record(Input):
    """A row as the database gives it back."""

    id: UUID = Field(default=...)
    created_at: datetime = Field(default=...)
    updated_at: datetime = Field(default=...)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Read choices as text: a newer release may have added one. `New…` and `update` check them."""
        super().__pydantic_init_subclass__(**kwargs)
        for field in cls.model_fields.values():
            if get_origin(bare(field.annotation)) is Literal:
                field.annotation = plain(field.annotation)


class Document(BaseModel, metaclass=_RaisesInvalidValue):
    """The typed form of a JSON column. Fields that a platform adds are kept; only what was set is stored."""

    # A document that was read may break the rules (tolerance.py); it is checked when it is written back.
    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True, revalidate_instances="always")

    @model_serializer(mode="wrap")
    def _only_what_was_set(self, dump: SerializerFunctionWrapHandler) -> JsonObject:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


@dataclass(frozen=True)
class Column:
    """A record's field as a column."""

    name: str
    annotation: Any
    nullable: bool
    storage: str | None
    """`jsonb`, `encrypted`, or None: the Python type says it."""

    @cached_property
    def json(self) -> bool:
        """Return whether the column is a jsonb document."""
        return self.storage == JSONB.name

    @cached_property
    def encrypted(self) -> bool:
        """Return whether the column holds ciphertext."""
        return self.storage == ENCRYPTED.name

    @property
    def mergeable(self) -> bool:
        """Return whether the column is a JSON object, or any JSON, so that a patch can be merged into it."""
        kind = self.python_type
        return self.json and (kind is Any or get_origin(kind) is dict or self.document)

    @property
    def document(self) -> bool:
        """Return whether the column is a `Document`, which also says what a patch may hold."""
        return self.json and isinstance(self.python_type, type) and issubclass(self.python_type, Document)

    @cached_property
    def python_type(self) -> Any:
        """The bare type: without `Annotated`, `| None` and markers."""
        return bare(self.annotation)

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Validates a value of this column."""
        return TypeAdapter(self.annotation, config=None if _is_model(self.python_type) else _HIDE_INPUT)

    @cached_property
    def typed(self) -> bool:
        """Return whether a JSON document has a model that dumps and validates it."""
        return self.json and any(_is_model(part) for part in _parts(self.annotation))


_HIDE_INPUT = ConfigDict(hide_input_in_errors=True)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _parts(argument)


def bare(annotation: Any) -> Any:
    """Return `annotation` without `Annotated` and `| None`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return bare(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        members = [argument for argument in get_args(annotation) if argument is not type(None)]
        return bare(members[0]) if len(members) == 1 else annotation
    return annotation


def plain(annotation: Any) -> Any:
    """Return the types of an annotation without their rules: no choices, no limits, no validators."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return plain(arguments[0])
    if origin is Literal:
        return Union[tuple(dict.fromkeys(map(type, arguments)))]  # noqa: UP007  # of a tuple
    if origin in (Union, types.UnionType):
        return Union[tuple(map(plain, arguments))]  # noqa: UP007
    return origin[tuple(map(plain, arguments))] if origin is not None else annotation


def nullable(annotation: Any) -> bool:
    """Return whether `annotation` admits None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return nullable(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return any(nullable(argument) for argument in get_args(annotation))
    return annotation is type(None) or annotation is None


def storage(annotation: Any) -> str | None:
    """Return the storage marker in `annotation`: `jsonb`, `encrypted` or None. Only the outermost counts."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        own = next((item.name for item in metadata if isinstance(item, _Marker)), None)
        return own or storage(inner)
    if origin in (Union, types.UnionType):
        return next((found for argument in get_args(annotation) if (found := storage(argument))), None)
    return None


def columns(record: type[BaseModel]) -> dict[str, Column]:
    """Return the columns of a record class by name, `id` first and the timestamps last."""
    return _columns(record)


@cache
def _columns(record: Any) -> dict[str, Column]:
    hints = typing.get_type_hints(record, include_extras=True)
    names = [name for name in record.model_fields if name not in TIMES]
    names += [name for name in TIMES if name in record.model_fields]
    return {name: Column(name, hints[name], nullable(hints[name]), storage(hints[name])) for name in names}
