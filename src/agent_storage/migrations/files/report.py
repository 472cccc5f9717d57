"""The report of a failed statement: `file:line:column SQLSTATE message`, the line, a caret, the server's details."""

from __future__ import annotations

from pathlib import Path

import psycopg

from agent_storage.migrations.errors import StatementFailed
from agent_storage.migrations.files.file import SqlText
from agent_storage.migrations.files.splitter import SqlStatement

_WIDTH = 120


def shown(path: Path) -> str:
    """Return the path relative to the current folder if possible."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def statement_failed(
    error: psycopg.Error, path: Path, text: SqlText, statement: SqlStatement | None, origin: int | None = None
) -> StatementFailed:
    """Return the error for a statement that PostgreSQL rejected, or for the COMMIT if `statement` is None.

    Positions of the server count from the start of the statement, or from `origin` if others were sent before it.
    """
    diag = error.diag
    message = diag.message_primary or str(error)
    state = error.sqlstate or "-----"
    if statement is None:
        return StatementFailed(
            f"{shown(path)} {state} {message} (at COMMIT)", lines=_context(diag), sqlstate=error.sqlstate
        )
    offset = statement.offset
    if diag.statement_position:
        offset = (offset if origin is None else origin) + int(diag.statement_position) - 1
    line, column, source = text.place(min(offset, max(0, len(text.text) - 1)))
    return StatementFailed(
        f"{shown(path)}:{line}:{column} {state} {message}",
        lines=[*_pointed(source, column), *_context(diag)],
        hint=diag.message_hint,
        sqlstate=error.sqlstate,
    )


def _pointed(source: str, column: int) -> list[str]:
    """Return the line with a caret below it, cut to a window if it is long."""
    start = max(0, column - _WIDTH + 20) if len(source) > _WIDTH else 0
    window = source[start : start + _WIDTH].replace("\t", " ")
    return [f"    {window}", f"    {' ' * (column - 1 - start)}^"]


def _context(diag: psycopg.errors.Diagnostic) -> list[str]:
    # The details of data errors and constraint violations print whole rows, which may contain secrets.
    tells_rows = (diag.sqlstate or "")[:2] in {"22", "23"}
    lines = [f"detail: {line}" for line in (diag.message_detail or "").splitlines() if not tells_rows]
    if diag.internal_query:
        lines.append(f"inside: {' '.join(diag.internal_query.split())[:_WIDTH]}")
    if diag.context:
        lines += [f"context: {line}" for line in diag.context.splitlines()[:5]]
    return lines
