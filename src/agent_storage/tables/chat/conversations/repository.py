"""Conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.errors import InvalidValue
from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found, Page, given
from agent_storage.tables.chat.conversations.record import Conversation, NewConversation, Usage

if TYPE_CHECKING:
    from agent_storage.tables.changes import ConversationChanges

R = TypeVar("R", bound=Conversation, default=Conversation, covariant=True)
N = TypeVar("N", bound=NewConversation, default=NewConversation, covariant=True)


class Conversations(Repository[R, N]):
    """Conversations between people and models."""

    table = "conversations"
    soft_delete = "archived_at"
    references = {"project_id": "projects", "model_id": "models"}

    async def recent(
        self,
        limit: int = 20,
        cursor: str | None = None,
        *,
        project_id: UUID | None = None,
        owner: str | None = None,
        archived: bool = False,
    ) -> Page[R]:
        """Return the conversations, the last active first; with `archived=True` the archived ones instead."""
        where = given(project_id=project_id, owner=owner, archived_at__is_null=not archived)
        return await self.page(where, "-last_message_at", limit, cursor)

    @sql(
        """
        SELECT count(m.id) AS messages,
               coalesce(sum(m.input_tokens), 0) AS input_tokens,
               coalesce(sum(m.output_tokens), 0) AS output_tokens,
               (coalesce(sum(m.input_tokens * p.input_price), 0)
                + coalesce(sum(m.output_tokens * p.output_price), 0)) * 0.000001 AS cost
          FROM conversations c
          LEFT JOIN messages m ON m.conversation_id = c.id
          LEFT JOIN models p ON p.id = coalesce(m.model_id, c.model_id)
         WHERE c.id = %(id)s
         GROUP BY c.id
        """,
        repeatable=True,
    )
    async def usage(self, id: UUID) -> Usage:
        """Return the tokens of a conversation and their cost at the present prices. Raises `NotFound`."""
        ...

    @sql("""
        UPDATE {table} SET archived_at = coalesce(archived_at, clock_timestamp())
         WHERE id = %(id)s
        RETURNING {columns}
    """)
    async def archive(self, id: UUID) -> R:
        """Archive the conversation: lists leave it out. Idempotent. Raises `NotFound`."""
        ...

    @sql("UPDATE {table} SET archived_at = NULL WHERE id = %(id)s RETURNING {columns}")
    async def restore(self, id: UUID) -> R:
        """Undo `archive`. Idempotent. Raises `NotFound`."""
        ...

    @sql("""
        WITH origin AS (
            SELECT *, coalesce(%(at_position)s, message_count) AS at_position
              FROM conversations
             WHERE id = %(id)s AND coalesce(%(at_position)s BETWEEN 1 AND message_count, true)
        ), copied AS MATERIALIZED (      -- materialized: each message gets its new id once
            SELECT m.*, uuid_v7() AS new_id
              FROM origin
              JOIN messages m ON m.conversation_id = origin.id AND m.position <= origin.at_position
        ), locked AS MATERIALIZED (      -- in the order of ids; the foreign keys lock in that of the messages
            SELECT count(*)
              FROM (SELECT FROM models
                     WHERE id IN (SELECT model_id FROM copied UNION ALL SELECT model_id FROM origin)
                     ORDER BY id
                       FOR KEY SHARE) one
        ), forked AS (
            INSERT INTO conversations (title, project_id, model_id, owner, metadata, forked_from_id,
                                       forked_at_position, message_count, last_message_at)
            SELECT coalesce(%(title)s, title), project_id, model_id, owner, metadata, id, at_position,
                   at_position, (SELECT coalesce(max(created_at), now()) FROM copied)
              FROM origin
             CROSS JOIN locked
            RETURNING *
        ), placed AS (
            INSERT INTO messages (id, conversation_id, position, role, content, model_id, parent_id,
                                  tool_call_id, input_tokens, output_tokens, metadata, created_at, updated_at)
            SELECT c.new_id, forked.id, c.position, c.role, c.content, c.model_id, parent.new_id,
                   c.tool_call_id, c.input_tokens, c.output_tokens, c.metadata, c.created_at, c.updated_at
              FROM forked
             CROSS JOIN copied c
              LEFT JOIN copied parent ON parent.id = c.parent_id
        )
        SELECT {columns} FROM forked
    """)
    async def _fork(self, id: UUID, at_position: int | None, title: str | None) -> R | None:
        """Return the fork; None if there is no such conversation or position."""
        ...

    async def fork(self, id: UUID, at_position: int | None = None, title: str | None = None) -> R:
        """Copy the conversation, with its owner, up to a position (default: all of it), with the messages' times.

        The fork names its origin and the position. One statement. Raises `NotFound`, and `InvalidValue` for a position
        that the conversation has not reached.
        """
        fork = await self._fork(id, at_position, title)
        if fork is not None:
            return fork
        last = (await self.require(id)).message_count
        raise InvalidValue(
            f"conversations: {id} cannot be forked at position {at_position}; its positions are 1 to {last}"
            if last
            else f"conversations: {id} cannot be forked at position {at_position}; it has no messages",
            table=self.table,
            column="at_position",
        )

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE forked_from_id = %(id)s AND archived_at IS NULL
         ORDER BY id DESC
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def forks(self, id: UUID, limit: int = 100) -> Found[R]:
        """Return the forks of a conversation, newest first. Archived ones are left out."""
        ...

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[ConversationChanges]) -> R: ...  # noqa: D102
