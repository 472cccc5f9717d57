"""From a method that `@sql` declares to a `Statement`: slots filled, placeholders numbered, both checked.

Slots: `{table}`, `{key}` (the natural key), `{columns}`, `{alias.columns}` (qualified), and for a parameter that is an
`Input`, say `new`: `{new.columns}`, `{new.values}`, `{new.key}`, for ON CONFLICT `{new.updates}` (all fields) or
`{new.given}` (those that the caller has given), `{new.rows}`, the select list over rows that travel as one JSON array,
and `{new.source}`, the query that selects them after it has locked the rows that they refer to;
`{new.locks}` locks those of the rows in a CTE `given`. `{tasks.json}`, where
`tasks` is a field of the result that holds records, is a JSON object of such a record's columns in the row `tasks`.
Other braces are left alone: `'{}'::jsonb` is no slot.

Placeholders are `%(name)s` for a parameter and `%(new.title)s` for a field of an `Input`; `%%` is a per cent sign.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel

from agent_storage.statements.records import MAINTAINED, TIMES, Column, Input, Record, bare, columns, nullable, storage
from agent_storage.statements.secrets import IdentifiedSecrets
from agent_storage.statements.statement import (
    Encoder,
    IdentifiedEncoder,
    LimitEncoder,
    RowEncoder,
    RowsEncoder,
    Shape,
    Statement,
    ValueEncoder,
)

_SLOT = re.compile(
    r"\{(?:(?P<of>[a-z_]+)\.)?(?P<what>table|key|columns|values|updates|given|rows|locks|order|source|json)\}"
)
_GIVEN = re.compile(r"\{(?P<of>[a-z_]+)\.given\}")
_PLACEHOLDER = re.compile(r"%(?:\((?P<name>[a-z_][a-z0-9_.]*)\)s|(?P<other>.?))", re.DOTALL)
#: Filled by the database when the caller gives none; everything else has its default in the record. No row is changed
#: before it was created.
_BY_DATABASE = {
    "id": "coalesce({id}, uuid_v7())",
    "created_at": "coalesce({created_at}, least({updated_at}, now()))",
    "updated_at": "coalesce({updated_at}, greatest({created_at}, now()))",
}


@dataclass(frozen=True)
class Owner:
    """The properties of a repository that a declaration requires."""

    table: str
    record: type[Any]
    new: type[Input]
    natural_key: tuple[str, ...]
    #: The unique key in whose order rows are made; else that of ids.
    order: tuple[str, ...]
    refers_to_itself: bool
    references: Mapping[str, str]
    type_variables: Mapping[Any, Any]


class Template:
    """A method's signature and its SQL, before they are bound to a repository."""

    def __init__(self, function: Callable[..., Any], text: str, options: Mapping[str, Any]) -> None:
        self.function = function
        #: The declaration for rows that have an id or times of the caller's; and whether this is such a one.
        identified = options.get("identified")
        self.identified = (
            Template(function, identified, {**options, "identified": True, "missing": None})
            if isinstance(identified, str)
            else None
        )
        self.is_identified = identified is True
        self.options = {name: option for name, option in options.items() if name != "identified"}
        self.text = textwrap.dedent(text).strip()
        self.name = function.__name__
        self._signature = inspect.signature(function)
        parameters = list(self._signature.parameters.values())[1:]
        self._names = {parameter.name for parameter in parameters}
        self._positional = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        self._defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
        self._all_positional = len(self._positional) == len(parameters)
        found = _GIVEN.search(text)
        #: The parameter of the slot `{….given}`. The text depends on the fields that were given to it.
        self.depends_on = found["of"] if found else None

    @cached_property
    def hints(self) -> dict[str, Any]:
        """The annotations, resolved; `return` among them."""
        return typing.get_type_hints(self.function, include_extras=True)

    @property
    def streams(self) -> bool:
        """Return whether the method gives an iterator and is no coroutine."""
        return Shape.of(self.hints.get("return")).kind == "stream"

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the call's arguments by name, with the defaults. Raises `TypeError` as a call in Python does."""
        if not kwargs and self._all_positional and len(args) == len(self._positional):
            return dict(zip(self._positional, args, strict=True))
        given = dict(zip(self._positional, args, strict=False))
        complete = {**self._defaults, **given, **kwargs}
        if complete.keys() != self._names or len(args) > len(given) or (kwargs and not given.keys().isdisjoint(kwargs)):
            self._signature.bind(None, *args, **kwargs)
        return complete

    def given(self, arguments: Mapping[str, Any]) -> frozenset[str]:
        """Return the fields that were given to the parameter of `{….given}`."""
        return frozenset(getattr(arguments[self.depends_on or ""], "model_fields_set", ()))

    def compile(self, owner: Owner, given: frozenset[str] | None = None) -> Statement[Any]:
        """Return the statement for `owner`; `{….given}` are the fields `given`, or all.

        Raises `TypeError` with both names where text and signature differ.
        """
        return _Compiler(self, owner, given).statement()


