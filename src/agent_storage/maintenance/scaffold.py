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
from agent_storage.migrations.files import author
from agent_storage.sources import Source, shipped
from agent_storage.storage import Storage

#: The kinds of a column: its type and rule in SQL, its annotation, and the import of that.
KINDS = {
    "text": ("text", "", "str", ""),
    "key": ("text", "CHECK (char_length({name}) BETWEEN 1 AND 500)", "Key", "from agent_storage import Key"),
    "integer": ("integer", "", "int", ""),
    "bigint": ("bigint", "", "int", ""),
    "numeric": ("numeric", "", "Decimal", "from decimal import Decimal"),
    "money": ("numeric(20, 6)", "CHECK ({name} >= 0)", "Money", "from agent_storage import Money"),
    "boolean": ("boolean", "", "bool", ""),
    "date": ("date", "", "date", "from datetime import date"),
    "timestamptz": ("timestamptz", "", "Timestamp", "from agent_storage import Timestamp"),
    "uuid": ("uuid", "", "UUID", "from uuid import UUID"),
    "jsonb": ("jsonb", "", "Jsonb[Any]", "from typing import Any\nfrom agent_storage import Jsonb"),
}
_WORDS = """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation
    column concurrently constraint create cross current_catalog current_date current_role current_schema current_time
    current_timestamp current_user default deferrable desc distinct do else end except false fetch for foreign freeze
    from full grant group having ilike in initially inner intersect into is isnull join lateral leading left like limit
    localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary references
    returning right select session_user similar some symmetric system_user table tablesample then to trailing true
    union unique user using variadic verbose when where window with
"""
#: PostgreSQL's reserved words. As names they are quoted.
RESERVED = frozenset(_WORDS.split())

#: Leaves room for the ends of the names of constraints and indexes, which have at most 63 characters.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_COMMON = ("id", "created_at", "updated_at")
#: Names that the modules themselves use.
_USED = frozenset({"Any", "Decimal", "Found", "Input", "Jsonb", "Key", "Money", "Record", "Repository", "Timestamp"})
_DESCRIBED = {
    "id": "Primary key: a UUIDv7 by default, or the id that the caller gave",
    "created_at": "Time of the INSERT; never changes",
    "updated_at": "Time of the last UPDATE",
}
_SHARED = "_shared.sql"


@dataclass(frozen=True, slots=True)
class NewTable:
    """The files that were written for a table, and the names of its classes."""

    table: str
    files: list[Path]
    repository: str
    record: str
    module: str


