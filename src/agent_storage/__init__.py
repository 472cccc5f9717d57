"""Agent Storage: everything an AI-agent platform has to remember, in PostgreSQL, in plain SQL that people wrote.

    async with Storage() as storage:
        chat = await storage.conversations.create(NewConversation(title="Trip to Oslo"))
        await storage.messages.append(chat.id, "user", "Which train?")

The same without `await` is `agent_storage.sync.Storage`; every record is in `agent_storage.types`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agent_storage.errors import (
    AlreadyExists,
    AmbiguousId,
    BudgetExceeded,
    Conflict,
    ConnectionLost,
    InvalidSettings,
    InvalidTransition,
    InvalidValue,
    MigrationError,
    MissingReference,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PoolTimeout,
    PoolUsedInTransaction,
    Retryable,
    SchemaMismatch,
    SecretUnavailable,
    StatementTimeout,
    StillReferenced,
    StorageError,
    Unavailable,
    Unreadable,
    WaitTimeout,
)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from agent_storage.health import Health
    from agent_storage.repository import Repository, Stream, sql
    from agent_storage.statements.ids import uuid7
    from agent_storage.statements.lists import Counts, Found, Page
    from agent_storage.statements.patching import REMOVE
    from agent_storage.statements.records import Document, Encrypted, Input, Jsonb, Key, Money, Record, Timestamp
    from agent_storage.statements.where import Order, Where, all_of, any_of, asc, desc, field, not_
    from agent_storage.storage import Storage

_LAZY = {
    **dict.fromkeys(
        ("Document", "Encrypted", "Input", "Jsonb", "Key", "Money", "Record", "Timestamp"), "statements.records"
    ),
    "Health": "health",
    **dict.fromkeys(("Order", "Where", "all_of", "any_of", "asc", "desc", "field", "not_"), "statements.where"),
    "Counts": "statements.lists",
    "Found": "statements.lists",
    "uuid7": "statements.ids",
    "Page": "statements.lists",
    "REMOVE": "statements.patching",
    "Repository": "repository",
    "Stream": "repository",
    "sql": "repository",
    "Storage": "storage",
}


def __getattr__(name: str) -> Any:
    """Import what touches the driver when it is first used: `storage --help` and type checkers need none of it."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "REMOVE",
    "AlreadyExists",
    "AmbiguousId",
    "BudgetExceeded",
    "Conflict",
    "ConnectionLost",
    "Counts",
    "Document",
    "Encrypted",
    "Found",
    "Health",
    "Input",
    "InvalidSettings",
    "InvalidTransition",
    "InvalidValue",
    "Jsonb",
    "Key",
    "MigrationError",
    "MissingReference",
    "Money",
    "NotFound",
    "Order",
    "OutcomeUnknown",
    "Page",
    "PermissionDenied",
    "PoolTimeout",
    "PoolUsedInTransaction",
    "Record",
    "Repository",
    "Retryable",
    "SchemaMismatch",
    "SecretUnavailable",
    "StatementTimeout",
    "StillReferenced",
    "Storage",
    "StorageError",
    "Stream",
    "Timestamp",
    "Unavailable",
    "Unreadable",
    "WaitTimeout",
    "Where",
    "all_of",
    "any_of",
    "asc",
    "desc",
    "field",
    "not_",
    "sql",
    "uuid7",
]
