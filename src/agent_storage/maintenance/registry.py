"""The tables of all sources: where each is declared, and its repositories.

The tables of this package are registered in `agent_storage.tables`. Those of another source are found in its folder:
`tables/<table>/` or `tables/<domain>/<table>/`, with `schema.sql`, `record.py` and `repository.py`. A repository may
belong to a table of another source, which it then extends by columns.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from agent_storage.errors import InvalidSettings
from agent_storage.maintenance.folders import domain, modules
from agent_storage.repository import Repository
from agent_storage.sources import SHIPPED, Source, shipped
from agent_storage.sync.repository import Repository as SyncRepository
from agent_storage.tables import DOMAINS, REPOSITORIES

AnyRepository = type[Repository[Any, Any]]


@dataclass(frozen=True, slots=True)
class Registered:
    """A repository of a source. `domain` groups the tables in lists."""

    source: str
    domain: str
    repository: AnyRepository

    @property
    def table(self) -> str:
        """The name of the table."""
        return self.repository.table


def registered(sources: Sequence[Source] | None = None) -> list[Registered]:
    """Return the repositories of the sources, in their order. Default: those of this package.

    Raises `InvalidSettings` with file and line where a module cannot be imported.
    """
    return [one for source in ([shipped()] if sources is None else sources) for one in _of(source)]


def by_table(sources: Sequence[Source] | None = None) -> dict[str, Registered]:
    """Return a repository for each table: that of the last source that has one. It keeps the table's domain."""
    found: dict[str, Registered] = {}
    for one in registered(sources):
        known = found.get(one.table)
        found[one.table] = Registered(one.source, known.domain, one.repository) if known else one
    return found


def _of(source: Source) -> Iterator[Registered]:
    if source.name == SHIPPED:
        yield from (Registered(SHIPPED, DOMAINS[table], kind) for table, kind in REPOSITORIES.items())
        return
    for path in modules(source):
        found = list(_repositories(_imported(source, path)))
        if not found:
            raise InvalidSettings(f"{_shown(path)}: there is no Repository with a table")
        yield from (Registered(source.name, domain(source, path.parent), kind) for kind in found)


def _repositories(module: ModuleType) -> Iterator[AnyRepository]:
    """Yield the repositories that the module itself defines, on either face."""
    for name, item in vars(module).items():
        if not inspect.isclass(item) or item.__module__ != module.__name__ or name.startswith("_"):
            continue
        if issubclass(item, Repository | SyncRepository):
            kind = cast(AnyRepository, item)
            if hasattr(kind, "table"):
                yield kind


def _imported(source: Source, path: Path) -> ModuleType:
    """Import a module of a source by the name of its package."""
    if source.package is None:
        folder = _shown(source.tables.parent)
        raise InvalidSettings(f"{_shown(path)} cannot be imported: add {folder}/__init__.py, which makes it a package")
    _prepare_path(source)
    name = ".".join([source.package, "tables", *path.relative_to(source.tables).with_suffix("").parts])
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise InvalidSettings(f"{_place(error, source, path)}: {type(error).__name__}: {error}") from error
    actual = Path(module.__file__ or "").resolve()
    if actual != path.resolve():
        hint = f"set PYTHONPATH={_shown(source.root or path)}, or install that package in editable mode"
        raise InvalidSettings(f"{_shown(path)}: {name} is imported from {actual}, which is another copy; {hint}")
    return module


def _prepare_path(source: Source) -> None:
    """Make the package of a source importable from its folder, unless a module of that name is imported already."""
    top = (source.package or "").partition(".")[0]
    root = str(source.root)
    if top in sys.modules or sys.path[:1] == [root]:
        return
    spec = find_spec(top)
    if spec is None or str(Path(root) / top) not in (spec.submodule_search_locations or ()):
        sys.path.insert(0, root)
        importlib.invalidate_caches()


def _place(error: BaseException, source: Source, path: Path) -> str:
    """Return the file and line of an error of an import: the innermost ones that belong to the source."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(Path(error.filename))}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    folder = source.root or source.tables
    own = [frame for frame in frames if Path(frame.filename).resolve().is_relative_to(folder)]
    return f"{_shown(Path(own[-1].filename))}:{own[-1].lineno}" if own else _shown(path)


def _shown(path: Path) -> str:
    """Return a path below the current folder without it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
