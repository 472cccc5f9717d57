"""Values in, rows out: arguments become parameters, and what the database gives becomes validated records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import repeat
from typing import Any, cast
from uuid import UUID

import orjson
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from agent_storage.errors import InvalidValue, SecretUnavailable, Unreadable
from agent_storage.statements.encryption import Keyring, LockedSecret, Place, StoredSecret
from agent_storage.statements.ids import uuid7
from agent_storage.statements.records import Column, Input, columns, invalid
from agent_storage.statements.text import encode_json
from agent_storage.statements.tolerance import tolerant_row


@dataclass(frozen=True)
class Codec:
    """The parameters of encoding and decoding: the maximum size of a JSON document, and the keys."""

    json_limit: int = 4 * 1024 * 1024
    keyring: Keyring = field(default_factory=lambda: Keyring({}, None))


def encode(column: Column, value: Any, codec: Codec, *, table: str, id_: UUID | None = None) -> Any:
    """Return the parameter to send for a valid `value` of `column`; `id_` is the row's, which encryption binds."""
    if column.storage is None or (value is None and (column.nullable or not column.json)):
        return value  # a document that must be there may be JSON's null
    if column.encrypted:
        if id_ is None:
            raise InvalidValue(f"{table}.{column.name} is encrypted for one row: set it row by row", table=table)
        return codec.keyring.encrypt(secret_text(value), Place(table, id_, column.name))
    document = column.adapter.dump_python(value) if column.typed else value
    try:
        return encode_json(document, limit=codec.json_limit, typed=column.typed)
    except InvalidValue as error:
        raise _in_field(error, table, column.name) from None


def encode_row(new: Input, names: Sequence[str], codec: Codec, *, table: str) -> dict[str, Any]:
    """Return the parameters for the fields `names` of `new`.

    A row with secrets gets its id here, because they are bound to it.
    """
    values = new.__dict__
    row = {name: values[name] for name in names}
    if row.get("updated_at") and new.created_at and row["updated_at"] < new.created_at:
        raise InvalidValue(f"{table}.updated_at is before created_at", table=table, column="updated_at")
    id_ = new.id
    for column in _stored(cast(Any, type(new))):
        if column.name in row:
            value = row[column.name]
            if id_ is None and column.encrypted and value is not None:
                id_ = uuid7()
            row[column.name] = encode(column, value, codec, table=table, id_=id_)
    if "id" in row:
        row["id"] = id_
    return row


@cache
def _stored(record: Any) -> list[Column]:
    """The columns whose values are not sent as they are."""
    return [column for column in columns(record).values() if column.storage is not None]


@cache
def _encrypted(record: Any) -> list[str]:
    return [name for name, column in columns(record).items() if column.encrypted]


def check(column: Column, value: Any, *, table: str | None) -> Any:
    """Return `value` as `column` wants it. Raises `InvalidValue` that names table and column."""
    if type(value) is column.annotation:
        return value
    try:
        return column.adapter.validate_python(value)
    except ValidationError as error:
        raise invalid(error, table or "argument", column=column.name, table=table) from None


def secret_text(value: Any) -> str:
    """Return a secret as it is encrypted: a `SecretStr` as its text, anything else as JSON."""
    if isinstance(value, LockedSecret):
        value.refuse()
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return orjson.dumps(value, default=_reveal).decode()


