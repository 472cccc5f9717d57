"""The migration manager: plain SQL files, yoyo's tracking tables, and checks in shadow databases.

    from agent_storage.migrations import Migrator

`storage migrate` is the command-line interface to it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_storage.migrations.errors import MigrationFailure
    from agent_storage.migrations.migrator import Migrator
    from agent_storage.migrations.results import RunResult, Status

_LAZY = {"MigrationFailure": "errors", "Migrator": "migrator", "RunResult": "results", "Status": "results"}


def __getattr__(name: str) -> Any:
    """Import on first use, because reading a migration file needs no driver."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


__all__ = ["MigrationFailure", "Migrator", "RunResult", "Status"]
