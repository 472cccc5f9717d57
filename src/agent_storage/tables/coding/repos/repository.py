"""Repositories of code."""

from __future__ import annotations

from agent_storage.repository import Repository, sql
from agent_storage.tables.coding.repos.record import NewRepo, Repo


class Repos(Repository[Repo, NewRepo]):
    """Code repositories that sessions work on, with their worktrees."""

    table = "repos"
    natural_key = ("slug",)

    @sql("SELECT {columns} FROM {table} WHERE slug = %(slug)s", repeatable=True)
    async def by_slug(self, slug: str) -> Repo | None:
        """The repository of code, or None."""
        ...
