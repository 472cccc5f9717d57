"""Boards."""

from __future__ import annotations

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.tables.coding.boards.record import Board, NewBoard

R = TypeVar("R", bound=Board, default=Board, covariant=True)
N = TypeVar("N", bound=NewBoard, default=NewBoard, covariant=True)


class Boards(Repository[R, N]):
    """Boards on which sessions are arranged."""

    table = "boards"
    natural_key = ("slug",)

    @sql("SELECT {columns} FROM {table} WHERE slug = %(slug)s", repeatable=True)
    async def get_by(self, *, slug: str) -> R | None:
        """Return the board of this slug, or None."""
        ...
