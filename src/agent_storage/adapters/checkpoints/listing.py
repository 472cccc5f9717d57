"""The keywords of lists, for both faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict
from uuid import UUID

from agent_storage.statements.where import Order, Where


class Listing(TypedDict, total=False):
    """Further keywords of `list_checkpoints`: equal fields, other filters, the order, and the page."""

    agent_type: str | None
    name: str | None
    owner: str | None
    where: Where | None
    order_by: Order
    cursor: str | None
    offset: int
    total: bool


def row_id(id: Any) -> UUID | None:
    """Return the id of a row, or None for a text that is no UUID."""
    try:
        return UUID(id)
    except (ValueError, TypeError, AttributeError):
        return None


@dataclass(frozen=True)
class Copied:
    """The result of copying: how many checkpoints were copied, and how many bytes; how many were there already."""

    copied: int
    present: int
    bytes: int

    def plus(self, copied: int, present: int, bytes: int) -> Copied:
        """Return the sum."""
        return Copied(self.copied + copied, self.present + present, self.bytes + bytes)
