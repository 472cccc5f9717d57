"""Boards."""

from __future__ import annotations

from agent_storage.repository import Repository, sql
from agent_storage.tables.coding.boards.record import Board, NewBoard


class Boards(Repository[Board, NewBoard]):
    """Where sessions are laid out side by side."""

    table = "boards"
    natural_key = ("slug",)

    @sql("SELECT {columns} FROM {table} WHERE slug = %(slug)s", repeatable=True)
    async def get_by(self, *, slug: str) -> Board | None:
        """Return the board of this slug, or None."""
        ...
