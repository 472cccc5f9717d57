"""Repositories of code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.tables.coding.repos.record import NewRepo, Repo

if TYPE_CHECKING:
    from agent_storage.tables.changes import RepoChanges

R = TypeVar("R", bound=Repo, default=Repo, covariant=True)
N = TypeVar("N", bound=NewRepo, default=NewRepo, covariant=True)


class Repos(Repository[R, N]):
    """Code repositories that sessions work on, with their worktrees."""

    table = "repos"
    natural_key = ("slug",)

    @sql("SELECT {columns} FROM {table} WHERE slug = %(slug)s", repeatable=True)
    async def get_by(self, *, slug: str) -> R | None:
        """Return the repository of code of this slug, or None."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[RepoChanges]) -> R: ...  # noqa: D102
