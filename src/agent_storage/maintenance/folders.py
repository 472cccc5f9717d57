"""The folders of a source's tables: `tables/<table>/` or `tables/<domain>/<table>/`. Imports no module of a table."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path

from agent_storage.errors import InvalidSettings
from agent_storage.sources import Source

_CREATE = re.compile(
    r'^\s*CREATE\s+(?:UNLOGGED\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:"?\w+"?\.)?"?(\w+)"?',
    re.MULTILINE | re.IGNORECASE,
)


def modules(source: Source) -> list[Path]:
    """Return the `repository.py` of each table, in the order of their folders."""
    return sorted(source.tables.rglob("repository.py"))


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a module. Raises `InvalidSettings` with file and line."""
    if not path.is_file():
        raise InvalidSettings(f"{path} is missing: a table with a repository.py has a record.py beside it")
    try:
        return ast.parse(path.read_text("utf-8"))
    except SyntaxError as error:
        raise InvalidSettings(f"{path}:{error.lineno}: SyntaxError: {error.msg}") from None


def domain(source: Source, folder: Path) -> str:
    """Return the group of the table in `folder`: the folder above it, else the name of the source."""
    parts = folder.relative_to(source.tables).parts
    return parts[0] if len(parts) > 1 else source.name


def declared(sources: Sequence[Source]) -> dict[str, str]:
    """Return the domain of each table that a schema.sql of the sources creates."""
    found: dict[str, str] = {}
    for source in sources:
        for path in sorted(source.tables.rglob("schema.sql")):
            for table in _CREATE.findall(path.read_text("utf-8")):
                found.setdefault(table, domain(source, path.parent))
    return found