class _Compiler:
    """One compilation."""

    def __init__(self, template: Template, owner: Owner, given: frozenset[str] | None) -> None:
        self.template = template
        self.owner = owner
        self.given = given
        self.name = f"{owner.table}.{template.name}"
        self.hints = {name: substitute(hint, owner.type_variables) for name, hint in template.hints.items()}
        self.shape = Shape.of(self.hints.pop("return", None))

    def statement(self) -> Statement[Any]:
        if self.shape.kind == "found" and "limit" not in self.hints:
            raise self._fault(
                "a list takes a limit: give it the parameter limit: int = 100, and the text LIMIT %(limit)s"
            )
        filled = _SLOT.sub(self._fill, self.template.text)
        fields = self._placeholders(filled)
        if unused := [name for name in self.hints if name not in fields]:
            raise self._fault(f"the parameter {', '.join(unused)} has no placeholder in the text")
        paths = [f"{name}.{field}".rstrip(".") for name, of in fields.items() for field in of]
        numbers = {path: number for number, path in enumerate(paths, start=1)}
        text = _PLACEHOLDER.sub(lambda match: f"${numbers[match['name']]}" if match["name"] else "%", filled)
        encoders = [(name, self._encoder(name, of)) for name, of in fields.items()]
        options = dict(self.template.options)
        if self.owner.refers_to_itself:
            options["chunked"] = False
        self._check_missing(options.get("missing"), paths)
        if self.template.identified:
            options["identified"] = self.template.identified.compile(self.owner)
            options["keyed"] = bool(self.owner.order) and self.template.options["chunked"]
        if self.template.is_identified:
            options["ordered"] = "{new.order}" in self.template.text
        secret = self.template.is_identified and any(one.encrypted for one in columns(self.owner.new).values())
        kind = IdentifiedSecrets[Any] if secret else Statement[Any]
        return kind(self.name, text, self.shape, table=self.owner.table, encoders=encoders, **options)

    def _check_missing(self, missing: str | None, paths: Sequence[str]) -> None:
        for match in _PLACEHOLDER.finditer(missing or ""):
            if match["name"] not in paths:
                raise self._fault(f"missing={missing!r} names no parameter at {match[0]!r}")

    def _fill(self, match: re.Match[str]) -> str:
        of, what = match["of"], match["what"]
        if of and what == "json":
            return self._fill_json(of)
        if of in self.hints and (new := self._input(of)):
            return self._fill_input(of, what, self._names(new))
        if what == "columns":
            self._check_columns()
            prefix = f"{quoted(of)}." if of else ""
            return ", ".join(prefix + quoted(name) for name in columns(self.owner.record))
        if of is None and what == "table":
            return quoted(self.owner.table)
        if of is None and what == "key":
            return ", ".join(map(quoted, self.owner.natural_key))
        raise self._fault(f"the slot {match[0]} belongs to no Input parameter")

    def _names(self, new: type[Input]) -> list[str]:
        """The fields that are written. With a text for identified rows, this one is for rows that get their times from
        the table's defaults.
        """
        return [name for name in columns(new) if not self.template.identified or name not in TIMES]

    def _makes_id(self, new: type[Input]) -> bool:
        """Return whether the text makes the ids itself. Secrets are encrypted for an id, so theirs are always sent."""
        return self.template.identified is not None and not any(one.encrypted for one in columns(new).values())

    def _fill_input(self, of: str, what: str, names: list[str]) -> str:
        if what == "columns":
            return ", ".join(map(quoted, names))
        if what == "values":
            return self._values(of, names, self._locked_values(of, names))
        if what == "key":
            return ", ".join(f"%({of}.{name})s" for name in self.owner.natural_key)
        if what == "rows":
            fields = columns(self._input(of) or self.owner.new)
            return self._values(of, names, lambda name: _row_value(fields[name]))
        if what == "order":
            return ", ".join(f'{quoted(name)}::text COLLATE "C"' for name in self.owner.order) or quoted("id")
        if what == "locks":
            return self._locks(least=1 if self._many(of) else 2) or "0 AS locks"
        if what == "source":
            return self._source(of, names)
        if what in ("updates", "given"):
            # With nothing but the key, the key is set to itself, so that RETURNING gives the row all the same.
            given = names if what == "updates" or self.given is None else self.given
            kept = {*MAINTAINED, *self.owner.natural_key}
            changed = [name for name in names if name not in kept and name in given]
            return ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in changed or self.owner.natural_key)
        raise self._fault(f"the slot {{{of}.{what}}} is unknown")

    def _values(self, of: str, names: list[str], value: Callable[[str], str]) -> str:
        """The values of the fields, each with its default in place of none."""
        makes_id = self._makes_id(self._input(of) or self.owner.new)
        given = {name: value(name) for name in names}
        return ", ".join("uuid_v7()" if makes_id and name == "id" else _or_default(name, given) for name in names)

    def _source(self, of: str, names: list[str]) -> str:
        """The rows given, after the rows that they refer to were locked."""
        rows = f"jsonb_populate_recordset(NULL::{quoted(self.owner.table)}, %({of})s)"
        select = self._fill_input(of, "rows", names)
        if not (locked := self._locks()):
            return f"SELECT {select}\n  FROM {rows}"
        return (
            f"WITH given AS MATERIALIZED (\n    SELECT * FROM {rows}\n), locked AS MATERIALIZED (\n"
            f"    SELECT {locked}\n)\nSELECT {select}\n  FROM given\n CROSS JOIN locked"
        )

    def _locked_values(self, of: str, names: list[str]) -> Callable[[str], str]:
        """The placeholders of one row. Rows of one table that it refers to are locked before the first is written."""
        values = {name: f"%({of}.{name})s" for name in names}
        for table, keys in self._columns_of().items():
            if len(keys) > 1:
                ids = ", ".join(values[key] for key in keys)
                values[keys[0]] = (
                    f"(SELECT {values[keys[0]]}::uuid FROM (SELECT count(*) FROM (SELECT FROM {quoted(table)}"
                    f" WHERE id IN ({ids}) ORDER BY id FOR KEY SHARE) one) locked)"
                )
        return values.__getitem__

    def _columns_of(self) -> dict[str, list[str]]:
        """The columns that refer to each table."""
        columns_of: dict[str, list[str]] = {}
        for column, table in self.owner.references.items():
            columns_of.setdefault(table, []).append(column)
        return columns_of

    def _locks(self, *, least: int = 1) -> str:
        """Lock the rows that the CTE `given` refers to, in the order of ids, as the foreign keys do later.

        The foreign keys alone lock them in the order of the rows, which deadlocks with a DELETE of several. Left out
        are tables to which fewer than `least` columns refer.
        """
        counts = [
            f"(SELECT count(*) FROM (SELECT FROM {quoted(table)} WHERE id IN ("
            + " UNION ALL ".join(f"SELECT {quoted(name)} FROM given" for name in keys)
            + ") ORDER BY id FOR KEY SHARE) one)"
            for table, keys in self._columns_of().items()
            if len(keys) >= least
        ]
        return ",\n           ".join(counts)

    def _fill_json(self, of: str) -> str:
        """Named columns, never the whole row: a column of a later migration must not break code that runs."""
        model = self.shape.item
        field = columns(model).get(of) if isinstance(model, type) and issubclass(model, BaseModel) else None
        held = field.python_type if field else None
        held = get_args(held)[0] if get_origin(held) is list else held
        if not (isinstance(held, type) and issubclass(held, Record)):
            raise self._fault(f"the slot {{{of}.json}} names no field of the result that holds records")
        pairs = (f"'{name}', {quoted(of)}.{quoted(name)}" for name in columns(held))
        return f"jsonb_build_object({', '.join(pairs)})"

    def _check_columns(self) -> None:
        """`{columns}` are the record's fields, so the result must be the record, or one that extends it."""
        item = self.shape.item
        if self.shape.kind != "nothing" and not (isinstance(item, type) and issubclass(item, self.owner.record)):
            made = getattr(item, "__name__", item)
            raise self._fault(
                f"{{columns}} are the fields of {self.owner.record.__name__}, but the method returns {made}"
            )

    def _placeholders(self, text: str) -> dict[str, list[str]]:
        """The parameters that the text names, each with its fields (one empty name for a plain parameter)."""
        found: dict[str, list[str]] = {}
        for match in _PLACEHOLDER.finditer(text):
            if match["name"] is None:
                if match["other"] != "%":
                    raise self._fault(f"write %% for a per cent sign, or %(name)s for a parameter (at {match[0]!r})")
                continue
            name, _, field = match["name"].partition(".")
            self._check_placeholder(name, field)
            if field not in found.setdefault(name, []):
                found[name].append(field)
        return found

    def _check_placeholder(self, name: str, field: str) -> None:
        if name not in self.hints:
            known = ", ".join(self.hints) or "none"
            raise self._fault(f"the placeholder %({name})s has no parameter in the signature (parameters: {known})")
        new = self._input(name)
        if field and (new is None or field not in columns(new)):
            raise self._fault(f"the placeholder %({name}.{field})s names no field of {name}")
        if not field and new is not None and not self._many(name) and not self.template.is_identified:
            raise self._fault(f"the placeholder %({name})s is an {new.__name__}: name its fields, %({name}.field)s")

    def _encoder(self, name: str, fields: Sequence[str]) -> Encoder:
        new = self._input(name)
        if name == "limit" and self.shape.kind == "found":
            return LimitEncoder(self.owner.table)
        if new is None:
            hint = self.hints[name]
            return ValueEncoder(Column(name, hint, nullable(hint), storage(hint)), self.owner.table)
        if self.template.is_identified:
            return IdentifiedEncoder(name, new, self.owner.record, self.owner.table)
        if self._many(name):
            sent = [field for field in self._names(new) if field != "id" or not self._makes_id(new)]
            return RowsEncoder(name, new, sent, self.owner.table)
        return RowEncoder(name, new, fields, self.owner.table)

    def _many(self, name: str) -> bool:
        return get_origin(bare(self.hints[name])) is not None

    def _input(self, name: str) -> type[Input] | None:
        """The `Input` class of a parameter: its own, or its items' for a sequence."""
        annotation = bare(self.hints[name])
        if self._many(name) and len(get_args(annotation)) == 1:
            annotation = get_args(annotation)[0]
        return annotation if isinstance(annotation, type) and issubclass(annotation, Input) else None

    def _fault(self, why: str) -> TypeError:
        return TypeError(f"{self.name}: {why}")


def quoted(identifier: str) -> str:
    """Return a quoted identifier.

    All of them come from class bodies, and are checked to be plain names when the class is created.
    """
    return f'"{identifier}"'


def _row_value(column: Column) -> str:
    """A document that must be there may be JSON's null, which a JSON row cannot tell from none."""
    return f"coalesce({quoted(column.name)}, 'null')" if column.json and not column.nullable else quoted(column.name)


def _or_default(name: str, values: Mapping[str, str]) -> str:
    return _BY_DATABASE[name].format(**values) if name in _BY_DATABASE else values[name]


def substitute(annotation: Any, variables: Mapping[Any, Any]) -> Any:
    """Return `annotation` with type variables replaced, at any depth."""
    if isinstance(annotation, TypeVar):
        return variables.get(annotation, annotation)
    if isinstance(annotation, type):
        return annotation
    own: tuple[Any, ...] = getattr(annotation, "__parameters__", ())
    return annotation[tuple(variables.get(variable, variable) for variable in own)] if own else annotation
