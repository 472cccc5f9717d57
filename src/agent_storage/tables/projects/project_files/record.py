"""A file of a project, and what a sync changed."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from agent_storage.statements.records import BigCount, Input, Json, Jsonb, Key, Record, Timestamp


class NewProjectFile(Input):
    """Fields to create a file. A changed `checksum` means changed content."""

    project_id: UUID
    path: Key
    extension: str | None = None
    size_bytes: BigCount = 0
    checksum: str | None = None
    content: str | None = None
    summary: str | None = None
    summarized_at: Timestamp | None = None
    imports: Jsonb[list[Json]] = []
    exports: Jsonb[list[Json]] = []


class ProjectFile(Record, NewProjectFile):
    """A file of a project."""


class Synced(BaseModel, frozen=True):
    """The result of a sync: files added, changed, deleted and unchanged."""

    added: int
    changed: int
    deleted: int
    unchanged: int
