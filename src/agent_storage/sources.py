"""Sources: packages and folders with `tables/` and `migrations/` in them, of which a database is made.

The shipped source is called `agent_storage`. A product names its own in pyproject.toml, which is looked for from the
current folder upwards:

    [tool.agent-storage]
    sources = ["src/shop/storage"]     # folders, or names of installed packages
    schema = "agent"                   # the PostgreSQL schema of all of them
    ignore = ["public.legacy_*"]       # objects that drift leaves out
    include = []                       # without the shipped source

An installed package offers its source by the entry point group `agent_storage.sources`. `STORAGE_SOURCES`,
`STORAGE_INCLUDE`, `STORAGE_SCHEMA` and `STORAGE_IGNORE`, lists separated by commas, override the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from agent_storage.errors import InvalidSettings

SHIPPED = "agent_storage"
GROUP = "agent_storage.sources"

_KEYS = ("sources", "schema", "ignore", "include")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Source:
    """A package or folder with tables and migrations. `name` is that of its package, or of its folder."""

    name: str
    tables: Path
    migrations: Path
    #: The dotted name of the package that contains the tables, and the folder from which it is imported; None if it is
    #: no package.
    package: str | None = None
    root: Path | None = None

    @property
    def shipped(self) -> bool:
        """Return whether this is the source of agent-storage itself."""
        return self.name == SHIPPED


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings of pyproject.toml and the environment. `up` applies `sources` in their order."""

    sources: tuple[Source, ...]
    schema: str | None = None
    ignore: tuple[str, ...] = ()
    #: The pyproject.toml that was read.
    path: Path | None = field(default=None, compare=False)

    @property
    def own(self) -> Source:
        """Return the source that `new`, `down`, `redo`, `rebase` and `squash` change: the last of them."""
        return self.sources[-1]

    def source(self, name: str) -> Source:
        """Return the source of this name. Raises `InvalidSettings` with the known names."""
        for one in self.sources:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.sources)
        raise InvalidSettings(f"there is no source {name!r}; configured are: {known}")


def shipped() -> Source:
    """Return the source of this package."""
    package = Path(__file__).parent
    return Source(SHIPPED, package / "tables", package / "migrations" / "versions", SHIPPED, package.parent)


def at(folder: Path, name: str | None = None) -> Source:
    """Return the source in `folder`, named after the outermost package that contains it, else after the folder."""
    folder = folder.resolve()
    if folder == Path(__file__).parent:
        return shipped()
    parts: list[str] = []
    root = folder
    while (root / "__init__.py").is_file():
        parts.append(root.name)
        root = root.parent
    package = ".".join(reversed(parts)) or None
    name = name or (parts[-1] if parts else folder.name)
    if not _NAME.fullmatch(name):
        raise InvalidSettings(f"{name!r} cannot name a source: use letters, digits, _ . and -, as in NAME={folder}")
    return Source(name, folder / "tables", folder / "migrations", package, root if package else None)


def of_folder(folder: Path) -> Source:
    """Return the source of a folder of migrations alone, named as `at` names its parent folder."""
    folder = folder.resolve()
    if folder == shipped().migrations:
        return shipped()
    # The folder was named by its path, so a name that `at` would refuse has to become a valid one.
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", folder.parent.name or folder.name)
    name = plain if _NAME.fullmatch(plain) else f"_{plain}"
    parent = at(folder.parent, None if (folder.parent / "__init__.py").is_file() else name)
    return Source(parent.name, parent.tables, folder, parent.package, parent.root)


def configured(folder: Path | None = None, *, environment: Mapping[str, str] | None = None) -> Configuration:
    """Return the configuration for `folder`, by default the current one. Raises `InvalidSettings`."""
    env = os.environ if environment is None else environment
    path, values = _read(folder or Path.cwd())
    places: dict[str, str] = dict.fromkeys(_KEYS, f"[tool.agent-storage] of {path}")
    for key in _KEYS:
        variable = f"STORAGE_{key.upper()}"
        if variable in env and (env[variable].strip() or key != "schema"):
            text = env[variable].strip()
            values[key] = text if key == "schema" else [one.strip() for one in text.split(",") if one.strip()]
            places[key] = variable
    base = path.parent if path and not places["sources"].startswith("STORAGE_") else Path.cwd()
    include = _texts(values, "include", places, [SHIPPED])
    if unknown := [one for one in include if one != SHIPPED]:
        raise InvalidSettings(f"{places['include']}: include names {unknown[0]!r}; only {SHIPPED!r} can be included")
    found = [shipped()] if include else []
    found += [_source(text, base, places["sources"]) for text in _texts(values, "sources", places, [])]
    _refuse_twins(found, places["sources"])
    if not found:
        raise InvalidSettings(f"{places['include']}: include is empty, so sources has to name one")
    schema: Any = values.get("schema")
    if schema is not None and (not isinstance(schema, str) or not schema.strip()):
        raise InvalidSettings(f"{places['schema']}: schema has to be the name of a PostgreSQL schema")
    return Configuration(tuple(found), schema, tuple(_texts(values, "ignore", places, [])), path)


def _read(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """Return the nearest pyproject.toml with a section of ours, and that section."""
    for place in (folder.resolve(), *folder.resolve().parents):
        path = place / "pyproject.toml"
        if not path.is_file():
            continue
        try:
            tool: dict[str, Any] = tomllib.loads(path.read_text("utf-8")).get("tool", {})
            found: Any = tool.get("agent-storage")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"{path} is not valid TOML: {error}") from None
        if found is None:
            continue
        if not isinstance(found, dict):
            raise InvalidSettings(f"{path}: [tool.agent-storage] has to be a table")
        section = cast("dict[str, Any]", found)
        if unknown := [key for key in section if key not in _KEYS]:
            known = ", ".join(_KEYS)
            raise InvalidSettings(f"[tool.agent-storage] of {path}: unknown key {unknown[0]!r}; known are: {known}")
        return path, section
    return None, {}


def _texts(values: Mapping[str, Any], key: str, places: Mapping[str, str], default: list[str]) -> list[str]:
    found = values.get(key, default)
    if not isinstance(found, list):
        raise InvalidSettings(f"{places[key]}: {key} has to be a list of texts")
    texts = cast("list[Any]", found)
    if not all(isinstance(one, str) and one.strip() for one in texts):
        raise InvalidSettings(f"{places[key]}: {key} has to be a list of texts")
    return texts


def _source(text: str, base: Path, place: str) -> Source:
    """Return the source that `text` names: an installed package, `FOLDER`, or `NAME=FOLDER`."""
    name, equals, folder = text.rpartition("=")
    path = base / Path(folder).expanduser()
    if path.is_dir():
        return at(path, name if equals else None)
    if not equals and (package := _offered(text)) is not None:
        return at(package, text)
    hint = f"it is neither a folder below {base} nor an installed package of the entry point group {GROUP}"
    raise InvalidSettings(f"{place}: there is no source {text!r}: {hint}")


def _offered(name: str) -> Path | None:
    """Return the folder of the package that the entry point `name` gives."""
    for point in entry_points(group=GROUP, name=name):
        spec = find_spec(point.value)
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    return None


def _refuse_twins(found: Sequence[Source], place: str) -> None:
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise InvalidSettings(f"{place}: two sources are called {name!r}; name one of them: NAME=FOLDER")
