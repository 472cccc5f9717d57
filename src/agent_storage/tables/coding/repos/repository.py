"""Repositories of code."""

from __future__ import annotations

from agent_storage.repository import Repository, sql
from agent_storage.tables.coding.repos.record import NewRepo, Repo


class Repos(Repository[Repo, NewRepo]):
    """The code that sessions work on, and its worktrees."""

    table = "repos"
    natural_key = ("slug",)

    @sql("SELECT {columns} FROM {table} WHERE slug = %(slug)s", repeatable=True)
    async def get_by(self, *, slug: str) -> Repo | None:
        """Return the repository of code of this slug, or None."""
        ...
