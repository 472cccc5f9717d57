"""The address of the database and how to reach it: one frozen object, made from arguments and the environment.

The database's address comes from, in this order: the `url` argument, `STORAGE_DATABASE_URL`, `DATABASE_URL`, and at
last the embedded server. Every other setting is a keyword or its `STORAGE_…` environment variable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from agent_storage.errors import InvalidSettings

#: Sent by default with every connection, so that a dead network path is noticed within 10 to 15 s: a user timeout and
#: keepalives each cover only one of the two cases (data under way, connection idle).
NETWORK_DEFAULTS: dict[str, str] = {
    "connect_timeout": "5",
    "tcp_user_timeout": "10000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}

#: How much longer than the server's own limit a client waits for the end of a statement, in seconds.
GRACE = 5.0

#: How values look as text, whatever the database or the role prefers.
_STYLE = {"TimeZone": "UTC", "DateStyle": "ISO", "IntervalStyle": "postgres", "extra_float_digits": "1"}

#: The longest identifier of PostgreSQL, in bytes. A longer one would be cut.
_LONGEST_NAME = 63

_URL_VARIABLES = ("STORAGE_DATABASE_URL", "DATABASE_URL")


class Settings(BaseModel):
    """The settings of a storage. Times are seconds, sizes bytes; `None` leaves the server's own default."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: SecretStr | None = Field(None, description="PostgreSQL URL or key=value string; none: the embedded server")
    migrate_url: SecretStr | None = Field(None, description="URL of the owner role, for migrations only")
    listen_url: SecretStr | None = Field(None, description="URL of the server itself, for notifications past a pooler")
    data_dir: Path | None = Field(None, description="where the embedded server keeps its data")
    schema_name: str | None = Field(None, alias="schema", description="PostgreSQL schema of tables and functions")
    application_name: str = "agent-storage"
    pool_min: int = Field(1, ge=0)
    pool_max: int = Field(10, ge=1)
    pool_timeout: float = Field(10.0, gt=0, description="longest wait for a free connection")
    pooler: bool = Field(
        False, description="behind PgBouncer in transaction mode: no prepared statements or session state"
    )
    prepare: bool = Field(True, description="let the server keep prepared statements")
    multiplex: int = Field(
        4, ge=0, le=64, description="connections beside the pool that single statements of all tasks share; 0: none"
    )
    spin: float = Field(
        150e-6, ge=0, description="how long the only call under way polls before it blocks; 0: not at all"
    )
    statement_timeout: float | None = Field(60.0, ge=0)
    idle_in_transaction_timeout: float | None = Field(60.0, ge=0)
    lock_timeout: float | None = Field(None, ge=0)
    json_limit: int = Field(4 * 1024 * 1024, ge=1, description="largest JSON document that is accepted")
    secret_key: SecretStr | Callable[[], str] | None = Field(None, description="base64 keys, the newest first")

    @field_validator("url", "migrate_url", "listen_url")
    @classmethod
    def _check_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        if not value.get_secret_value().strip():
            raise ValueError("it is empty; give the URL of a database, or leave it out")
        return SecretStr(_normal_url(value.get_secret_value().strip()))

    @field_validator("schema_name")
    @classmethod
    def _check_schema(cls, value: str | None) -> str | None:
        return None if value is None else checked_schema(value)

    @classmethod
    def load(cls, url: str | None = None, *, environment: Mapping[str, str] | None = None, **settings: Any) -> Settings:
        """Return settings from keywords, else from `STORAGE_…` variables, else the defaults.

        Raises `InvalidSettings` with one sentence that names the setting; a password is never part of it.
        """
        env = os.environ if environment is None else environment
        values: dict[str, Any] = {}
        source: dict[str, str] = {}
        names = [field.alias or name for name, field in cls.model_fields.items()]
        for name in names:
            variable = f"STORAGE_{name.upper()}"
            if name != "url" and env.get(variable):
                values[name], source[name] = env[variable], variable
        for variable in reversed(_URL_VARIABLES):
            # An empty one is an error: a variable that was not filled in would select the embedded server.
            if variable in env:
                values["url"], source["url"] = env[variable], variable
        for name, value in {"url": url, **settings}.items():
            if value is not None or name in settings:
                values[name], source[name] = value, f"the argument {name}"
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            reason = first["msg"].removeprefix("Value error, ")
            where = source.get(name, name)
            if first["type"] == "extra_forbidden":
                known = ", ".join(names)
                raise InvalidSettings(f"unknown setting {name}; known are: {known}") from None
            raise InvalidSettings(f"{where} cannot be used: {reason}") from None

    @property
    def deadline(self) -> float | None:
        """How long a server may stay silent, in seconds, before its connection is given up; None for ever."""
        return self.statement_timeout + GRACE if self.statement_timeout else None

    @property
    def embedded(self) -> bool:
        """Return whether no URL was given, so that the embedded server serves."""
        return self.url is None

    def conninfo(self, url: str | None = None) -> str:
        """Return the libpq connection string for `url` (default: this object's), completed with the defaults.

        Text is sent as UTF-8, whatever the encoding of the database or the environment is.
        """
        base = url if url is not None else self.url.get_secret_value() if self.url else ""
        given = conninfo_to_dict(base)
        defaults: dict[str, str] = {**NETWORK_DEFAULTS, "application_name": self.application_name}
        if "," in f"{given.get('host', '')}{given.get('hostaddr', '')}":
            defaults["target_session_attrs"] = "read-write"  # after a failover the new primary is found
        if not self.pooler:
            options = " ".join(f"-c {name}={value}" for name, value in self._server_settings().items())
            defaults["options"] = f"{options} {given.get('options') or ''}".strip()
            given.pop("options", None)
        missing = {name: value for name, value in defaults.items() if name not in given}
        return make_conninfo(base, **{**missing, "client_encoding": "UTF8"})

    def _server_settings(self) -> dict[str, str]:
        """Return the startup options of a session, which take no round trip and which RESET restores."""
        timeouts = {
            "statement_timeout": self.statement_timeout,
            "idle_in_transaction_session_timeout": self.idle_in_transaction_timeout,
            "lock_timeout": self.lock_timeout,
        }
        set_ = {name: f"{round(seconds * 1000)}ms" for name, seconds in timeouts.items() if seconds is not None}
        return {**_STYLE, **set_}


