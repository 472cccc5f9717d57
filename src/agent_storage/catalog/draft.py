"""An entry while it is being read: still with its address in the catalogs, so that comments, grants and dependencies,
which the server keeps by address for all kinds of objects alike, find their way to it.
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
    """One query and the function that makes drafts of its rows."""

    sql: LiteralString
    read: Callable[[list[Row]], Iterable[Draft]]
    # True for objects that live in the database rather than in a schema: left out when schemas were named.
    of_database: bool = False
    # The versions that understand the query, where one text does not do for all.
    since: int = 0
    until: int = 1_000_000


@dataclass(slots=True)
class Draft:
    """`on` is the object as COMMENT ON names it, `grant_on` as GRANT does; both None where there is no such command."""

    kind: str
    name: str
    address: Address
    create: str | None = None
    drop: str | None = None
    on: str | None = None
    grant_on: str | None = None
    grant_column: str | None = None
    grant_before: str = ""
    # The name without schema and table, and what stands before and after the old name in a renaming.
    label: str = ""
    rename: tuple[str, str] | None = None
    # A column as CREATE TABLE has it.
    clause: str | None = None
    table: str | None = None
    parents: list[str] = field(default_factory=list[str])
    position: int = 0
    inline: bool = False
    properties: dict[str, Property] = field(default_factory=dict[str, Property])
    # Addresses that stand for this object too: a table's row type, a column's default, a view's rule.
    aliases: list[Address] = field(default_factory=list[Address])

    @property
    def key(self) -> str:
        """The key of the entry to be."""
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
        """Note a property; `None` means the default, which is not noted."""
        if value is not None:
            self.properties[name] = Property(value, set, change, reset, inline)

    def owned(self, owner: str, as_: str) -> None:
        """Note who owns it; `as_` is the object as ALTER names it."""
        self.add("owner", owner, set=f"ALTER {as_} OWNER TO {owner};", inline=True)

    def options(self, values: Options | None, alter: str, *, inline: bool, prefix: str = "") -> None:
        """Note storage options, each a property of its own; names and values come quoted."""
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
        """Note the options of a foreign object."""
        for name, literal in sorted((values or {}).items()):
            self.add(
                f"option {name}",
                literal.strip("'"),
                set=f"{alter} OPTIONS (ADD {name} {literal});",
                change=f"{alter} OPTIONS (SET {name} {literal});",
                reset=f"{alter} OPTIONS (DROP {name});",
            )

    def entry(self, requires: Iterable[str]) -> Entry:
        """The finished entry."""
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
