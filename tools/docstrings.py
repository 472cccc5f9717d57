"""Check that the docstring of every public function and method begins with a verb.

    python tools/docstrings.py             check src/agent_storage, without the generated sync face
    python tools/docstrings.py FILE …      check these files

A name is public if neither it nor its class nor its module begins with an underscore. The docstring of a property may
be a noun phrase. A special method such as `__init__`, or an overload, needs no docstring, but one that it has is
checked. Prints `file:line: name: first words` and exits with 1 if anything is found.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "agent_storage"

#: The verbs that a docstring may begin with, in the imperative.
VERBS = """
    Accept Add Append Apply Approve Archive Ask Begin Bind Bring Call Change Charge Check Close Collect Compare
    Complete Connect Continue Copy Count Create Declare Decrease Delete Disconnect Do Draft Draw End Enter Expire
    Fail Fill Give Hold Import Increase Keep Leave Let List Load Make Merge Move Open Pause Prepare Print Publish
    Put Raise Read Record Refuse Reject Release Remove Rename Replace Report Reset Resume Return Rewrap Roll Run
    Send Set Show Sleep Start Stop Store Stream Take Translate Try Undo Update Wait Watch Wrap Write Yield
"""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(parent: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Yield the public functions and methods of a module or class, with their qualified names."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, Function):
            if not node.name.startswith("_") or node.name.endswith("__"):
                yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            if not node.name.startswith("_"):
                yield from functions(node, f"{prefix}{node.name}.")
        elif not isinstance(node, ast.expr) and ast.unparse(getattr(node, "test", node)) != "TYPE_CHECKING":
            yield from functions(node, prefix)


def decorated(node: Function, *names: str) -> bool:
    """Return whether one of the decorators has one of these names, as in `@functools.cached_property`."""
    return any(ast.unparse(decorator).rpartition(".")[2] in names for decorator in node.decorator_list)


def findings(path: Path) -> Iterator[str]:
    """Yield the lines to print for one file."""
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    for name, node in functions(ast.parse(path.read_text(encoding="utf-8"))):
        words = (ast.get_docstring(node) or "").split()
        if decorated(node, "setter", "deleter"):
            continue
        if words and (words[0].rstrip(".,:;") in VERBS.split() or decorated(node, "property", "cached_property")):
            continue
        if words or not (node.name.startswith("__") or decorated(node, "overload")):
            yield f"{shown}:{node.lineno}: {name}: {' '.join(words[:6]) or 'no docstring'}"


def main() -> int:
    """Check the files. Return the exit code."""
    paths = [Path(name).resolve() for name in sys.argv[1:]]
    if not paths:
        paths = [path for path in sorted(PACKAGE.rglob("*.py")) if PACKAGE / "sync" not in path.parents]
    public = [path for path in paths if not path.name.startswith("_") or path.name.startswith("__")]
    found = [line for path in public for line in findings(path)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
