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

    @sql("""
        INSERT INTO boards (name, slug)  -- without data
        SELECT 'Main board', 'default'
        ON CONFLICT (slug) DO UPDATE  -- created by another session: return that one
           SET slug = excluded.slug   -- without data, name
        RETURNING {columns}
    """)
    async def _create_default(self) -> R:
        """Create the default board, or return it."""
        ...

    async def default(self) -> R:
        """Return the default board, the one of the slug `default`; create it if there is none.

        However many call it at once, there is one. Rename it as you like, but for the slug.
        """
        return await self.get_by(slug="default") or await self._create_default()

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[BoardChanges]) -> R: ...  # noqa: D102
