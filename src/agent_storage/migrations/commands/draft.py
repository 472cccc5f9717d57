"""`new --draft`: write a migration from an edited `schema.sql`, and test both directions in a shadow database.

The statements are those by which the comparison of two catalogs repairs drift. They run in a shadow database, and the
result is compared with the declared schema. Remaining differences are written to the file as TODO comments. Review the
draft before applying it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg

from agent_storage.catalog import LOSS, Catalog, Difference, compare, snapshot
from agent_storage.migrations.errors import InvalidRequest
from agent_storage.migrations.files.lint import loses_data
from agent_storage.migrations.files.splitter import split, tokens
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.run.replay import replay
from agent_storage.migrations.verify.catalogs import declare
from agent_storage.migrations.verify.drift import line
from agent_storage.migrations.verify.shadow import ShadowServer, open_shadow

_GUESS = "-- TODO this is a guess; if nothing was renamed, drop the old one and add the new one instead:"
_CONSENT = "-- TODO this discards data; if intended, uncomment it and add `-- data-loss: ok` at the top:"


@dataclass(frozen=True, slots=True)
class Step:
    """A drafted statement, without its semicolon. `loses`: it discards rows or values."""

    text: str
    loses: bool

    @property
    def renames(self) -> bool:
        """Return whether the statement renames an object, which needs a review."""
        (statement,) = split(self.text)
        return statement.starts_with("ALTER") and "RENAME" in statement.words

    def guarded(self) -> str:
        """Return the statement with a TODO comment if it needs a review."""
        if self.renames:
            return f"{_GUESS}\n{self.text};"
        if self.loses:
            return "\n".join([_CONSENT, *(f"-- {line}" for line in f"{self.text};".splitlines())])
        return f"{self.text};"


@dataclass(frozen=True, slots=True)
class DraftedSql:
    """The drafted statements of one direction, and the differences that remain."""

    steps: list[Step]
    missing: list[str] = field(default_factory=list[str])

    def text(self, *, guard: bool) -> str:
        """Return the text of the file. `guard` comments out statements that discard data."""
        parts = [step.guarded() if guard else f"{step.text};" for step in self.steps]
        parts += [f"-- TODO {text}" for text in self.missing]
        return "\n".join(parts) + "\n"

    @property
    def undecided(self) -> bool:
        """Return whether a statement discards data or renames an object, which needs a review."""
        return any(step.loses or step.renames for step in self.steps)


@dataclass(frozen=True, slots=True)
class MigrationDraft:
    """The drafted statements of both directions."""

    up: DraftedSql
    down: DraftedSql

    @property
    def complete(self) -> bool:
        """Return whether both directions were tested and need no review."""
        return not self.up.missing and not self.down.missing and not self.up.undecided


def draft(migrator: Migrations, server: ShadowServer, tables: Path | None = None) -> MigrationDraft:
    """Draft the change from the migrations to the declared schema, and its rollback."""
    with server.database() as migrated, server.database() as declared:
        with open_shadow(migrated) as old, open_shadow(declared) as new:
            # The first migration of a folder is drafted against the other sources, or an empty database.
            files = migrator.files(own_may_be_empty=True)
            replay(old, files)
            own = replace(migrator.own, tables=tables) if tables else migrator.own
            sources = [own if source == migrator.own else source for source in migrator.sources]
            declare(new, sources, files)
        return between(migrated, declared)


def between(migrated: str, declared: str) -> MigrationDraft:
    """Draft the change from one shadow database to the other, and back. Afterwards each has the schema of the other."""
    with open_shadow(migrated) as old, open_shadow(declared) as new:
        before, after = snapshot(old), snapshot(new)
        if not _drift(after, before):
            raise InvalidRequest(
                "the migrations already create the declared schema", hint="edit tables/<table>/schema.sql first"
            )
        return MigrationDraft(_proved(old, after), _proved(new, before))


def _proved(connection: psycopg.Connection, target: Catalog) -> DraftedSql:
    """Return the statements that change the database to `target`, after running them there."""
    steps: list[Step] = []
    row = connection.execute("SELECT quote_ident(current_schema())").fetchone()
    schema = row[0] if row else None
    left = _drift(target, snapshot(connection))
    # One repair can enable another that failed before, so repeat while the remaining differences change.
    for _ in range(5):
        tried = [step for step in _repairs(left, schema) if _runs(connection, step.text)]
        before, left = left, _drift(target, snapshot(connection))
        if left == before:
            break
        steps += tried
    return DraftedSql(steps, [line(one) for one in left])


def _drift(target: Catalog, actual: Catalog) -> list[Difference]:
    return [difference for difference in compare(target, actual) if difference.severity == "drift"]


def _repairs(differences: Iterable[Difference], schema: str | None) -> Iterator[Step]:
    """Yield the statements of the comparison, including those that discard data, without the name of the schema."""
    for text in dict.fromkeys(difference.sql for difference in differences if difference.sql):
        for statement in split(text.replace(LOSS, "")):
            marked = f"{LOSS}{statement.text.splitlines()[0]}" in text
            yield Step(_unqualified(statement.text, schema), marked or loses_data(statement) is not None)


def _unqualified(text: str, schema: str | None) -> str:
    """Return a statement without `schema` before names: the migration may run in another schema."""
    found = list(tokens(text))
    for before, name, dot in reversed(list(zip([None, *found], found, found[1:], strict=False))):
        if name.text == schema and dot.text == "." and (before is None or before.text != "."):
            text = text[: name.start] + text[dot.start + 1 :]
    return text


def _runs(connection: psycopg.Connection, statement: str) -> bool:
    """Run the statement. Return whether it succeeded."""
    try:
        with connection.transaction():
            connection.execute(statement.encode())
    except psycopg.Error:
        return False
    return True
