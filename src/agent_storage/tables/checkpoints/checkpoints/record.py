"""A checkpoint's record, its summary, and what pruning freed."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from pydantic import BaseModel, Field

from agent_storage.statements.records import Input, Json, Jsonb, Key, Record, Timestamp


class _About(Input):
    """A checkpoint without its state."""

    agent_id: Key
    session_id: str | None = None
    agent_type: str | None = None
    name: str | None = None
    captured_at: Timestamp = Field(default_factory=lambda: datetime.now(UTC))
    parent_id: UUID | None = None


class NewCheckpoint(_About):
    """Fields to create a checkpoint. `captured_at` is the time of the caller's clock."""

    state: Jsonb[Json]


class Checkpoint(Record, NewCheckpoint):
    """An agent's state at a moment. `size_bytes` is the length of the state as JSON text."""

    size_bytes: int


class CheckpointSummary(Record, _About):
    """A checkpoint without its state."""

    size_bytes: int


class Pruned(BaseModel, frozen=True):
    """The result of pruning: the number of checkpoints removed, and the bytes of their states."""

    checkpoints: int
    bytes: int
