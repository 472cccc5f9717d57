"""The PostgreSQL schema of the tables, as startup options of a connection.

`search_path` becomes the schema, followed by the role's own path. Startup options take no round trip, and RESET and
DISCARD return to them. `agent_storage.schema` names the schema to the migration manager, which creates it.
"""

from __future__ import annotations

import re

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agent_storage.errors import SchemaNotCarried

#: The parameter that names the schema.
PARAMETER = "agent_storage.schema"

#: An SQL expression: the schema of this connection's tables, be it created or not.
OF_SESSION = f"coalesce(nullif(current_setting('{PARAMETER}', true), ''), current_schema())"

_OPTION = re.compile(rf"-c {re.escape(PARAMETER)}=((?:\\.|[^\s\\])*)")
_UNSUPPORTED = "unsupported startup parameter"


def in_schema(conninfo: str, schema: str, *, pooler: bool = False) -> str:
    """Return `conninfo` for connections whose search_path begins with `schema`. Connects to read the role's own path.

    Behind a `pooler`, and one that passes no options, the role's search_path has to begin with the schema. `conninfo`
    is returned as it is. Raises `SchemaNotCarried` otherwise, and psycopg's errors.
    """
    if named(conninfo) == schema:
        return conninfo
    try:
        if not pooler:
            full = f"{_quoted(schema)}, {_path(conninfo)}"
            wanted = with_options(conninfo, {"search_path": full, PARAMETER: schema})
            if _path(wanted) == full:
                return wanted
    except psycopg.OperationalError as error:
        if _UNSUPPORTED not in str(error):
            raise
    _require_first(conninfo, schema)
    return conninfo


def named(conninfo: str) -> str | None:
    """Return the schema that the options of `conninfo` name, or None."""
    found = _OPTION.findall(str(conninfo_to_dict(conninfo).get("options") or ""))
    return re.sub(r"\\(.)", r"\1", found[-1], flags=re.DOTALL) if found else None


def with_options(conninfo: str, options: dict[str, str]) -> str:
    """Return `conninfo` with further startup options, which take precedence over its own."""
    given = str(conninfo_to_dict(conninfo).get("options") or "")
    added = (f"-c {name}={_escaped(value)}" for name, value in options.items())
    return make_conninfo(conninfo, options=" ".join([given, *added]).strip())


def _path(conninfo: str) -> str:
    """Return the search_path of new connections."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute("SELECT current_setting('search_path')").fetchone()
    return row[0] if row else ""


def _require_first(conninfo: str, schema: str) -> None:
    """Raise `SchemaNotCarried` unless the connections of a pooler have the schema first in their search_path."""
    given = conninfo_to_dict(conninfo)
    given.pop("options", None)
    query = "SELECT current_schema(), current_user, current_database(), current_setting('search_path')"
    with psycopg.connect(make_conninfo("", **given), autocommit=True) as connection:
        row = connection.execute(query).fetchone()
    if row is None or row[0] == schema:
        return
    name, role, database = (_quoted(text) for text in (schema, row[1], row[2]))
    raise SchemaNotCarried(
        f"the connections of this pooler do not have schema {name} first in their search_path, and options do not pass "
        f"it: run once\n  CREATE SCHEMA IF NOT EXISTS {name};\n"
        f"  ALTER ROLE {role} IN DATABASE {database} SET search_path = {name}, {row[3]};\nand reconnect the pooler"
    )


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def _escaped(value: str) -> str:
    return re.sub(r"([\\\s])", r"\\\1", value)
