"""A repository of code: its record."""

from __future__ import annotations

from agent_storage.statements.records import Document, Input, Jsonb, Key, Record


class Worktree(Document):
    """A working copy of a repository."""

    name: str | None = None
    path: str | None = None
    ref: str | None = None


class RepoData(Document):
    """The origin and the path of a repository; `managed` when the platform cloned it."""

    name: str | None = None
    remote_url: str | None = None
    local_path: str | None = None
    managed: bool = False
    default_branch: str | None = None
    worktrees: list[Worktree] = []


class NewRepo(Input):
    """Fields to create a repository."""

    slug: Key
    data: Jsonb[RepoData] = RepoData()


class Repo(Record, NewRepo):
    """A repository of code."""
