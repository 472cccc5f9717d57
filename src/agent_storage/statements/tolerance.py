"""Reads a row that its record would refuse: a newer release or SQL may have written it, and lists have to go on.

Rules (choices, lengths, ranges, required fields) hold when writing. When reading, only the type of a column holds: a
value that breaks a rule is kept as it is, and a document keeps the fields that fit.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from agent_storage.statements.records import Column, bare, columns, plain

M = TypeVar("M", bound=BaseModel)


def tolerant_row(model: type[M], row: Mapping[str, Any]) -> M:
    """Return the row as a record. Raises `ValidationError` for a value of another type, and for a secret."""
    return model.model_construct(None, **{name: _of_column(columns(model)[name], value) for name, value in row.items()})


def _of_column(column: Column, value: Any) -> Any:
    try:
        return column.adapter.validate_python(value)
    except ValidationError:
        if column.encrypted:  # as it is, it would be shown in the clear
            raise
        if column.json:
            return _of_document(column.annotation, value)
        kind = plain(bare(column.annotation))
        origin = get_origin(kind) or kind
        if value is None or (isinstance(origin, type) and isinstance(value, origin)):
            return value  # a numeric NaN, or an array that holds NULL
        return TypeAdapter[Any](kind).validate_python(value)


def _of_document(annotation: Any, value: Any) -> Any:
    """Return what fits of a part of a JSON document: a model with the fields that it has, a list item by item."""
    kind = bare(annotation)
    if get_origin(kind) in (Union, types.UnionType):
        return _of_union(get_args(kind), value)
    if isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, dict):
        return _of_object(kind, cast(dict[str, Any], value))
    if get_origin(kind) is list and isinstance(value, list):
        return [_read(get_args(kind)[0], item) for item in cast(list[Any], value)]
    return value


def _of_object(model: type[BaseModel], given: dict[str, Any]) -> BaseModel:
    known = columns(model)
    made = model.model_construct(
        None, **{name: _read(known[name].annotation, given[name]) for name in known.keys() & given.keys()}
    )
    if made.__pydantic_extra__ is not None:  # fields that a platform added, under any name
        others = {name: item for name, item in given.items() if name not in known}
        made.__pydantic_extra__.update(others)
        made.__pydantic_fields_set__.update(others)
    return made


def _of_union(members: tuple[Any, ...], value: Any) -> Any:
    for member in members:  # a discriminator may have chosen one that is too narrow
        try:
            return TypeAdapter[Any](member).validate_python(value)
        except ValidationError:
            continue
    lists = [member for member in members if get_origin(bare(member)) is list]
    return _of_document(lists[0], value) if lists else value


def _read(annotation: Any, value: Any) -> Any:
    try:
        return TypeAdapter[Any](annotation).validate_python(value)
    except ValidationError:
        return _of_document(annotation, value)
