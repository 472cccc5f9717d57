"""A checkpoint's record, its summary, and what pruning freed."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from agent_storage.statements.records import Input, Json, Jsonb, Key, Label, Record, Timestamp


class _About(Input):
    """A checkpoint without its state."""

    agent_id: Key
    session_id: Label | None = None
    agent_type: Label | None = None
    name: str | None = None
    owner: Key | None = None
    captured_at: Timestamp | None = None
    parent_id: UUID | None = None


class NewCheckpoint(_About):
    """Fields to create a checkpoint; without `captured_at` it is captured now, by the clock of the server."""

    state: Jsonb[Json]


class Checkpoint(Record, NewCheckpoint):
    """An agent's state at a moment. `size_bytes` is the length of the state as JSON text."""

    captured_at: datetime = Field(default=...)
    size_bytes: int


class CheckpointSummary(Record, _About):
    """A checkpoint without its state."""

    captured_at: datetime = Field(default=...)
    size_bytes: int


class Pruned(BaseModel, frozen=True):
    """The result of pruning: the number of checkpoints removed, and the bytes of their states."""

    checkpoints: int
    bytes: int


class AgentStatistics(BaseModel, frozen=True):
    """The checkpoints of an agent and owner: their number, the bytes of their states, the time of the newest."""

    agent_id: str
    owner: str | None
    checkpoints: int
    bytes: int
    newest: datetime
