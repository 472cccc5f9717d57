"""`new --draft`: from an edited `schema.sql` to a migration, both directions proved in a shadow.

The draft is a start, not an authority: what the engine writes is run in a shadow database and the result compared with
the declared schema. What is missing then is added from the comparison's own repair statements, and proved again; what
still differs stands in the file as TODO.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psycopg

from .author import existing_ids
from .backend import in_order
from .catalog import Catalog, compare, snapshot
from .drift import line
from .errors import InvalidRequest
from .lint import loses_data
from .manager import Migrator
from .replay import replay
from .results import Event
from .schema import load_schema
from .shadow import ShadowServer, open_shadow
from .splitter import Statement, split

_DASHES = "-- "
_LOSS = "-- data loss: "
_GUESS = "-- TODO this is a guess; if nothing was renamed, drop the old one and add the new one instead:"
_CONSENT = "-- TODO this throws data away; remove the dashes and add `-- data-loss: ok` at the top if it is meant:"


@dataclass(frozen=True, slots=True)
class Direction:
    """The drafted statements of one direction, and what they do not achieve."""

    statements: list[str]
    missing: list[str] = field(default_factory=list[str])

    def text(self, *, guard: bool) -> str:
        """The file's text; `guard` comments out what throws data away."""
        parts = [_guarded(statement) if guard else f"{statement};" for statement in self.statements]
        parts += [f"-- TODO {text}" for text in self.missing]
        return "\n".join(parts) + "\n"

    @property
    def undecided(self) -> bool:
        """Whether a statement throws data away, or takes something for renamed: that is for a person to decide."""
        parts = [statement for text in self.statements for statement in split(text)]
        return any(loses_data(statement) or _renames(statement) for statement in parts)


@dataclass(frozen=True, slots=True)
class Draft:
    """Both directions. `complete`: proved, and nothing is left to decide."""

    up: Direction
    down: Direction

    @property
    def complete(self) -> bool:
        """Whether nothing remains to be done or decided by hand."""
        return not self.up.missing and not self.down.missing and not self.up.undecided


def draft(migrator: Migrator, server: ShadowServer, tables: Path) -> Draft:
    """Draft what leads from the migrations to the declared schema, and back."""
    with server.database() as migrated, server.database() as declared:
        with open_shadow(migrated) as old, open_shadow(declared) as new:
            # The very first migration is drafted from nothing.
            replay(old, in_order(migrator.files() if existing_ids(migrator.folder) else []))
            load_schema(new, tables)
            before, after = snapshot(old), snapshot(new)
        if not [finding for finding in compare(after, before) if finding.severity == "drift"]:
            raise InvalidRequest(
                "the migrations already make the declared schema", hint="edit tables/<table>/schema.sql first"
            )
        texts = _engine(migrator, migrated, declared), _engine(migrator, declared, migrated)
        # Each is proved where it starts from; after that the database stands where the other one starts.
        up = _proved(migrated, texts[0], after)
        down = _proved(declared, texts[1], before)
    return Draft(up, down)


def _engine(migrator: Migrator, source: str, target: str) -> str:
    """What pgmig writes, if it is installed and manages."""
    if find_spec("pgmig") is None:
        migrator.notify(Event("note", "pgmig is not installed (extra `draft`): drafting from the comparison alone"))
        return ""
    import pgmig

    try:
        return pgmig.generate(source=source, target=target, include_grants=True)
    except pgmig.PgmigError as error:
        migrator.notify(Event("note", f"pgmig gave up: {error}"))
        return ""


def _proved(conninfo: str, text: str, target: Catalog) -> Direction:
    """The statements that get the database to `target`, tried out there."""
    with open_shadow(conninfo) as connection:
        statements = [statement.text for statement in split(text)]
        if not _runs(connection, statements):
            statements = []
        for _ in range(3):
            repairs = _repairs(target, snapshot(connection))
            added = [repair for repair in repairs if _runs(connection, [repair])]
            statements += added
            if not added:
                break
        missing = [line(one) for one in compare(target, snapshot(connection)) if one.severity == "drift"]
    return Direction(statements, missing)


def _repairs(target: Catalog, actual: Catalog) -> list[str]:
    """The comparison's own statements, each without its semicolon; those that lose data too, for they are proved."""
    found = [finding.sql for finding in compare(target, actual) if finding.severity == "drift" and finding.sql]
    return [statement.text for text in dict.fromkeys(found) for statement in split(text.replace(_LOSS, ""))]


def _runs(connection: psycopg.Connection, statements: list[str]) -> bool:
    """Run the statements, all or none of them; whether they ran."""
    try:
        with connection.transaction():
            for statement in statements:
                connection.execute(statement.encode())
    except psycopg.Error:
        return False
    return True


def _renames(statement: Statement) -> bool:
    return statement.starts_with("ALTER") and "RENAME" in statement.words


def _guarded(text: str) -> str:
    """The statement with what a person has to decide about it."""
    (statement,) = split(text)
    if _renames(statement):
        return f"{_GUESS}\n{text};"
    if loses_data(statement):
        return "\n".join([_CONSENT, *(f"{_DASHES}{line}" for line in f"{text};".splitlines())])
    return f"{text};"
