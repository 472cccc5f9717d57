"""The turns of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.errors import InvalidValue
from agent_storage.repository import Repository, sql
from agent_storage.statements.filters import Order, Where
from agent_storage.statements.lists import Found, Page
from agent_storage.statements.records import Timestamp
from agent_storage.tables.chat.messages.record import Content, Message, MessageMatch, NewMessage, Role, SearchText

if TYPE_CHECKING:
    from agent_storage.tables.changes import MessageChanges, MessageFields

R = TypeVar("R", bound=Message, default=Message, covariant=True)
N = TypeVar("N", bound=NewMessage, default=NewMessage, covariant=True)


class Messages(Repository[R, N]):
    """Messages of conversations, in order."""

    table = "messages"
    refers_to_itself = True

    @sql(
        """
        WITH conversation AS (      -- its row lock, held to commit, hands out positions without a gap
            UPDATE conversations
               SET message_count = message_count + 1, last_message_at = clock_timestamp()
             WHERE id = %(new.conversation_id)s
            RETURNING message_count
        )
        INSERT INTO messages ({new.columns}, position)
        SELECT {new.values}, message_count FROM conversation
        RETURNING {columns}
        """,
        missing="conversations has no row %(new.conversation_id)s: create the conversation first",
    )
    async def create(self, new: N) -> R:  # pyright: ignore[reportGeneralTypeIssues]
        """Create the message at its conversation's next position, in one round trip. Raises `NotFound`."""
        ...

    @sql("""
        WITH given AS (
            SELECT *, row_number() OVER (PARTITION BY conversation_id ORDER BY ordinality) AS nth
              FROM jsonb_populate_recordset(NULL::messages, %(new)s) WITH ORDINALITY
        ), counted AS (
            SELECT conversation_id AS of, count(*)::integer AS messages FROM given GROUP BY conversation_id
        ), moved AS (               -- the row locks, held to commit, hand out positions without a gap
            UPDATE conversations
               SET message_count = message_count + counted.messages, last_message_at = clock_timestamp()
              FROM counted
             WHERE conversations.id = counted.of
            RETURNING counted.of, message_count - counted.messages AS before
        )
        INSERT INTO messages ({new.columns}, position)
        SELECT {new.rows}, coalesce(moved.before, 0) + nth
          FROM given
          LEFT JOIN moved ON moved.of = conversation_id      -- a missing one fails on the foreign key: all or none
         ORDER BY ordinality
        RETURNING {columns}
    """)
    async def create_many(self, new: Sequence[N]) -> list[R]:
        """Create the messages at their conversations' next positions, in the order given; all or none, one round trip.

        Raises `MissingReference`, which is a `NotFound`.
        """
        ...

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE conversation_id = %(conversation_id)s
         ORDER BY position DESC
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def latest(self, conversation_id: UUID, limit: int = 100) -> Found[R]:
        """Return the newest messages of a conversation, newest first."""
        ...

    @sql(
        """
        WITH RECURSIVE thread AS (
            SELECT m.*, 1 AS distance FROM messages m WHERE m.id = %(id)s
             UNION ALL
            SELECT parent.*, thread.distance + 1
              FROM thread
              JOIN messages parent ON parent.id = thread.parent_id
        ) CYCLE id SET repeated USING path
        SELECT {columns} FROM thread WHERE NOT repeated ORDER BY distance LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def thread(self, id: UUID, limit: int = 100) -> Found[R]:
        """Return a message and its ancestors by `parent_id`, newest first; one round trip."""
        ...

    @sql(
        """
        WITH hits AS MATERIALIZED (
            SELECT m.id, query
              FROM search_query(search_fold(%(text)s)) AS query
              JOIN messages m ON search_words(search_fold(message_text(m.content))) @@ query
             WHERE querytree(query) NOT IN ('', 'T')        -- what only excludes words would find everything else
               -- CASE: the planner takes `parameter IS NULL OR …` for selective, and then reads the table
               AND CASE WHEN %(conversation_id)s::uuid IS NULL THEN true
                        ELSE m.conversation_id = %(conversation_id)s END
               AND CASE WHEN %(project_id)s::uuid IS NULL THEN true
                        ELSE m.conversation_id IN (SELECT id FROM conversations WHERE project_id = %(project_id)s) END
               AND CASE WHEN %(role)s::text IS NULL THEN true ELSE m.role = %(role)s END
               AND CASE WHEN %(since)s::timestamptz IS NULL THEN true ELSE m.created_at >= %(since)s END
               AND CASE WHEN %(until)s::timestamptz IS NULL THEN true ELSE m.created_at < %(until)s END
        ), ranked AS (              -- a common word is in thousands of messages, and a rank takes 0.1 ms
            SELECT newest.id, query,
                   ts_rank(words, replace(query::text, ':*', '')::tsquery)::float8 + ts_rank(words, query) / 10 AS rank
              FROM (SELECT * FROM hits ORDER BY id DESC LIMIT 200) AS newest
             CROSS JOIN LATERAL (SELECT search_words(search_fold(message_text(m.content))) AS words
                                   FROM messages m
                                  WHERE m.id = newest.id
                                 OFFSET 0) AS message
             ORDER BY rank DESC, newest.id DESC
             LIMIT %(limit)s
        )
        SELECT {m.columns}, ranked.rank, ranked.query::text AS query
          FROM ranked
          JOIN messages m USING (id)
         ORDER BY ranked.rank DESC, m.id DESC
        """,
        repeatable=True,
    )
    async def search(
        self,
        text: SearchText,
        limit: int = 20,
        *,
        conversation_id: UUID | None = None,
        project_id: UUID | None = None,
        role: Role | None = None,
        since: Timestamp | None = None,
        until: Timestamp | None = None,
    ) -> Found[MessageMatch]:
        """Return the messages that contain the words, best first, each with a snippet that has the hits between `**`.

        `text` is what people type, at most 1,000 characters: words, "a phrase", `or`, `-without`. A word finds longer
        words, and those of its English stem; accents and case do not count. Without a scope every message is searched;
        `since` is inclusive, `until` is not. Of more than 200 hits the newest 200 are ranked.
        """
        ...

    @sql("SELECT gin_clean_pending_list('messages_search_idx'::regclass)", certain=True)
    async def merge_search(self) -> int:
        """Merge the words of new messages into the index, as autovacuum does. Return the number of pages that waited.

        Makes searches faster after a bulk import. Raises `PermissionDenied` unless the role owns the table.
        """
        ...

    async def append(self, conversation_id: UUID, role: Role, content: Content, **fields: Unpack[MessageFields]) -> R:
        """Append a message; `fields` are those of `NewMessage`. One statement, one round trip.

        Positions are gapless, however many calls append at once. Raises `NotFound` for a missing conversation.
        """
        return await self.create(self.new(conversation_id=conversation_id, role=role, content=content, **fields))

    async def append_many(self, conversation_id: UUID, messages: Sequence[N]) -> list[R]:
        """Append messages in the order given, all or none, one round trip. Raises `NotFound`."""
        messages = list(messages)
        if other := [message for message in messages if message.conversation_id != conversation_id]:
            raise InvalidValue(
                f"messages.conversation_id: {other[0].conversation_id} is not the conversation to append to",
                table="messages",
                column="conversation_id",
            )
        return await self.create_many(messages)

    async def page(
        self,
        where: Where | UUID | None = None,
        order_by: Order = "id",
        limit: int = 100,
        cursor: str | None = None,
        *,
        total: bool = False,
        before: int | None = None,
        after: int | None = None,
    ) -> Page[R]:
        """Return a page as of every table, or, for a conversation's id, the messages before or after a position.

        The latter are in the order of their positions. `before` gives the last `limit` messages before it, `after` the
        first ones after it, neither the first ones of the conversation.
        """
        if not isinstance(where, UUID):
            return await super().page(where, order_by, limit, cursor, total=total)
        bounds = {"position__lt": before, "position__gt": after}
        given = {"conversation_id": where, **{name: value for name, value in bounds.items() if value is not None}}
        backwards = before is not None and after is None
        page = await super().page(given, "-position" if backwards else "position", limit, cursor, total=total)
        items = page.items[::-1] if backwards else page.items
        return Page(items, page.next_cursor, page.total)

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[MessageChanges]) -> R: ...  # noqa: D102
