"""Generate `tables/changes.py`: the keywords of `update` of each table as a TypedDict, for type checkers."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent_storage.errors import InvalidSettings
from agent_storage.maintenance.folders import parsed
from agent_storage.sources import SHIPPED
from agent_storage.statements.records import MAINTAINED

_HEAD = '''"""The typed keywords of methods that change rows, for type checkers alone."""

from __future__ import annotations

from typing import TypedDict
'''
#: The fields that every `New…` has. `update` does not take them.
_COMMON = {"id": "UUID", "created_at": "Timestamp", "updated_at": "Timestamp"}


@dataclass
class Keywords:
    """The typed keywords of the tables in `folder`, which is the package `package`.

    `fewer` names further classes of a table, for methods that take the fields of its `New…` without some.
    """

    package: str
    folder: Path
    fewer: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict[str, dict[str, tuple[str, ...]]])
    _imports: set[str] = field(default_factory=set[str], init=False)

    def text(self, tables: Mapping[str, str]) -> str:
        """Return the module. `tables` gives the folder of each table, below `folder`."""
        self._imports = set()
        classes = [text for table, folder in tables.items() for text in self._classes(table, folder)]
        return _HEAD + "\n".join(sorted(self._imports)) + "\n\n\n" + "\n\n\n".join(classes) + "\n"

    def _classes(self, table: str, folder: str) -> Iterator[str]:
        repository = parsed(self.folder / folder / "repository.py")
        tree = parsed(self.folder / folder / "record.py")
        new = _new_record(repository, self.folder / folder)
        module = f"{self.package}.{folder.replace('/', '.')}"
        known = _imported(tree)
        fields: dict[str, str] = {}
        for name, annotation in _fields(tree, new).items():
            names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
            text = ast.unparse(annotation)
            for own in names - known.keys() - set(dir(builtins)):
                text = re.sub(rf"\b(?<!\.){own}\b", f"{table}.{own}", text)
            self._imports |= {known[one] for one in names if one in known}
            self._imports |= {f"from {module} import record as {table}"} if f"{table}." in text else set()
            fields[name] = text
        bases = [_changes(base) for base in _outside(tree, new) if base in known]
        self._imports |= {f"from {SHIPPED}.tables.changes import {base}" for base in bases}
        own = {name: text for name, text in fields.items() if name not in {*MAINTAINED, *_immutable(repository)}}
        yield _class(_changes(new), bases, f"{table}.update", own)
        for title, without in self.fewer.get(table, {}).items():
            kept = {name: text for name, text in fields.items() if name not in without} | _COMMON
            yield _class(title, [], f"{table}.{'append' if table == 'messages' else 'set'}", kept)


def _class(title: str, bases: Sequence[str], method: str, fields: Mapping[str, str]) -> str:
    lines = [f"    {name}: {text}" for name, text in fields.items()]
    heads = ", ".join([*(bases or ["TypedDict"]), "total=False"])
    return "\n".join([f"class {title}({heads}):", f'    """Keywords of `{method}`."""', "", *lines])


def _changes(new: str) -> str:
    return new.removeprefix("New") + "Changes"


def _imported(tree: ast.Module) -> dict[str, str]:
    """Return the statement that imports each name."""
    return {
        alias.asname or alias.name: f"from {node.module} import {ast.unparse(alias)}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _new_record(tree: ast.Module, folder: Path) -> str:
    """Return the `New…` record of the repository in a module: the second argument of its base class."""
    bounds = {
        target.id: ast.unparse(keyword.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name)
        for keyword in node.value.keywords
        if keyword.arg == "bound"
    }
    for node in tree.body:
        for base in node.bases if isinstance(node, ast.ClassDef) else ():
            if isinstance(base, ast.Subscript) and isinstance(base.slice, ast.Tuple) and len(base.slice.elts) == 2:
                name = ast.unparse(base.slice.elts[1])
                return bounds.get(name, name)
    raise InvalidSettings(f"{folder / 'repository.py'} names no New… record: class Orders(Repository[Order, NewOrder])")


def _immutable(tree: ast.Module) -> tuple[str, ...]:
    """Return the fields that the repository declares immutable."""
    for node in tree.body:
        for item in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "immutable":
                return tuple(ast.literal_eval(item.value))
    return ()


def _class_of(tree: ast.Module, name: str) -> ast.ClassDef | None:
    return next((one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == name), None)


def _bases(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).split("[")[0] for base in node.bases]


def _fields(tree: ast.Module, name: str) -> dict[str, ast.expr]:
    """Return the fields of a class and of those that it extends in the same module."""
    node = _class_of(tree, name)
    if node is None:
        return {}
    found: dict[str, ast.expr] = {}
    for base in _bases(node):
        found |= _fields(tree, base)
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and not one.target.id.startswith("_"):
            found[one.target.id] = one.annotation
    return found


def _outside(tree: ast.Module, name: str) -> list[str]:
    """Return the `New…` records of other modules that a class extends."""
    node = _class_of(tree, name)
    if node is None:
        return [name] if name.startswith("New") else []
    return [outer for base in _bases(node) for outer in _outside(tree, base)]
