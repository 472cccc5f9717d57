"""`storage new table`: the three files of a table, and its migration, in a source of a product."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

from agent_storage.errors import InvalidValue
from agent_storage.maintenance.folders import declared
from agent_storage.maintenance.naming import NewColumn, camel, check_name, quoted, singular
from agent_storage.maintenance.templates import record_module, repository_module, schema
from agent_storage.migrations.files import author
from agent_storage.sources import Source, shipped
from agent_storage.storage import Storage

#: Names that the modules themselves use.
_USED = frozenset({"Any", "Decimal", "Found", "Input", "Jsonb", "Key", "Money", "Record", "Repository", "Timestamp"})
_SHARED = "_shared.sql"


@dataclass(frozen=True, slots=True)
class NewTable:
    """The files that were written for a table, and the names of its classes."""

    table: str
    files: list[Path]
    repository: str
    record: str
    module: str


def new_table(
    sources: Sequence[Source],
    source: Source,
    name: str,
    columns: Sequence[str] = (),
    *,
    domain: str | None = None,
    record: str | None = None,
) -> NewTable:
    """Write `schema.sql`, `record.py` and `repository.py` of a table, and its migration, into `source`.

    Raises `InvalidValue` for a name that another table has or that cannot be one, before anything is written.
    """
    tables = declared(sources)
    _check_table(name, tables)
    if domain is not None:
        check_name(domain, "domain")
    parsed = [NewColumn.parse(text, tables | {name: ""}) for text in columns]
    if twice := [one.name for one in parsed if [other.name for other in parsed].count(one.name) > 1]:
        raise InvalidValue(f"the column {twice[0]} is given twice")
    if source.package is None:
        folder = source.tables.parent
        raise InvalidValue(f"{folder} is no Python package: make {folder / '__init__.py'} first")
    classes = record or singular(camel(name))
    if not classes.isidentifier() or keyword.iskeyword(classes) or classes == camel(name) or classes in _USED:
        classes = f"{classes}Row" if record is None else _refuse_record(record)
    below = [domain, name] if domain else [name]
    folder = source.tables.joinpath(*below)
    module = ".".join([source.package, "tables", *below])
    texts = {
        "schema.sql": schema(name, parsed),
        "record.py": record_module(name, classes, parsed),
        "repository.py": repository_module(name, classes, parsed, f"{module}.record"),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()  # of two at once, one makes it
    except FileExistsError:
        raise InvalidValue(f"{folder} exists already") from None
    down = f"DROP TABLE {quoted(name)};\n"
    try:
        written = _share(sources, source)
        made = author.new(source.migrations, f"add_{name}", up=texts["schema.sql"], down=down)
    except BaseException:
        folder.rmdir()
        raise
    for place in (source.tables, *folder.parents, folder):
        if place.is_relative_to(source.tables):
            (place / "__init__.py").touch()
    for file, text in texts.items():
        (folder / file).write_text(text, "utf-8", newline="\n")
    written += [*(folder / file for file in texts), made.up, made.down]
    return NewTable(name, written, camel(name), classes, f"{module}.repository")


def _share(sources: Sequence[Source], source: Source) -> list[Path]:
    """Write the functions that all tables use, unless another source or this one has them. Return the files."""
    if any((one.tables / _SHARED).is_file() for one in sources):
        return []
    source.tables.mkdir(parents=True, exist_ok=True)
    copyfile(shipped().tables / _SHARED, source.tables / _SHARED)
    text = (source.tables / _SHARED).read_text("utf-8")
    names = re.findall(r"^CREATE OR REPLACE FUNCTION (\w+)", text, re.MULTILINE)
    down = "".join(f"DROP FUNCTION {name};\n" for name in [*names, "uuid_v7"])
    made = author.new(source.migrations, "shared_functions", up=text, down=down)
    return [source.tables / _SHARED, made.up, made.down]


def _check_table(name: str, tables: Mapping[str, str]) -> None:
    check_name(name, "table")
    if name in tables:
        raise InvalidValue(f"there is a table {name} already, in {tables[name]}")
    if name in dir(Storage) or name == "sync":
        raise InvalidValue(f"a table cannot be called {name}: `storage.{name}` has another meaning")
    if name in {"tables", "changes"}:
        raise InvalidValue(f"a table cannot be called {name}: `tables/` contains a module of that name")


def _refuse_record(name: str) -> str:
    raise InvalidValue(f"{name!r} cannot name the record: give a class name such as OrderLine")