@dataclass(frozen=True, slots=True)
class NewColumn:
    """A column: `NAME:KIND`, where KIND may be a table that it refers to, and `?` at the end admits NULL."""

    name: str
    kind: str
    nullable: bool = False

    @classmethod
    def parse(cls, text: str, tables: Mapping[str, str]) -> NewColumn:
        """Return the column that a text such as `note:text?` describes. Raises `InvalidValue`."""
        name, colon, kind = text.partition(":")
        found = cls(name, kind.removesuffix("?"), kind.endswith("?"))
        if not colon or found.kind not in {*KINDS, *tables}:
            kinds = ", ".join(KINDS)
            raise InvalidValue(f"{text!r} is no column: give NAME:KIND, where KIND is one of {kinds}, or a table")
        _check_name(name, "column")
        if name in _COMMON:
            raise InvalidValue(f"every table has a column {name}: leave it out")
        return found

    @property
    def refers(self) -> bool:
        """Return whether the kind is a table."""
        return self.kind not in KINDS

    @property
    def annotation(self) -> str:
        """The annotation of the field."""
        kind = "UUID" if self.refers else KINDS[self.kind][2]
        return f"{kind} | None = None" if self.nullable else kind

    @property
    def sql(self) -> tuple[str, str]:
        """The type and the rules."""
        null = "" if self.nullable else "NOT NULL"
        if self.refers:
            rule = f"{null} REFERENCES {quoted(self.kind)} (id){' ON DELETE SET NULL' if self.nullable else ''}"
            return "uuid", rule.strip()
        kind, rule, *_ = KINDS[self.kind]
        return kind, f"{null} {rule.format(name=quoted(self.name))}".strip()


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return f'"{name}"' if name in RESERVED else name


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
        _check_name(domain, "domain")
    parsed = [NewColumn.parse(text, tables | {name: ""}) for text in columns]
    if twice := [one.name for one in parsed if [other.name for other in parsed].count(one.name) > 1]:
        raise InvalidValue(f"the column {twice[0]} is given twice")
    if source.package is None:
        folder = source.tables.parent
        raise InvalidValue(f"{folder} is no Python package: make {folder / '__init__.py'} first")
    classes = record or _singular(_camel(name))
    if not classes.isidentifier() or keyword.iskeyword(classes) or classes == _camel(name) or classes in _USED:
        classes = f"{classes}Row" if record is None else _refuse_record(record)
    below = [domain, name] if domain else [name]
    folder = source.tables.joinpath(*below)
    module = ".".join([source.package, "tables", *below])
    texts = {
        "schema.sql": _schema(name, parsed),
        "record.py": _record(name, classes, parsed),
        "repository.py": _repository(name, classes, parsed, f"{module}.record"),
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
    return NewTable(name, written, _camel(name), classes, f"{module}.repository")


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
    _check_name(name, "table")
    if name in tables:
        raise InvalidValue(f"there is a table {name} already, in {tables[name]}")
    if name in dir(Storage) or name == "sync":
        raise InvalidValue(f"a table cannot be called {name}: `storage.{name}` has another meaning")
    if name in {"tables", "changes"}:
        raise InvalidValue(f"a table cannot be called {name}: `tables/` contains a module of that name")


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        rule = "lower-case letters, digits and _, a letter first, at most 40 characters"
        raise InvalidValue(f"{name!r} cannot name a {what}: use {rule}")
    if keyword.iskeyword(name):
        raise InvalidValue(f"{name!r} cannot name a {what}: it is a keyword of Python")


def _refuse_record(name: str) -> str:
    raise InvalidValue(f"{name!r} cannot name the record: give a class name such as OrderLine")


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _singular(name: str) -> str:
    for end, instead in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if name.endswith(end):
            return name.removesuffix(end) + instead
    return name.removesuffix("s") if not name.endswith("ss") else name


def _words(name: str) -> str:
    return name.replace("_", " ")


def _described(column: NewColumn, table: str) -> str:
    text = _words(column.name.removesuffix("_id") if column.refers else column.name).capitalize()
    return f"{text} of the {_words(_singular(table))}" if column.refers else text


def _schema(table: str, columns: Sequence[NewColumn]) -> str:
    rows = [("id", "uuid", "PRIMARY KEY DEFAULT uuid_v7()")]
    rows += [(quoted(one.name), *one.sql) for one in columns]
    rows += [(name, "timestamptz", "NOT NULL DEFAULT now()") for name in ("created_at", "updated_at")]
    widths = [max(len(row[part]) for row in rows) for part in (0, 1)]
    lines = [f"    {name.ljust(widths[0])} {kind.ljust(widths[1])} {rule}".rstrip() for name, kind, rule in rows]
    texts = {"id": _DESCRIBED["id"], **{one.name: _described(one, table) for one in columns}}
    texts |= {name: _DESCRIBED[name] for name in ("created_at", "updated_at")}
    name = quoted(table)
    parts = [f"CREATE TABLE {name} (", ",\n".join(lines), ");"]
    parts += [
        f"CREATE INDEX {table}_{one.name}_idx ON {name} ({quoted(one.name)}, id);" for one in columns if one.refers
    ]
    parts.append(
        f"CREATE TRIGGER set_timestamp BEFORE UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();"
    )
    parts += ["", f"COMMENT ON TABLE {name} IS '{_words(table).capitalize()}';"]
    parts += [f"COMMENT ON COLUMN {name}.{quoted(column)} IS '{text}';" for column, text in texts.items()]
    return "\n".join(parts) + "\n"


def _record(table: str, record: str, columns: Sequence[NewColumn]) -> str:
    imports = {"from agent_storage import Input", "from agent_storage import Record"}
    for one in columns:
        imports |= {"from uuid import UUID"} if one.refers else set(KINDS[one.kind][3].splitlines())
    fields = [f"    {one.name}: {one.annotation}" for one in columns]
    lines = [
        f'"""The record of `{table}`."""',
        *_imports(imports),
        "",
        "",
        f"class New{record}(Input):",
        f'    """Fields to create a row of `{table}`."""',
        *(["", *fields] if fields else []),
        "",
        "",
        f"class {record}(Record, New{record}):",
        f'    """A row of `{table}`."""',
    ]
    return "\n".join(lines) + "\n"


def _repository(table: str, record: str, columns: Sequence[NewColumn], module: str) -> str:
    references = [one for one in columns if one.refers]
    title = f"{_words(table).capitalize()}."
    imports = {"from agent_storage import Repository", f"from {module} import New{record}, {record}"}
    if references:
        imports |= {"from agent_storage import Found", "from agent_storage import sql", "from uuid import UUID"}
    lines = [
        f'"""{title}"""',
        *_imports(imports),
        "",
        "",
        f"class {_camel(table)}(Repository[{record}, New{record}]):",
        f'    """{title}"""',
        "",
        f'    table = "{table}"',
    ]
    if references:
        pairs = ", ".join(f'"{one.name}": "{one.kind}"' for one in references)
        lines.append(f"    references = {{{pairs}}}")
        lines += ["    refers_to_itself = True"] if table in [one.kind for one in references] else []
    for one in references:
        by = one.name.removesuffix("_id")
        lines += [
            "",
            "    @sql(",
            '        """',
            "        SELECT {columns}",
            "          FROM {table}",
            f"         WHERE {quoted(one.name)} = %({one.name})s",
            "         ORDER BY id DESC",
            "         LIMIT %(limit)s",
            '        """,',
            "        repeatable=True,",
            "    )",
            f"    async def by_{by}(self, {one.name}: UUID, limit: int = 100) -> Found[{record}]:",
            f'        """Return the rows of this {_words(by)}, newest first."""',
            "        raise NotImplementedError",
        ]
    return "\n".join(lines) + "\n"


def _imports(statements: set[str]) -> list[str]:
    """Return import statements in blocks: the standard library, this package, the product."""
    names: dict[str, set[str]] = {}
    for statement in statements:
        _, module, _, imported = statement.split(" ", 3)
        names.setdefault(module, set()).update(imported.split(", "))
    lines = ["", "from __future__ import annotations"]
    ours = [module for module in names if module == "agent_storage"]
    standard = sorted(module for module in names if "." not in module and module != "agent_storage")
    for block in (standard, ours, sorted(set(names) - set(standard) - set(ours))):
        if block:
            lines += ["", *(f"from {one} import {', '.join(sorted(names[one], key=_case))}" for one in block)]
    return lines


def _case(name: str) -> tuple[bool, str]:
    """Return the order in which isort puts names: classes first."""
    return name[:1].islower(), name
