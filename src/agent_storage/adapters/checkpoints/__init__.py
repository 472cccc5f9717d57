"""Checkpoint providers: the protocol that agents' frameworks expect, on PostgreSQL, SQLite and MySQL, by name."""

from agent_storage.adapters.checkpoints.copying import copy_checkpoints
from agent_storage.adapters.checkpoints.listing import Copied
from agent_storage.adapters.checkpoints.postgres import PostgresCheckpoints
from agent_storage.adapters.checkpoints.provider import CheckpointProvider
from agent_storage.adapters.checkpoints.providers import CheckpointProviders, checkpoint_provider
from agent_storage.adapters.checkpoints.tabled import MysqlCheckpoints, SqliteCheckpoints

__all__ = [
    "CheckpointProvider",
    "CheckpointProviders",
    "Copied",
    "MysqlCheckpoints",
    "PostgresCheckpoints",
    "SqliteCheckpoints",
    "checkpoint_provider",
    "copy_checkpoints",
]
