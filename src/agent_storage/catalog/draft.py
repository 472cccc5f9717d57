"""An entry while it is being read, with its address in the catalogs, by which the server keeps comments, grants and
dependencies of all kinds of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, LiteralString

from agent_storage.catalog.model import Entry, Property

Row = Mapping[str, Any]
# Quoted names and quoted values
Options = Mapping[str, str]
# (classid, objid, objsubid), as pg_depend and pg_description have it
Address = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Family:
    """One query and the function that makes draft entries of its rows."""

    sql: LiteralString
    read: Callable[[list[Row]], Iterable[DraftEntry]]
    # True for objects of the database rather than of a schema: not read if schemas were given.
    of_database: bool = False
    # The server versions that accept the query, where versions need different ones.
    since: int = 0
    until: int = 1_000_000


@dataclass(slots=True)
class DraftEntry:
    """An entry to be. `on` is its name in COMMENT ON, `grant_on` in GRANT; None where there is no such command."""

    kind: str
    name: str
    address: Address
    create: str | None = None
    drop: str | None = None
    on: str | None = None
    grant_on: str | None = None
    grant_column: str | None = None
    grant_before: str = ""
    # The name without schema and table, and the text before and after the old name in a rename.
    label: str = ""
    rename: tuple[str, str] | None = None
    # A column as CREATE TABLE writes it.
    clause: str | None = None
    table: str | None = None
    parents: list[str] = field(default_factory=list[str])
    position: int = 0
    inline: bool = False
    properties: dict[str, Property] = field(default_factory=dict[str, Property])
    # Other addresses of this object: a table's row type, a column's default, a view's rule.
    aliases: list[Address] = field(default_factory=list[Address])

    @property
    def key(self) -> str:
        """The key of the entry."""
        return f"{self.kind} {self.name}"

    def add(
        self,
        name: str,
        value: str | None,
        *,
        set: str | None = None,
        change: str | None = None,
        reset: str | None = None,
        inline: bool = False,
    ) -> None:
        """Add a property, unless `value` is None, which is the default."""
        if value is not None:
            self.properties[name] = Property(value, set, change, reset, inline)

    def owned(self, owner: str, as_: str) -> None:
        """Add the owner. `as_` is the object as ALTER names it."""
        self.add("owner", owner, set=f"ALTER {as_} OWNER TO {owner};", inline=True)

    def options(self, values: Options | None, alter: str, *, inline: bool, prefix: str = "") -> None:
        """Add storage options, each as a separate property. Names and values are quoted."""
        for name, literal in sorted((values or {}).items()):
            full = prefix + name
            self.add(
                f"option {full}",
                literal.strip("'"),
                set=f"{alter} SET ({full} = {literal});",
                reset=f"{alter} RESET ({full});",
                inline=inline,
            )

    def foreign_options(self, values: Options | None, alter: str) -> None:
        """Add the options of a foreign object."""
        for name, literal in sorted((values or {}).items()):
            self.add(
                f"option {name}",
                literal.strip("'"),
                set=f"{alter} OPTIONS (ADD {name} {literal});",
                change=f"{alter} OPTIONS (SET {name} {literal});",
                reset=f"{alter} OPTIONS (DROP {name});",
            )

    def entry(self, requires: Iterable[str]) -> Entry:
        """Return the finished entry."""
        return Entry(
            kind=self.kind,
            name=self.name,
            create=self.create,
            drop=self.drop,
            properties=self.properties,
            label=self.label,
            rename=self.rename,
            table=self.table,
            parents=tuple(self.parents),
            requires=tuple(sorted(set(requires) - {self.key, *self.parents})),
            position=self.position,
            inline=self.inline,
        )
