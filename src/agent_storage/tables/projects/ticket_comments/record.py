"""A comment on a ticket."""

from __future__ import annotations

from uuid import UUID

from agent_storage.statements.records import Input, Key, Record


class NewTicketComment(Input):
    """Fields to create a comment."""

    ticket_id: UUID
    author: Key
    body: str


class TicketComment(Record, NewTicketComment):
    """A comment."""
