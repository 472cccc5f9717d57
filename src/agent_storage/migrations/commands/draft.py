"""`new --draft`: from an edited `schema.sql` to a migration, both directions proved in a shadow.

The statements are those with which the comparison of two catalogs would repair a drift. They are run in a shadow
database and the result is compared with the declared schema; what still differs then stands in the file as TODO. The
draft is a start, not an authority.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from agent_storage.catalog import LOSS, Catalog, Finding, compare, snapshot
from agent_storage.migrations.errors import InvalidRequest
from agent_storage.migrations.files.author import existing_ids
from agent_storage.migrations.files.lint import loses_data
from agent_storage.migrations.files.splitter import split
from agent_storage.migrations.history.yoyo import in_order
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.run.replay import replay
from agent_storage.migrations.verify.declared import load_schema
from agent_storage.migrations.verify.drift import line
from agent_storage.migrations.verify.shadow import ShadowServer, open_shadow

_GUESS = "-- TODO this is a guess; if nothing was renamed, drop the old one and add the new one instead:"
_CONSENT = "-- TODO this throws data away; remove the dashes and add `-- data-loss: ok` at the top if it is meant:"


@dataclass(frozen=True, slots=True)
class Step:
    """A drafted statement, without its semicolon. `loses`: rows or values go with it."""

    text: str
    loses: bool

    @property
    def renames(self) -> bool:
        """Whether something is taken for renamed, which only a person can know."""
        (statement,) = split(self.text)
        return statement.starts_with("ALTER") and "RENAME" in statement.words

    def guarded(self) -> str:
        """The statement with what a person has to decide about it."""
        if self.renames:
            return f"{_GUESS}\n{self.text};"
        if self.loses:
            return "\n".join([_CONSENT, *(f"-- {line}" for line in f"{self.text};".splitlines())])
        return f"{self.text};"


@dataclass(frozen=True, slots=True)
class Direction:
    """The drafted statements of one direction, and what they do not achieve."""

    steps: list[Step]
    missing: list[str] = field(default_factory=list[str])

    def text(self, *, guard: bool) -> str:
        """The file's text; `guard` comments out what throws data away."""
        parts = [step.guarded() if guard else f"{step.text};" for step in self.steps]
        parts += [f"-- TODO {text}" for text in self.missing]
        return "\n".join(parts) + "\n"

    @property
    def undecided(self) -> bool:
        """Whether a statement throws data away, or takes something for renamed: that is for a person to decide."""
        return any(step.loses or step.renames for step in self.steps)


@dataclass(frozen=True, slots=True)
class Draft:
    """Both directions. `complete`: proved, and nothing is left to decide."""

    up: Direction
    down: Direction

    @property
    def complete(self) -> bool:
        """Whether nothing remains to be done or decided by hand."""
        return not self.up.missing and not self.down.missing and not self.up.undecided


def draft(migrator: Migrations, server: ShadowServer, tables: Path) -> Draft:
    """Draft what leads from the migrations to the declared schema, and back."""
    with server.database() as migrated, server.database() as declared:
        with open_shadow(migrated) as old, open_shadow(declared) as new:
            # The very first migration is drafted from nothing.
            replay(old, in_order(migrator.files() if existing_ids(migrator.folder) else []))
            load_schema(new, tables)
        return between(migrated, declared)


def between(migrated: str, declared: str) -> Draft:
    """Draft what leads from one shadow database to the other, and back; afterwards each stands where the other was."""
    with open_shadow(migrated) as old, open_shadow(declared) as new:
        before, after = snapshot(old), snapshot(new)
        if not _drift(after, before):
            raise InvalidRequest(
                "the migrations already make the declared schema", hint="edit tables/<table>/schema.sql first"
            )
        return Draft(_proved(old, after), _proved(new, before))


def _proved(connection: psycopg.Connection, target: Catalog) -> Direction:
    """The statements that get the database to `target`, tried out there."""
    steps: list[Step] = []
    left = _drift(target, snapshot(connection))
    # One repair can make room for another that failed: so again, as long as that changes anything, but not for ever.
    for _ in range(5):
        tried = [step for step in _repairs(left) if _runs(connection, step.text)]
        before, left = left, _drift(target, snapshot(connection))
        if left == before:
            break
        steps += tried
    return Direction(steps, [line(one) for one in left])


def _drift(target: Catalog, actual: Catalog) -> list[Finding]:
    return [finding for finding in compare(target, actual) if finding.severity == "drift"]


def _repairs(findings: Iterable[Finding]) -> Iterator[Step]:
    """The comparison's own statements; those that lose data too, for they are proved like the others."""
    for text in dict.fromkeys(finding.sql for finding in findings if finding.sql):
        for statement in split(text.replace(LOSS, "")):
            marked = f"{LOSS}{statement.text.splitlines()[0]}" in text
            yield Step(statement.text, marked or loses_data(statement) is not None)


def _runs(connection: psycopg.Connection, statement: str) -> bool:
    """Run the statement; whether it ran."""
    try:
        with connection.transaction():
            connection.execute(statement.encode())
    except psycopg.Error:
        return False
    return True
