"""Shadow databases: temporary databases in which migrations are tested."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agent_storage.errors import StorageError
from agent_storage.migrations.errors import CannotConnect, MigrationFailure
from agent_storage.migrations.results import Event
from agent_storage.migrations.run.session import explained, open_session
from agent_storage.search_path import OF_SESSION, PARAMETER, named, with_options

PREFIX = "storage_shadow_"
APPLICATION_NAME = "storage migrate shadow"

_number = itertools.count(1)

_MAY_CREATE = "SELECT rolcreatedb OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
_SCHEMA = f"SELECT {OF_SESSION}, current_setting('search_path')"
_LOCALE = """
SELECT pg_encoding_to_char(encoding), datcollate, datctype
  FROM pg_catalog.pg_database
 WHERE datname = current_database()
"""
_ROLES = "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname !~ '^pg_'"


class ShadowServer:
    """A server on which shadow databases can be created.

    Each has the `schema` of the migrations, and `path` as its search_path. Without a schema they use `public`.
    """

    def __init__(
        self, conninfo: str, *, like: str | None, schema: str | None = None, path: str = '"$user", public'
    ) -> None:
        self._conninfo = conninfo
        self._like = like
        self._schema = None if schema == "public" else schema
        self._path = path

    @contextmanager
    def database(self, template: str | None = None) -> Generator[str]:
        """Create an empty database or a copy of `template` (a conninfo), yield its conninfo, and drop it at the end."""
        name = f"{PREFIX}{os.getpid()}_{next(_number)}"
        with open_shadow(self._conninfo) as connection:
            if template is None:
                self._create(connection, name)
            else:
                source = sql.Identifier(str(conninfo_to_dict(template)["dbname"]))
                connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), source))
        try:
            yield self._prepared(make_conninfo(self._conninfo, dbname=name))
        finally:
            with open_shadow(self._conninfo) as connection:
                connection.execute(drop(name))

    def _prepared(self, conninfo: str) -> str:
        """Create the schema in the database, and return `conninfo` for connections in it."""
        if self._schema is None:
            return conninfo
        name = sql.Identifier(self._schema)
        conninfo = with_options(
            conninfo, {"search_path": f"{name.as_string(None)}, {self._path}", PARAMETER: self._schema}
        )
        with open_shadow(conninfo) as connection:
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
        return conninfo

    def _create(self, connection: psycopg.Connection, name: str) -> None:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name))
        row = connection.execute(_LOCALE).fetchone() if self._like else None
        if row is not None:
            # The locale of the live database, so that collations compare, unless template0 forbids it.
            locale = sql.SQL(" ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(*map(sql.Literal, row))
            with suppress(psycopg.errors.InvalidParameterValue, psycopg.errors.WrongObjectType):
                connection.execute(create + locale)
                return
        connection.execute(create)


def drop(name: str) -> sql.Composed:
    """Return the statement that drops a shadow database, even with open connections."""
    return sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))


@contextmanager
def open_shadow(conninfo: str) -> Generator[psycopg.Connection]:
    """Connect to a shadow database."""
    with open_session(conninfo, application_name=APPLICATION_NAME) as session, explained():
        yield session.connection


@contextmanager
def shadow_server(
    conninfo: str, *, shadow_url: str | None = None, notify: Callable[[Event], None]
) -> Generator[ShadowServer]:
    """Yield the server for shadow databases: `shadow_url`, else the database's server, else an embedded one."""
    if shadow_url is not None:
        yield ShadowServer(shadow_url, like=None, schema=named(conninfo))
        return
    with open_session(conninfo, application_name=APPLICATION_NAME) as session, explained():
        connection = session.connection
        row = connection.execute(_MAY_CREATE).fetchone()
        schema, path = connection.execute(_SCHEMA.encode()).fetchone() or (None, "")
        allowed = row is not None and row[0] and not session.pooled
        roles = [] if allowed else [name for (name,) in connection.execute(_ROLES)]
    if allowed:
        yield ShadowServer(conninfo, like=conninfo, schema=schema, path=path)
        return
    notify(Event("note", "the role cannot create databases here; using an embedded server for shadow databases"))
    with _embedded(roles) as embedded:
        yield ShadowServer(embedded, like=None, schema=schema, path=path)


@contextmanager
def _embedded(roles: list[str]) -> Generator[str]:
    """Start an embedded server for this command, with the roles that grants may name."""
    try:
        from agent_storage.embedded import EmbeddedServer
    except ImportError as error:
        raise _nowhere() from error
    with tempfile.TemporaryDirectory(prefix="storage-shadow-") as folder, ExitStack() as stack:
        # Started by root, the server runs under another account, which must reach its data folder inside.
        Path(folder).chmod(0o711)
        try:
            server = stack.enter_context(EmbeddedServer(Path(folder) / "data"))
            conninfo = server.conninfo("postgres")
        except StorageError as error:
            raise _nowhere(str(error)) from error
        with open_shadow(conninfo) as connection:
            known = {name for (name,) in connection.execute(_ROLES)}
            for role in sorted(set(roles) - known):
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        yield conninfo


def _nowhere(*reasons: str) -> MigrationFailure:
    return CannotConnect(
        "there is no server on which a shadow database can be created",
        lines=reasons,
        hint="grant the role CREATEDB, give --shadow-url, or install agent-storage[embedded]",
    )


def leftovers(connection: psycopg.Connection) -> list[str]:
    """Return shadow databases that a killed process left: those without connections."""
    query = """
        SELECT datname FROM pg_catalog.pg_database d
         WHERE datname ~ %s
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid)
         ORDER BY datname
    """
    return [row[0] for row in connection.execute(query, (f"^{PREFIX}[0-9]+_[0-9]+$",))]
