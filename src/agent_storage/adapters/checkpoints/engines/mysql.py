"""MySQL 8 and MariaDB 10.6 or later, by PyMySQL (the extra `mysql`)."""

# PyMySQL's functions are partly untyped, and it need not be installed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingModuleSource=false

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from agent_storage.adapters.checkpoints.engines.engine import Connections, Engine, Rows, Run, Seconds
from agent_storage.errors import (
    AlreadyExists,
    ConnectionLost,
    InvalidSettings,
    InvalidValue,
    MissingReference,
    OutcomeUnknown,
    PermissionDenied,
    Retryable,
    SchemaMismatch,
    StatementTimeout,
    StorageError,
    Unavailable,
)

if TYPE_CHECKING:
    from pymysql.connections import Connection
else:
    Connection = Any

#: Strict, so that nothing is cut to fit, and with the escapes that PyMySQL writes.
_SESSION = "SET SESSION sql_mode = 'STRICT_ALL_TABLES', SESSION time_zone = '+00:00'"
_ISOLATION = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
#: Errors of DDL that was executed before: a table, column, key or constraint that exists, or that is gone.
_DONE_BEFORE = frozenset({1050, 1051, 1060, 1061, 1091, 1826, 3822})
#: MariaDB's error for a foreign key that exists.
_CREATE_FAILED, _DUPLICATE = 1005, "errno: 121 "
_LOCAL = ("", "localhost", "127.0.0.1", "::1")
#: TLS with a verified certificate and host name, with any certificate, or none.
Tls = Literal["verify", "require", "off"]


class Mysql(Engine[Connection]):
    """A MySQL or MariaDB database, which exists."""

    name = "mysql"
    clock = "timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))"
    for_update = " FOR UPDATE"
    patterns = {"like": "{column} LIKE {value}", "ilike": "lower({column}) LIKE lower({value})"}

    def __init__(
        self,
        url: str | None = None,
        *,
        host: str | None = None,
        port: int | None = None,
        user: str | None = None,
        password: str | None = None,
        database: str | None = None,
        unix_socket: str | None = None,
        tls: Tls | None = None,
        tls_ca: str | None = None,
        statement_timeout: Seconds = 60.0,
        connect_timeout: Seconds = 5.0,
        lock_timeout: Seconds = 60.0,
        pool_max: Connections = 10,
        pool_timeout: Seconds = 10.0,
    ) -> None:
        try:
            import pymysql  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ImportError:
            raise InvalidSettings("MySQL needs a driver: pip install 'agent-storage[mysql]'") from None
        given: dict[str, Any] = {"host": host, "port": port, "user": user, "password": password}
        given |= {"database": database, "unix_socket": unix_socket, "tls": tls, "tls_ca": tls_ca}
        parts = _from_url(url) if url else {}
        parts |= {name: value for name, value in given.items() if value is not None}
        if not parts.get("database"):
            raise InvalidSettings("a MySQL provider needs the name of its database, as in mysql://user@host/database")
        local = parts.get("host", "") in _LOCAL or "unix_socket" in parts
        parts["ssl"] = _tls(parts.pop("tls", "off" if local else "verify"), parts.pop("tls_ca", None))
        self._parts = parts
        self._timeouts: dict[str, Any] = {
            "connect_timeout": connect_timeout,
            "read_timeout": statement_timeout,
            "write_timeout": statement_timeout,
        }
        self._lock_timeout = lock_timeout
        place = parts.get("unix_socket") or parts.get("host") or "localhost"
        super().__init__(f"{parts['database']} at {place}", pool_max=pool_max, pool_timeout=pool_timeout)

    def connect(self) -> Connection:
        """Return a new connection."""
        import pymysql

        connection = pymysql.connect(
            **self._parts, **self._timeouts, charset="utf8mb4", autocommit=True, init_command=_SESSION
        )
        try:
            self.execute(connection, _ISOLATION, ())
        except BaseException:
            self.disconnect(connection)
            raise
        return connection

    def execute(self, connection: Connection, text: str, values: Sequence[Any]) -> Rows:
        """Run a statement. Return its rows. The driver puts the values into the text, as literals."""
        with connection.cursor() as cursor:
            cursor.execute(text.replace("%", "%%").replace("?", "%s") if values else text, values or None)
            return list(cursor.fetchall())

    def disconnect(self, connection: Connection) -> None:
        """Close the connection."""
        with suppress(Exception):
            connection.close()

    def broken(self, connection: Connection) -> bool:
        """Return whether the driver has closed the connection, as it does when it was lost."""
        return not connection.open

    def begin(self, connection: Connection) -> None:
        """Begin a transaction."""
        self.execute(connection, "START TRANSACTION", ())

    def rollback(self, connection: Connection) -> None:
        """Roll back the transaction. A lost connection has none."""
        with suppress(Exception):
            connection.rollback()

    @contextmanager
    def exclusive(self) -> Generator[Run]:
        """Yield `Run` under a lock of the server that ends with the connection. DDL commits by itself."""
        database = str(self._parts["database"])
        lock = f"agent-storage checkpoints {hashlib.sha256(database.encode()).hexdigest()[:16]}"
        with self.connection(writes=True) as connection:
            ((obtained,),) = self.execute(connection, "SELECT get_lock(?, ?)", (lock, self._lock_timeout))
            if obtained != 1:
                raise Retryable(f"{self.address}: another process migrates for more than {self._lock_timeout:g} s")
            try:
                yield lambda text, values: self.execute(connection, text, values)
            finally:
                if not self.broken(connection):
                    self.execute(connection, "SELECT release_lock(?)", (lock,))

    @contextmanager
    def step(self, run: Run) -> Generator[None]:
        """Run a statement and the record of it in one transaction, which DDL ends before the record."""
        run("START TRANSACTION", ())
        try:
            yield
            run("COMMIT", ())
        except BaseException:
            with suppress(Exception):
                run("ROLLBACK", ())
            raise

    def already(self, error: Exception) -> bool:
        """Return whether the error says that an object exists, or that it is gone."""
        code, text = (*error.args, 0, "")[:2]
        return code in _DONE_BEFORE or (code == _CREATE_FAILED and _DUPLICATE in str(text))

    def translated(self, error: Exception, *, writes: bool) -> StorageError | None:
        """Return the package's error. It carries no value: MySQL's messages show the key that is taken."""
        import pymysql

        if isinstance(error, (OSError, EOFError)):
            return (OutcomeUnknown if writes else ConnectionLost)(f"the connection to {self.address} broke; try again")
        if not isinstance(error, pymysql.err.Error):
            return None
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        if code in (0, 2006, 2013, 1927, 4031) and isinstance(
            error, (pymysql.err.OperationalError, pymysql.err.InterfaceError)
        ):
            return (OutcomeUnknown if writes else ConnectionLost)(f"the connection to {self.address} broke; try again")
        kind, reason = _BY_CODE.get(code, (StorageError, None))
        if kind in (Retryable, Unavailable, PermissionDenied, StatementTimeout):
            return kind(f"{self.address}: {reason} [MySQL error {code}]")
        return kind(
            f"checkpoints: {reason or 'the server refused the statement'} [MySQL error {code}]", table="checkpoints"
        )


