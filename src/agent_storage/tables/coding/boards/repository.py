"""Boards."""

from __future__ import annotations

from agent_storage.repository import Repository, sql
from agent_storage.tables.coding.boards.record import Board, NewBoard


class Boards(Repository[Board, NewBoard]):
    """Boards on which sessions are arranged."""

    table = "boards"
    natural_key = ("slug",)

    @sql("SELECT {columns} FROM {table} WHERE slug = %(slug)s", repeatable=True)
    async def by_slug(self, slug: str) -> Board | None:
        """The board, or None."""
        ...
