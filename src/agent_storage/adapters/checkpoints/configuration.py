"""The configuration of one provider: its type and its settings, from a URL or a mapping."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, cast
from urllib.parse import unquote, urlsplit

from pydantic import Field, TypeAdapter, ValidationError

from agent_storage.adapters.checkpoints.engines.mysql import Mysql
from agent_storage.adapters.checkpoints.engines.sqlite import Sqlite
from agent_storage.errors import InvalidSettings

#: The types, and the schemes of their URLs. Any other text is an address of PostgreSQL.
_SCHEMES = {"sqlite": "sqlite", "mysql": "mysql", "mariadb": "mysql", "postgresql": "postgres", "postgres": "postgres"}
TYPES = ("postgres", "sqlite", "mysql")
_ENGINES = {"sqlite": Sqlite, "mysql": Mysql}


def configured(name: str, given: object) -> tuple[str, dict[str, Any]]:
    """Return the type of a provider and its settings. Raises `InvalidSettings` that names the provider.

    The address is `url`; `connection_string` and `connectionString` are the same.
    """
    if isinstance(given, (str, PurePath)):
        given = {"url": str(given)}
    if not isinstance(given, Mapping):
        raise InvalidSettings(f"the checkpoint provider {name!r} must be a URL, a mapping of settings or a Storage")
    settings = {str(key): value for key, value in cast(Mapping[Any, Any], given).items()}
    for other in ("connection_string", "connectionString"):
        if other in settings:
            settings.setdefault("url", settings.pop(other))
    url = settings.get("url")
    scheme = _SCHEMES.get(str(url).partition(":")[0].partition("+")[0].lower()) if url else None
    kind = settings.pop("type", scheme or "postgres")
    if kind not in TYPES:
        known = ", ".join(TYPES)
        raise InvalidSettings(f"the checkpoint provider {name!r}: unknown type {kind!r}; known are: {known}")
    if scheme is not None and scheme != kind:
        raise InvalidSettings(f"the checkpoint provider {name!r}: its type is {kind}, but its URL is of {scheme}")
    if kind == "sqlite":
        settings = _with_path(name, settings)
    if kind in _ENGINES:
        settings = _checked(name, kind, settings)
    return kind, settings


def _with_path(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """`sqlite:///agents.db` is a relative path, `sqlite:////var/agents.db` an absolute one, as SQLAlchemy has it."""
    url = settings.pop("url", None)
    if url is not None:
        parts = urlsplit(str(url))
        if parts.netloc or parts.query or not parts.path.startswith("/"):
            raise InvalidSettings(
                f"the checkpoint provider {name!r}: write sqlite:///FILE for a relative path, sqlite:////FILE for an "
                "absolute one; settings such as busy_timeout are keys of a mapping"
            )
        settings.setdefault("path", unquote(parts.path[1:]))
    if not settings.get("path"):
        raise InvalidSettings(f"the checkpoint provider {name!r} needs the path of its file")
    return settings


def _checked(name: str, kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(_ENGINES[kind].__init__, include_extras=True)
    known: dict[str, Any] = {key: hint for key, hint in hints.items() if key != "return"} | {
        "json_limit": Annotated[int, Field(ge=1)]
    }
    checked: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in known:
            raise InvalidSettings(
                f"the checkpoint provider {name!r}: unknown setting {key}; known are: {', '.join(known)}"
            )
        try:
            checked[key] = TypeAdapter[Any](known[key]).validate_python(value)
        except ValidationError as error:
            reason = error.errors(include_url=False, include_input=False, include_context=False)[0]["msg"]
            raise InvalidSettings(f"the checkpoint provider {name!r}: {key} cannot be used: {reason}") from None
    return checked