_UNREACHABLE = "the server cannot be reached; is it running?"
_REFUSED = "the server refused the user or the database; check user, password and database"
_BY_CODE: dict[int, tuple[type[StorageError], str]] = {
    1062: (AlreadyExists, "a row with the same id exists; choose another id"),
    1452: (MissingReference, "parent_id refers to a row that does not exist; create it first"),
    **dict.fromkeys((3819, 4025, 1264, 1048, 1366, 1406), (InvalidValue, "a value breaks a rule of the table")),
    1153: (InvalidValue, "the state is larger than the server's max_allowed_packet"),
    **dict.fromkeys((1054, 1146), (SchemaMismatch, "the table is not as expected; call initialize() to migrate it")),
    **dict.fromkeys((1205, 1213), (Retryable, "another transaction held a lock; run it again")),
    **dict.fromkeys((2002, 2003, 2005, 2026), (Unavailable, _UNREACHABLE)),
    **dict.fromkeys((1044, 1045, 1049, 1130, 1698), (Unavailable, _REFUSED)),
    **dict.fromkeys((1040, 1203), (Unavailable, "the server has too many connections")),
    **dict.fromkeys((1290, 1836, 1792), (Unavailable, "the server is read-only")),
    **dict.fromkeys((1021, 1114), (Unavailable, "the server has no space left")),
    **dict.fromkeys((1142, 1227, 1370), (PermissionDenied, "the user lacks a privilege; grant it")),
    **dict.fromkeys((1317, 1969, 3024), (StatementTimeout, "the statement was cancelled")),
}  # fmt: skip


def _from_url(url: str) -> dict[str, Any]:
    """Return the parts of `mysql://user:password@host:port/database?unix_socket=…&tls=…&tls_ca=…`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidSettings("the URL of a MySQL database is not valid") from None
    query = dict(parse_qsl(parts.query))
    if unknown := set(query) - {"unix_socket", "tls", "tls_ca"}:
        raise InvalidSettings(f"unknown parameter {min(unknown)} in the URL; known are: tls, tls_ca, unix_socket")
    found = {
        "host": parts.hostname,
        "port": port,
        "user": parts.username and unquote(parts.username),
        "password": parts.password and unquote(parts.password),
        "database": unquote(parts.path.lstrip("/")),
        **query,
    }
    return {name: value for name, value in found.items() if value}


def _tls(mode: str, ca: str | None) -> ssl.SSLContext | None:
    if mode == "off":
        return None
    if mode not in ("verify", "require"):
        raise InvalidSettings("tls must be one of verify, require, off")
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError:
        raise InvalidSettings("tls_ca names no file of certificates") from None
    if mode == "require":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
