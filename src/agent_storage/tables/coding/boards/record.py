"""A board's record."""

from __future__ import annotations

from uuid import UUID

from agent_storage.statements.records import Document, Input, Jsonb, Key, Record


class BoardData(Document):
    """The display options of a board."""

    description: str | None = None
    color: str | None = None
    icon: str | None = None
    session_ids: list[UUID] = []


class NewBoard(Input):
    """Fields to create a board."""

    name: Key
    slug: Key
    data: Jsonb[BoardData] = BoardData()


class Board(Record, NewBoard):
    """A board."""
