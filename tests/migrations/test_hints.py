"""No hint proposes a command that destroys what the user did not name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import agent_storage

from .conftest import Command, Folder

PACKAGE = Path(agent_storage.__file__).parent
#: Commands that can remove tables, columns, rows or files, and the statements that do.
DESTROYING = re.compile(
    r"storage (migrate )?(down|redo|sync|squash|reset|restore)\b|--all\b"
    r"|\b(drop|truncate|delete from)\b(?! (index|the old name|them\b|the index))",
    re.IGNORECASE,
)


def texts(node: ast.AST) -> Iterator[str]:
    """The texts of an expression; what is filled in is an ellipsis."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp | ast.BoolOp | ast.BinOp | ast.Tuple | ast.GeneratorExp | ast.Call):
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def hints(tree: ast.Module) -> Iterator[str]:
    """Everything that is called a hint, and every text with a command of ours in backquotes."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "hint":
            yield from texts(node.value)
        elif isinstance(node, ast.Assign):
            names = [part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            if any("hint" in name.lower() for name in names):
                yield from texts(node.value)
        elif isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in documentation:
            yield from (text for text in texts(node) if "`storage" in text)


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if "sync" not in path.relative_to(PACKAGE).parts[:1]]
FOUND = [(path, text) for path in MODULES for text in hints(ast.parse(path.read_text("utf-8")))]


def test_hints_are_found_at_all() -> None:
    assert len(FOUND) > 100
    assert any("storage migrate repair" in text for _, text in FOUND)


@pytest.mark.parametrize(
    "text",
    [
        "`storage migrate sync` takes it back",
        "`storage reset`",
        "DROP TABLE x",
        "storage migrate down --yes",
        "drop it",
    ],
)
def test_a_destroying_hint_would_be_found(text: str) -> None:
    assert DESTROYING.search(text)


def test_no_hint_proposes_what_destroys() -> None:
    assert [f"{path.relative_to(PACKAGE)}: {text}" for path, text in FOUND if DESTROYING.search(text)] == []


def test_the_hint_of_a_missing_file_leaves_its_tables_alone(migrate: Command, folder: Folder) -> None:
    folder.table("20260101000000_a", "a")
    folder.table("20260102000000_b", "b")
    assert migrate("up").returncode == 0
    folder.remove("20260102000000_b")
    ended = migrate("up")
    assert ended.returncode == 5
    assert "hint: restore the file, which may be on another branch" in ended.stderr
    assert not DESTROYING.search(ended.stderr)
