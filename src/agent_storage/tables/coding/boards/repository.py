"""Boards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.tables.coding.boards.record import Board, NewBoard

if TYPE_CHECKING:
    from agent_storage.tables.changes import BoardChanges

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

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[BoardChanges]) -> R: ...  # noqa: D102
