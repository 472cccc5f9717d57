"""Print the hand-written lines of each table: schema, record and repository, without blank lines and comments."""

from __future__ import annotations

import ast
from pathlib import Path

TABLES = Path(__file__).resolve().parent.parent / "src" / "agent_storage" / "tables"
FILES = ("schema.sql", "record.py", "repository.py")


def lines(path: Path) -> int:
    """Count the lines of a file without blank lines, comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    comment = "--" if path.suffix == ".sql" else "#"
    counted = {
        number
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.strip().startswith(comment)
    }
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                counted -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(counted)


def main() -> None:
    """Print the table."""
    print(f"{'table':<24}{'schema':>8}{'record':>8}{'repository':>12}{'total':>8}")
    for folder in sorted(path.parent for path in TABLES.glob("*/*/schema.sql")):
        counts = [lines(folder / name) for name in FILES]
        print(f"{folder.name:<24}{counts[0]:>8}{counts[1]:>8}{counts[2]:>12}{sum(counts):>8}")


if __name__ == "__main__":
    main()