class Keywords(TypedDict, total=False):
    """The settings as keywords of `Storage`; see `Settings`."""

    migrate_url: str | SecretStr | None
    listen_url: str | SecretStr | None
    schema: str | None
    data_dir: str | Path | None
    application_name: str
    pool_min: int
    pool_max: int
    pool_timeout: float
    pooler: bool
    prepare: bool
    multiplex: int
    spin: float
    statement_timeout: float | None
    idle_in_transaction_timeout: float | None
    lock_timeout: float | None
    json_limit: int
    secret_key: str | SecretStr | Callable[[], str] | None


def checked_schema(name: str) -> str:
    """Return the name of a PostgreSQL schema. Raises `ValueError` for one that cannot be used."""
    if not name or "\0" in name or len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f"the name of a schema has 1 to {_LONGEST_NAME} bytes")
    # In a search_path, "$user" is a variable even in quotes.
    if name.startswith("pg_") or name in {"information_schema", "$user"}:
        raise ValueError(f"{name} is a name of PostgreSQL itself; choose another schema")
    return name


def _normal_url(url: str) -> str:
    """`url` as libpq takes it. SQLAlchemy's `postgresql+driver://` is accepted, since many deployments have it set."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme.split("+")[0] in {"postgresql", "postgres"}:
        url = f"postgresql://{rest}"
    elif separator:
        raise ValueError(f"{scheme}:// is not a PostgreSQL URL; write postgresql://user@host:5432/database")
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        # libpq quotes the offending part, which can be the password: keep only what kind of fault it is.
        fault = str(error).split('"')[0].strip().rstrip(":")
        hint = "write postgresql://user@host:5432/database, with special characters percent-encoded"
        raise ValueError(f"not a connection string ({fault}); {hint}") from None
    return url
