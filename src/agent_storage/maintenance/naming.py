"""Names of tables and columns, and the kinds of columns, of `storage new table`."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass

from agent_storage.errors import InvalidValue

#: The kinds of a column: its type and rule in SQL, its annotation, and the import of that.
KINDS = {
    "text": ("text", "", "str", ""),
    "key": ("text", "CHECK (char_length({name}) BETWEEN 1 AND 500)", "Key", "from agent_storage import Key"),
    "integer": ("integer", "", "int", ""),
    "bigint": ("bigint", "", "int", ""),
    "numeric": ("numeric", "", "Decimal", "from decimal import Decimal"),
    "money": ("numeric(20, 6)", "CHECK ({name} >= 0)", "Money", "from agent_storage import Money"),
    "boolean": ("boolean", "", "bool", ""),
    "date": ("date", "", "date", "from datetime import date"),
    "timestamptz": ("timestamptz", "", "Timestamp", "from agent_storage import Timestamp"),
    "uuid": ("uuid", "", "UUID", "from uuid import UUID"),
    "jsonb": ("jsonb", "", "Jsonb[Any]", "from typing import Any\nfrom agent_storage import Jsonb"),
}
_WORDS = """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation
    column concurrently constraint create cross current_catalog current_date current_role current_schema current_time
    current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze
    from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit
    localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references
    returning right select session_user similar some symmetric system_user table tablesample then to trailing true
    union unique user using variadic verbose when where window with
"""
#: PostgreSQL's reserved words. As names they are quoted.
RESERVED = frozenset(_WORDS.split())

#: Leaves room for the ends of the names of constraints and indexes, which have at most 63 characters.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_COMMON = ("id", "created_at", "updated_at")


@dataclass(frozen=True, slots=True)
class NewColumn:
    """A column: `NAME:KIND`, where KIND may be a table that it refers to, and `?` at the end admits NULL."""

    name: str
    kind: str
    nullable: bool = False

    @classmethod
    def parse(cls, text: str, tables: Mapping[str, str]) -> NewColumn:
        """Return the column that a text such as `note:text?` describes. Raises `InvalidValue`."""
        name, colon, kind = text.partition(":")
        found = cls(name, kind.removesuffix("?"), kind.endswith("?"))
        if not colon or found.kind not in {*KINDS, *tables}:
            kinds = ", ".join(KINDS)
            raise InvalidValue(f"{text!r} is no column: give NAME:KIND, where KIND is one of {kinds}, or a table")
        check_name(name, "column")
        if name in _COMMON:
            raise InvalidValue(f"every table has a column {name}: leave it out")
        return found

    @property
    def refers(self) -> bool:
        """Return whether the kind is a table."""
        return self.kind not in KINDS

    @property
    def annotation(self) -> str:
        """The annotation of the field."""
        kind = "UUID" if self.refers else KINDS[self.kind][2]
        return f"{kind} | None = None" if self.nullable else kind

    @property
    def sql(self) -> tuple[str, str]:
        """The type and the rules."""
        null = "" if self.nullable else "NOT NULL"
        if self.refers:
            rule = f"{null} REFERENCES {quoted(self.kind)} (id){' ON DELETE SET NULL' if self.nullable else ''}"
            return "uuid", rule.strip()
        kind, rule, *_ = KINDS[self.kind]
        return kind, f"{null} {rule.format(name=quoted(self.name))}".strip()


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return f'"{name}"' if name in RESERVED else name


def check_name(name: str, what: str) -> None:
    """Raise `InvalidValue` unless a table, column or domain can have this name."""
    if not _NAME.fullmatch(name):
        rule = "lower-case letters, digits and _, a letter first, at most 40 characters"
        raise InvalidValue(f"{name!r} cannot name a {what}: use {rule}")
    if keyword.iskeyword(name):
        raise InvalidValue(f"{name!r} cannot name a {what}: it is a keyword of Python")


def camel(name: str) -> str:
    """Return the class name of a table."""
    return "".join(part.capitalize() for part in name.split("_"))


def singular(name: str) -> str:
    """Return the singular of an English plural."""
    for end, instead in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if name.endswith(end):
            return name.removesuffix(end) + instead
    return name.removesuffix("s") if not name.endswith("ss") else name


def words(name: str) -> str:
    """Return a name as words."""
    return name.replace("_", " ")
