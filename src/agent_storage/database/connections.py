"""Shared by the pools of both faces: connection parameters, configuration of connections, detection of lost ones."""

from __future__ import annotations

import inspect
import logging
import math
import select
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo, ConnStatus
from psycopg.pq.abc import PGconn

from agent_storage.database.settings import Settings
from agent_storage.errors import StorageError, Unavailable
from agent_storage.search_path import in_schema
from agent_storage.statements.text import adapters

logger = logging.getLogger("agent_storage")


def locate(settings: Settings, progress: Callable[[str], None] | None = None) -> str:
    """Return the libpq connection string of the database.

    Without a URL this starts or joins the embedded server, which ends with the process. `progress` is called when that
    takes a while. With a `schema` it connects once, to read the role's own search_path.
    """
    if settings.embedded:
        from agent_storage.embedded import shared_server

        logger.warning("no database is set (STORAGE_DATABASE_URL): using the embedded PostgreSQL")
        conninfo = settings.conninfo(shared_server(settings.data_dir, progress).conninfo())
    else:
        conninfo = settings.conninfo()
    return _in_schema(conninfo, settings)


def listening(settings: Settings, url: str) -> str:
    """Return the libpq connection string of the server at `url`, for notifications."""
    return _in_schema(settings.conninfo(url), settings)


def _in_schema(conninfo: str, settings: Settings) -> str:
    if settings.schema_name is None:
        return conninfo
    try:
        return in_schema(conninfo, settings.schema_name, pooler=settings.pooler)
    except psycopg.Error as error:
        raise unreachable(error, conninfo) from error


def connection_arguments(settings: Settings) -> dict[str, Any]:
    """Return keyword arguments for the connections of a pool: autocommit, and the package's adapters for other SQL."""
    return {
        "autocommit": True,
        "context": _Context(adapters()),
        # A cursor that has prepared a statement deallocates all of them after a rollback, ours included.
        "prepare_threshold": None,
    }


def address(pool: Any) -> str:
    """Return the libpq connection string of a pool that the caller made, whichever way it was given.

    Raises `StorageError` where only a coroutine knows it.
    """
    given: list[Any] = [one() if callable(one) else one for one in (pool.conninfo, pool.kwargs)]
    for one in given:
        if inspect.iscoroutine(one):
            one.close()
            raise StorageError("the address of this pool comes from a coroutine: set STORAGE_LISTEN_URL to wait on it")
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    keywords: dict[str, Any] = given[1] or {}
    return make_conninfo(given[0] or "", **{name: one for name, one in keywords.items() if name in known})


def pool_arguments(settings: Settings) -> dict[str, Any]:
    """Return keyword arguments for the pool itself."""
    return {
        "min_size": min(settings.pool_min, settings.pool_max),
        "max_size": settings.pool_max,
        "timeout": settings.pool_timeout,
        "reconnect_timeout": math.inf,  # `Pool` limits the pause between two attempts
        "name": settings.application_name,
        "open": False,
    }


class _Context:
    """An `AdaptContext` that carries adapters only."""

    def __init__(self, adapters_: Any) -> None:
        self.adapters = adapters_
        self.connection = None


def is_dead(pgconn: PGconn) -> bool:
    """Return whether an idle connection was closed by the other side. No round trip.

    An idle socket has nothing to read. A readable one has received a notification, or the server's final message, which
    the end of the stream may follow later. So anything but a notification counts as the end. At worst a healthy
    connection is replaced.
    """
    if pgconn.status != ConnStatus.OK:
        return True
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    if not poll.poll(0):
        return False
    try:
        pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return pgconn.status != ConnStatus.OK or pgconn.notifies() is None


def unreachable(error: Exception, conninfo: str) -> StorageError:
    """Return one sentence for a database that cannot be reached, with the server's reason and no password."""
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(conninfo)
    host = parts.get("host") or parts.get("hostaddr") or "the local socket"
    where = f"{host}:{parts['port']}" if parts.get("port") else f"{host}"
    reason = _reason(error, parts.get("password"))
    message = f"cannot reach PostgreSQL at {where}, database {parts.get('dbname') or 'default'}: {reason}"
    if "unsupported startup parameter" in reason:
        message += "; this looks like PgBouncer: set STORAGE_POOLER=1"
    return Unavailable(message)


def _reason(error: Exception, password: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0].removeprefix("connection failed: ") if lines else type(error).__name__
    return reason.replace(str(password), "***") if password else reason