def _reveal(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    raise TypeError(type(value).__name__)


def _in_field(error: InvalidValue, table: str, column: str) -> InvalidValue:
    place = "" if error.path is None else error.path.removeprefix("$")
    sentence = str(error).removeprefix("$").removeprefix(place).strip()
    result = InvalidValue(f"{table}.{column}{place}: {sentence}", table=table, column=column)
    result.path = error.path
    return result


class RowMaker:
    """Makes one validated value from each row of a result: a record, or the scalar of its only column."""

    def __init__(self, item: Any, *, table: str) -> None:
        self.item = item
        self.table = table
        self.model: type[BaseModel] | None = item if isinstance(item, type) and issubclass(item, BaseModel) else None
        self._checked: tuple[str, ...] | None = None

    def make(self, names: Sequence[str], rows: Iterable[Sequence[Any]], codec: Codec) -> list[Any]:
        """Return a value for each of `rows`, whose columns are `names`. A second iteration must give them again.

        A value that breaks a rule of its field (a choice, a length, a range, a document's model) is kept as it is.
        Raises `Unreadable` when the columns are not the record's fields (a missing one is never filled from its
        default), or when a value is of another type.
        """
        if names is not self._checked:
            names = tuple(names)
            if names != self._checked:
                self._check(names)
        try:
            validate = self._validate
            if self.model is None:
                return [validate(row[0]) for row in rows]
            if self._encrypted:
                return [validate(row) for row in self._decrypted(names, rows, codec)]
            # The same as above without a step in Python for each row; every row has as many values as there are names.
            return list(map(validate, map(dict, map(zip, repeat(names), rows))))
        except ValidationError as error:
            if self.model is None:
                raise self._mismatch(error) from None
            return [self._tolerant(self.model, row) for row in self._decrypted(names, rows, codec)]

    def _tolerant(self, model: type[BaseModel], row: Mapping[str, Any]) -> BaseModel:
        try:
            return self._validate(row)
        except ValidationError as error:
            try:
                return tolerant_row(model, row)
            except ValidationError:
                raise self._mismatch(error) from None

    def _mismatch(self, error: ValidationError) -> Unreadable:
        fault = invalid(error, f"a row of {self.table}")
        return Unreadable(f"{fault}; the stored value does not fit this code's record")

    def _check(self, names: tuple[str, ...]) -> None:
        if self.model is None:
            if len(names) != 1:
                raise Unreadable(f"{self.table}: a single column was expected, got {', '.join(names) or 'none'}")
        elif set(names) != set(self.model.model_fields):
            fields = set(self.model.model_fields)
            missing = ", ".join(sorted(fields - set(names))) or "none"
            unknown = ", ".join(sorted(set(names) - fields)) or "none"
            raise Unreadable(
                f"{self.table}: the result does not fit {self.model.__name__} (missing: {missing}; unknown: {unknown})"
            )
        self._checked = names

    @cached_property
    def _validate(self) -> Callable[[Any], Any]:
        if self.model is None:
            return TypeAdapter(self.item).validator.validate_python
        self.model.model_rebuild()  # records build their validator when it is first wanted
        return self.model.__pydantic_validator__.validate_python

    @cached_property
    def _encrypted(self) -> list[Column]:
        return [columns(self.model)[name] for name in _encrypted(self.model)] if self.model else []

    def _decrypted(
        self, names: Sequence[str], rows: Iterable[Sequence[Any]], codec: Codec
    ) -> Iterator[Mapping[str, Any]]:
        return (self._decrypt(dict(zip(names, row, strict=True)), codec) for row in rows)

    def _decrypt(self, row: dict[str, Any], codec: Codec) -> Mapping[str, Any]:
        for column in self._encrypted:
            stored = row[column.name]
            if stored is not None:
                place = Place(self.table, row["id"], column.name)
                plain = column.python_type is SecretStr
                row[column.name] = (StoredSecret if plain else partial(_unlocked, column))(stored, place, codec.keyring)
        return row


def _unlocked(column: Column, stored: str, place: Place, keyring: Keyring) -> Any:
    """The value with secrets that was encrypted as JSON, or what raises `SecretUnavailable` when it is used."""
    try:
        return column.adapter.validate_python(orjson.loads(keyring.decrypt(stored, place)))
    except SecretUnavailable as error:
        return LockedSecret(stored, place, str(error))
    except ValueError:
        return LockedSecret(stored, place, f"{place} does not fit the record of this code")
