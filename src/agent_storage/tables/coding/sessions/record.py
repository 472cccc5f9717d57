"""A coding agent's session."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from agent_storage.statements.records import Count, Document, Input, Json, Jsonb, Key, Record

SessionStatus = Literal["idle", "running", "completed", "failed"]


class GitState(Document):
    """The state of the code: the ref, the first commit, the current commit."""

    ref: str | None = None
    base_sha: str | None = None
    current_sha: str | None = None


class Genealogy(Document):
    """The tasks at which a session was forked or spawned."""

    fork_point_task_id: UUID | None = None
    spawn_point_task_id: UUID | None = None


class SessionData(Document):
    """The data of a session."""

    title: str | None = None
    description: str | None = None
    agent_version: str | None = None
    repo: Json = None
    git_state: GitState = GitState()
    genealogy: Genealogy = Genealogy()
    concepts: list[str] = []
    tool_use_count: Count = 0
    message_count: Count = 0


class NewSession(Input):
    """Fields to create a session. It may be spawned by a parent or forked, at a task in `data.genealogy`."""

    agent: Key
    status: SessionStatus = "idle"
    owner: Key | None = None
    board_id: UUID | None = None
    repo_id: UUID | None = None
    parent_session_id: UUID | None = None
    forked_from_session_id: UUID | None = None
    data: Jsonb[SessionData] = SessionData()


class Session(Record, NewSession):
    """A session."""
