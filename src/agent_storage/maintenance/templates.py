"""The texts of the files that `storage new table` writes."""

from __future__ import annotations

from collections.abc import Sequence

from agent_storage.maintenance.naming import KINDS, NewColumn, camel, quoted, singular, words

_DESCRIBED = {
    "id": "Primary key: a UUIDv7 by default, or the id that the caller gave",
    "created_at": "Time of the INSERT; never changes",
    "updated_at": "Time of the last UPDATE",
}


def _described(column: NewColumn, table: str) -> str:
    text = words(column.name.removesuffix("_id") if column.refers else column.name).capitalize()
    return f"{text} of the {words(singular(table))}" if column.refers else text


def schema(table: str, columns: Sequence[NewColumn]) -> str:
    """Return the schema.sql of a table."""
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
    parts += ["", f"COMMENT ON TABLE {name} IS '{words(table).capitalize()}';"]
    parts += [f"COMMENT ON COLUMN {name}.{quoted(column)} IS '{text}';" for column, text in texts.items()]
    return "\n".join(parts) + "\n"


def record_module(table: str, record: str, columns: Sequence[NewColumn]) -> str:
    """Return the record.py of a table."""
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


def repository_module(table: str, record: str, columns: Sequence[NewColumn], module: str) -> str:
    """Return the repository.py of a table, whose record is in `module`."""
    references = [one for one in columns if one.refers]
    title = f"{words(table).capitalize()}."
    imports = {"from agent_storage import Repository", f"from {module} import New{record}, {record}"}
    if references:
        imports |= {"from agent_storage import Found", "from agent_storage import sql", "from uuid import UUID"}
    lines = [
        f'"""{title}"""',
        *_imports(imports),
        "",
        "",
        f"class {camel(table)}(Repository[{record}, New{record}]):",
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
            f'        """Return the rows of this {words(by)}, newest first."""',
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
