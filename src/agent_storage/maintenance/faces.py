"""Generate the sync face of a package from its async modules, by unasyncd.

The mirrored modules exist on both faces, everything else is shared: so a record is one class on both. The sync module
of `shop/storage/tables/orders/repository.py` is `shop/storage/sync/tables/orders/repository.py`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent_storage.errors import InvalidSettings
from agent_storage.maintenance.folders import parsed
from agent_storage.sources import SHIPPED

#: The modules of this package that exist on both faces, besides the repository.py of each table.
MIRRORED = (
    "adapters/workflow/__init__.py",
    "adapters/workflow/bound.py",
    "adapters/workflow/calls.py",
    "adapters/workflow/decisions.py",
    "adapters/workflow/facade.py",
    "adapters/workflow/runs.py",
    "adapters/checkpoints/__init__.py",
    "adapters/checkpoints/copying.py",
    "adapters/checkpoints/postgres.py",
    "adapters/checkpoints/provider.py",
    "adapters/checkpoints/providers.py",
    "adapters/checkpoints/tabled.py",
    "database/batch.py",
    "database/fastpath/executor.py",
    "database/fastpath/replies.py",
    "database/pool.py",
    "database/rolled_back.py",
    "database/transaction.py",
    "repository.py",
    "storage.py",
)

#: The names that `agent_storage` itself exports on both faces.
PUBLIC = frozenset({"Repository", "Storage", "Stream", "sql"})

#: Replacements beyond unasyncd's: classes of psycopg, contextlib and this package that differ between the faces.
REPLACEMENTS = {
    "psycopg.AsyncConnection": "psycopg.Connection",
    "psycopg_pool.AsyncConnectionPool": "psycopg_pool.ConnectionPool",
    "asyncio.Lock": "threading.Lock",
    "agent_storage.adapters.checkpoints.threads.Threads": "agent_storage.adapters.checkpoints.threads.NoThreads",
    "contextlib.AbstractAsyncContextManager": "contextlib.AbstractContextManager",
    "agent_storage.database.forks.LoopHome": "agent_storage.database.forks.ProcessHome",
    "agent_storage.database.listener.AsyncSignal": "agent_storage.database.listener.Signal",
    "agent_storage.database.tails.AsyncTail": "agent_storage.database.tails.Tail",
    "agent_storage.database.calls.uncut": "agent_storage.database.calls.returned",
    "agent_storage.database.calls.check_out": "agent_storage.database.calls.check_out_sync",
    "agent_storage.database.calls.run_at_once": "agent_storage.database.calls.call",
    "agent_storage.database.fastpath.waiting.AsyncWaiter": "agent_storage.database.fastpath.waiting.Waiter",
    "agent_storage.database.multiplexed.MultiplexedDatabase": "agent_storage.database.pool.Database",
}

_PACKAGE = Path(__file__).parents[1]
_NEEDED = "pip install 'agent-storage[generate]'"


@dataclass(frozen=True, slots=True)
class Faces:
    """A package with two faces: its dotted name, its folder, and its mirrored modules below that folder."""

    package: str
    folder: Path
    mirrored: Sequence[str]
    note: str

    def generated(self) -> dict[Path, str]:
        """Return the text of each module of the sync face. Raises `InvalidSettings` without unasyncd and ruff."""
        target = self.folder / "sync"
        found = {target / name: self._module(name) for name in self.mirrored}
        for name in self.mirrored:
            for parent in Path(name).parents:
                found.setdefault(target / parent / "__init__.py", "")
        return found

    def synced(self, text: str, name: str) -> str:
        """Return the text of the module `name` with imports of the sync versions of mirrored modules."""
        shipped = [*MIRRORED, *(str(path.relative_to(_PACKAGE)) for path in _PACKAGE.glob("tables/*/*/repository.py"))]
        twice = {SHIPPED: {"tables", *_dotted(shipped)}}
        twice.setdefault(self.package, set()).update(_dotted(self.mirrored))
        lines = text.splitlines(keepends=True)
        found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
        for node in sorted(found, key=lambda node: -node.lineno):
            statement = "".join(lines[node.lineno - 1 : node.end_lineno])
            made = _import(node, statement, self._absolute(node, name), twice)
            lines[node.lineno - 1 : node.end_lineno] = [made]
        return "".join(lines)

    def _absolute(self, node: ast.ImportFrom, name: str) -> str:
        """Return the full name of the module from which a module of this package imports."""
        if not node.level:
            return node.module or ""
        parts = [*self.package.split("."), *Path(name).parent.parts]
        return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])

    def _module(self, name: str) -> str:
        parsed(self.folder / name)
        text = (self.folder / name).read_text("utf-8")
        # unasyncd empties a module of imports alone.
        made = self.synced(_unasynced(text) if re.search(r"\basync |^class ", text, re.MULTILINE) else text, name)
        # asyncio.to_thread(f, x) is f(x) there
        made = re.sub(r"asyncio\.to_thread\(([\w.]+)(?:, |(?=\)))", r"\1(", made)
        # Ruff tells first-party imports by the packages that exist, so it is told the path of the async module.
        return formatted(self.note + made, self.folder / name)


def formatted(text: str, path: Path) -> str:
    """Return the text with sorted imports and formatted, by the rules of ruff for `path`, without those of lint."""
    for command in (["check", "--select", "I,F401,F811", "--fix", "--quiet", "--exit-zero"], ["format", "--quiet"]):
        try:
            done = subprocess.run(  # noqa: S603  # a command of ours
                [sys.executable, "-m", "ruff", *command, "--no-cache", "--stdin-filename", path, "-"],
                input=text,
                capture_output=True,
                text=True,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            missing = "No module named ruff" in error.stderr
            reason = f"it needs ruff: {_NEEDED}" if missing else error.stderr.strip()
            raise InvalidSettings(f"{path} cannot be generated: {reason}") from None
        text = done.stdout
    return text


def _unasynced(text: str) -> str:
    try:
        from unasyncd.transformers import TreeTransformer  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise InvalidSettings(f"the sync face cannot be generated: it needs unasyncd: {_NEEDED}") from None
    transform = TreeTransformer(exclude=[], transform_docstrings=True, extra_name_replacements=REPLACEMENTS)
    return transform(text)


def _dotted(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        yield name.removesuffix(".py").removesuffix("__init__").rstrip("/").replace("/", ".")


def _import(node: ast.ImportFrom, statement: str, module: str, twice: Mapping[str, Collection[str]]) -> str:
    """Return an import statement with the sync version of what it names."""
    for package, names in twice.items():
        below = module.removeprefix(package).lstrip(".")
        if (module == package or module.startswith(f"{package}.")) and below in names:
            synced = f"{package}.sync.{below}".rstrip(".")
            return re.sub(r"from\s+[\w.]+\s+import", f"from {synced} import", statement, count=1)
    indent = statement[: len(statement) - len(statement.lstrip())]
    if module == SHIPPED:
        ours = [alias for alias in node.names if alias.name in PUBLIC]
        others = [alias for alias in node.names if alias.name not in PUBLIC]
        parts = [(f"{SHIPPED}.sync", ours), (SHIPPED, others)]
        return "".join(
            f"{indent}from {of} import {', '.join(map(ast.unparse, names))}\n" for of, names in parts if names
        )
    if node.level:
        return f"{indent}from {module} import {', '.join(map(ast.unparse, node.names))}\n"
    return statement
