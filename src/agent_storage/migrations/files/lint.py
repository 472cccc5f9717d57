"""Our twelve rules for migration files. An error keeps `up` from starting; only `check` reports a warning."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from agent_storage.migrations.errors import InvalidRequest, LintFailed
from agent_storage.migrations.files import lockfile
from agent_storage.migrations.files.file import DIRECTIVES, MigrationFile, SqlText, duration_ms
from agent_storage.migrations.files.report import shown
from agent_storage.migrations.files.splitter import SqlStatement, tokens

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class LintFinding:
    """A place in a file that violates a rule."""

    path: str
    line: int
    column: int
    rule: str
    severity: Severity
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column} {self.severity} [{self.rule}] {self.message}"


@dataclass(frozen=True, slots=True)
class _LintedFile:
    """A file to check: its text, and whether it is the forward file."""

    migration: MigrationFile
    sql: SqlText
    path: Path
    forward: bool

    def at(self, offset: int, rule: str, message: str, hint: str = "", severity: Severity = "error") -> LintFinding:
        line, column, _ = self.sql.place(offset)
        return LintFinding(shown(self.path), line, column, rule, severity, message, hint)


def lint_file(migration: MigrationFile) -> list[LintFinding]:
    """Return the findings in one migration and its rollback."""
    sources = [_LintedFile(migration, migration.up, migration.path, forward=True)]
    if migration.down is not None:
        sources.append(_LintedFile(migration, migration.down, migration.rollback_path, forward=False))
    return [finding for source in sources for finding in sorted(_found(source), key=_place)]


def _found(source: _LintedFile) -> Iterator[LintFinding]:
    return (finding for rule in _RULES for finding in rule(source))


def _place(finding: LintFinding) -> tuple[int, int]:
    return finding.line, finding.column


def lint_folder(folder: Path, files: Sequence[MigrationFile]) -> list[LintFinding]:
    """Return the findings in all files, and those that concern the folder as a whole."""
    found = [finding for file in files for finding in lint_file(file)]
    return [*found, *_newest_last(folder, files), *_lock_agrees(folder, files)]


def refuse(files: Sequence[MigrationFile]) -> None:
    """Raise `LintFailed` if these files have errors."""
    errors = [finding for file in files for finding in lint_file(file) if finding.severity == "error"]
    if errors:
        lines = [str(finding) for finding in errors[1:]]
        raise LintFailed(str(errors[0]), hint=errors[0].hint or None, lines=lines)


def _encoding(source: _LintedFile) -> Iterator[LintFinding]:
    if source.sql.fault:
        yield source.at(0, "encoding", f"the file is {source.sql.fault}", "save it as UTF-8")


def _directives(source: _LintedFile) -> Iterator[LintFinding]:
    for directive in source.sql.directives:
        fault = _directive_fault(directive.name, directive.value) if directive.name in DIRECTIVES else ""
        if directive.suspect:
            fault = f"unknown directive {directive.name!r}"
        if fault:
            hint = f"known directives: {', '.join(sorted(DIRECTIVES))}"
            yield LintFinding(shown(source.path), directive.line, 1, "unknown-directive", "error", fault, hint)
    yield from _late_directives(source)


def _directive_fault(name: str, value: str) -> str:
    allowed = {"transactional": {"true", "false"}, "out-of-order": {"ok"}, "data-loss": {"ok"}}
    if name in allowed and value.lower() not in allowed[name]:
        return f"{name}: {value or 'nothing'} is not valid; it takes {' or '.join(sorted(allowed[name]))}"
    if name == "irreversible" and not value:
        return "irreversible needs a reason"
    if name.endswith("-timeout"):
        try:
            duration_ms(value)
        except InvalidRequest as error:
            return f"{name}: {error.message}"
    return ""


_LATE = re.compile(rf"^--\s*({'|'.join(sorted(DIRECTIVES - {'squawk-ignore'}))})\s*:", re.MULTILINE)


def _late_directives(source: _LintedFile) -> Iterator[LintFinding]:
    if source.sql.statements:
        for found in _LATE.finditer(source.sql.text, source.sql.statements[0].offset):
            message = f"the directive {found[1]!r} is below the first statement, where it has no effect"
            yield source.at(found.start(), "unknown-directive", message, "move it to the top of the file")


_CONTROL = {"BEGIN", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"}


def _transaction_control(source: _LintedFile) -> Iterator[LintFinding]:
    for statement in source.sql.statements:
        word = statement.words[:1]
        starts = statement.starts_with("START", "TRANSACTION") or statement.starts_with("PREPARE", "TRANSACTION")
        if starts or (word and word[0] in _CONTROL):
            message = f"{word[0]} in a migration: the manager begins and ends the transaction"
            hint = "remove it; `-- transactional: false` runs the file without a transaction"
            yield source.at(statement.offset, "transaction-control", message, hint)


_NEVER_IN_TRANSACTION = (
    ("VACUUM",),
    ("ALTER", "SYSTEM"),
    ("CREATE", "DATABASE"),
    ("DROP", "DATABASE"),
    ("CREATE", "TABLESPACE"),
    ("DROP", "TABLESPACE"),
)


def _concurrently(statement: SqlStatement) -> bool:
    return "CONCURRENTLY" in statement.words and not statement.starts_with("REFRESH")


def _outside_transaction(source: _LintedFile) -> Iterator[LintFinding]:
    if not source.migration.transactional:
        return
    for statement in source.sql.statements:
        if _concurrently(statement) or any(statement.starts_with(*words) for words in _NEVER_IN_TRANSACTION):
            what = "CONCURRENTLY" if _concurrently(statement) else " ".join(statement.words[:2])
            hint = "move it to a separate file with `-- transactional: false` at the top"
            yield source.at(statement.offset, "needs-no-transaction", f"{what} cannot run in a transaction", hint)


def _if_not_exists(source: _LintedFile) -> Iterator[LintFinding]:
    for statement in source.sql.statements:
        words = " ".join(statement.words[:7])
        if statement.starts_with("CREATE") and "CONCURRENTLY IF NOT EXISTS" in words:
            message = "IF NOT EXISTS accepts the INVALID index of a failed attempt"
            hint = "remove IF NOT EXISTS; drop the index that a failed attempt left"
            yield source.at(statement.offset, "if-not-exists-concurrently", message, hint)


def _missing_down(source: _LintedFile) -> Iterator[LintFinding]:
    if not source.sql.statements:
        yield source.at(0, "empty", "the file contains no statement", "write one, or remove the file")
    elif source.forward and source.migration.down is None and source.migration.irreversible is None:
        hint = f"write {source.migration.rollback_path.name}, or `-- irreversible: reason` at the top"
        yield source.at(0, "missing-down", "there is no rollback file", hint)


def sets_for_session(statement: SqlStatement) -> bool:
    """Return whether the statement sets a parameter for the session."""
    words = statement.words
    return words[:1] == ("SET",) and words[1:2] not in {("LOCAL",), ("TRANSACTION",), ("CONSTRAINTS",)}


def _set_without_local(source: _LintedFile) -> Iterator[LintFinding]:
    for statement in source.sql.statements:
        if sets_for_session(statement):
            message = "SET without LOCAL outlives the transaction"
            yield source.at(statement.offset, "set-without-local", message, "write SET LOCAL", "warning")


_KEEPS_DATA = {"CONSTRAINT", "DEFAULT", "NOT", "EXPRESSION", "IDENTITY"}


def loses_data(statement: SqlStatement) -> str | None:
    """Return the clause that discards data, or None."""
    words = statement.words
    if words[:2] in {("DROP", "TABLE"), ("DROP", "SCHEMA"), ("DROP", "DATABASE"), ("DROP", "SEQUENCE")}:
        return " ".join(words[:2])
    if words[:1] == ("TRUNCATE",):
        return "TRUNCATE"
    if words[:2] == ("DELETE", "FROM") and "WHERE" not in words:
        return "DELETE without WHERE"
    if words[:2] in {("ALTER", "TABLE"), ("ALTER", "TYPE")}:
        for at, word in enumerate(words[2:], 2):
            if word == "DROP" and words[at + 1 : at + 2] not in {(kept,) for kept in _KEEPS_DATA}:
                return "DROP COLUMN" if words[1] == "TABLE" else "DROP ATTRIBUTE"
    return None


def _data_loss(source: _LintedFile) -> Iterator[LintFinding]:
    if source.forward and not source.migration.data_loss:
        for statement in source.sql.statements:
            if lost := loses_data(statement):
                hint = "if intended, put `-- data-loss: ok` at the top"
                yield source.at(statement.offset, "data-loss", f"{lost} discards data", hint)


def _new_enum_value(source: _LintedFile) -> Iterator[LintFinding]:
    added: set[str] = set()
    for statement in source.sql.statements if source.migration.transactional else ():
        strings = {token.text for token in tokens(statement.text) if token.kind == "string"} if added else set[str]()
        if strings & added:
            value = min(strings & added)
            message = f"the enum value {value} is used in the transaction that adds it, which PostgreSQL rejects"
            yield source.at(statement.offset, "new-enum-value", message, "use it in a later migration")
        if statement.starts_with("ALTER", "TYPE") and "ADD VALUE" in " ".join(statement.words):
            added.add(next((token.text for token in tokens(statement.text) if token.kind == "string"), ""))


def _psql_commands(source: _LintedFile) -> Iterator[LintFinding]:
    if (token := source.sql.scan.meta) is not None:
        message = f"{token.text.split()[0]} is a psql meta-command, not SQL"
        yield source.at(token.start, "psql-command", message, "remove it")
        return
    for statement in source.sql.statements:
        if statement.starts_with("COPY") and statement.words[-1:] == ("STDIN",):
            message = "COPY FROM STDIN has no input in a migration"
            yield source.at(statement.offset, "psql-command", message, "write INSERT statements")


def _renames(source: _LintedFile) -> Iterator[LintFinding]:
    for statement in source.sql.statements if source.forward else ():
        if (
            statement.starts_with("ALTER", "TABLE")
            and "RENAME" in statement.words
            and "CONSTRAINT" not in statement.words
        ):
            message = "a rename breaks running code that uses the old name"
            hint = "add the new name beside it, migrate readers and writers, then drop the old name"
            yield source.at(statement.offset, "rename", message, hint, "warning")


_RULES: tuple[Callable[[_LintedFile], Iterator[LintFinding]], ...] = (
    _encoding,
    _directives,
    _transaction_control,
    _outside_transaction,
    _if_not_exists,
    _missing_down,
    _set_without_local,
    _data_loss,
    _new_enum_value,
    _psql_commands,
    _renames,
)

_TIME = re.compile(r"(\d{14})_[a-z0-9]")


def _newest_last(folder: Path, files: Sequence[MigrationFile]) -> Iterator[LintFinding]:
    """The twelfth rule: a file that is not in the lock file must be newer than those in it."""
    known = lockfile.read(folder)
    newest = max(known, default="")
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y%m%d%H%M%S}"
    for file in files:
        time = _TIME.match(file.id)
        if known and file.id not in known and file.id < newest and not file.out_of_order:
            message, hint = f"is older than {newest}, which is already locked", "`storage migrate rebase` renames it"
            yield LintFinding(shown(file.path), 1, 1, "not-newest", "error", message, hint)
        elif time and time[1] > tomorrow:
            message, hint = "is dated in the future; later files would sort before it", "rename it to the current time"
            yield LintFinding(shown(file.path), 1, 1, "not-newest", "warning", message, hint)


def _lock_agrees(folder: Path, files: Sequence[MigrationFile]) -> Iterator[LintFinding]:
    for message in lockfile.differences(folder, files):
        hint = "`storage migrate check --only lint --fix-lock` writes it"
        yield LintFinding(shown(folder / lockfile.NAME), 1, 1, "lock", "error", message, hint)
