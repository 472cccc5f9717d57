"""Agent Storage: everything an AI-agent platform has to remember, in PostgreSQL, in plain SQL that people wrote.

    async with Storage.open() as storage:
        chat = await storage.conversations.create(NewConversation(title="Trip to Oslo"))
        await storage.messages.append(chat.id, "user", "Which train?")

The same without `await` is `agent_storage.sync.Storage`; every record is in `agent_storage.types`.
"""

__version__ = "0.1.0"

from .errors import (
    AmbiguousId,
    Conflict,
    ConnectionLost,
    InvalidSettings,
    InvalidValue,
    MigrationError,
    MissingReference,
    NotFound,
    OutcomeUnknown,
    OutsideTransaction,
    PermissionDenied,
    PoolTimeout,
    Retryable,
    SchemaMismatch,
    SecretUnavailable,
    StatementTimeout,
    StillReferenced,
    StorageError,
    Unavailable,
)
from .pages import Page
from .repository import Repository, sql
from .storage import Storage, StorageTransaction

__all__ = [
    "AmbiguousId",
    "Conflict",
    "ConnectionLost",
    "InvalidSettings",
    "InvalidValue",
    "MigrationError",
    "MissingReference",
    "NotFound",
    "OutcomeUnknown",
    "OutsideTransaction",
    "Page",
    "PermissionDenied",
    "PoolTimeout",
    "Repository",
    "Retryable",
    "SchemaMismatch",
    "SecretUnavailable",
    "StatementTimeout",
    "StillReferenced",
    "Storage",
    "StorageError",
    "StorageTransaction",
    "Unavailable",
    "sql",
]
