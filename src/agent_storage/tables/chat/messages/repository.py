"""The turns of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.errors import InvalidValue
from agent_storage.repository import Repository, sql
from agent_storage.statements.filters import Order, Where
from agent_storage.statements.lists import Found, Page, check_keys
from agent_storage.statements.records import Timestamp, TimeZone
from agent_storage.tables.chat.messages.record import (
    Content,
    Message,
    MessageMatch,
    MessageUsage,
    MessageUsageKey,
    NewMessage,
    Role,
    SearchText,
)

if TYPE_CHECKING:
    from agent_storage.tables.changes import MessageChanges, MessageFields

# The messages that a fork copied are counted in their origin.
_OF_MESSAGES = """
    SELECT m.created_at, coalesce(m.model_id, c.model_id) AS model_id, c.owner, c.project_id,
           m.input_tokens, m.output_tokens
      FROM messages m
      JOIN conversations c ON c.id = m.conversation_id
     WHERE m.position > coalesce(c.forked_at_position, 0)
       AND m.created_at >= coalesce(%(since)s::timestamptz, '-infinity')
       AND m.created_at < coalesce(%(until)s::timestamptz, 'infinity')
"""

# Three selects, each with its own index, of which one returns rows.
_USED = f"""
    {_OF_MESSAGES} AND %(owner)s::text IS NULL AND %(project_id)s::uuid IS NULL
     UNION ALL
    {_OF_MESSAGES} AND c.owner = %(owner)s AND (%(project_id)s::uuid IS NULL OR c.project_id = %(project_id)s)
     UNION ALL
    {_OF_MESSAGES} AND c.project_id = %(project_id)s AND %(owner)s::text IS NULL
"""
_USAGE = f"""
    SELECT CASE WHEN %(day)s THEN (used.created_at AT TIME ZONE %(time_zone)s)::date END AS day,
           CASE WHEN %(model)s THEN priced.id END AS model_id,
           CASE WHEN %(model)s THEN priced.name END AS model,
           CASE WHEN %(by_owner)s THEN used.owner END AS owner,
           CASE WHEN %(project)s THEN used.project_id END AS project_id,
           count(*) AS messages,
           coalesce(sum(used.input_tokens), 0) AS input_tokens,
           coalesce(sum(used.output_tokens), 0) AS output_tokens,
           (coalesce(sum(used.input_tokens * priced.input_price), 0)
            + coalesce(sum(used.output_tokens * priced.output_price), 0)) * 0.000001 AS cost
      FROM ({_USED}) used
      LEFT JOIN models priced ON priced.id = used.model_id
     GROUP BY 1, 2, 3, 4, 5
     ORDER BY 1 DESC, cost DESC, messages DESC, 3, 2, 4, 5
     LIMIT %(limit)s
"""  # all of it is written above

R = TypeVar("R", bound=Message, default=Message, covariant=True)
N = TypeVar("N", bound=NewMessage, default=NewMessage, covariant=True)


#: Messages with ids, each at the next position unless it exists. Only the locks make an attempt that is under way wait
#: and be seen, so the messages are looked up after them.
_IDENTIFIED = """
        WITH given ({new.columns}, "Item", "Nth") AS MATERIALIZED (
            SELECT {new.rows}, "Item", "Nth"
              FROM jsonb_array_elements(%(new)s) WITH ORDINALITY AS items ("Item", "Nth")
             CROSS JOIN LATERAL jsonb_populate_record(NULL::messages, "Item")
        ), locked AS MATERIALIZED (
            SELECT id
              FROM conversations
             WHERE id = ANY (ARRAY(SELECT DISTINCT conversation_id FROM given))
             ORDER BY id
               FOR NO KEY UPDATE
        ), referred AS MATERIALIZED (   -- the foreign keys alone would lock these in the order of the rows
            SELECT (SELECT count(*) FROM locked)
                   + (SELECT count(*) FROM (SELECT FROM messages WHERE id IN (SELECT parent_id FROM given) ORDER BY id
                                               FOR KEY SHARE) one)
                   + (SELECT count(*) FROM (SELECT FROM models WHERE id IN (SELECT model_id FROM given) ORDER BY id
                                               FOR KEY SHARE) one) AS locks
        ), present AS MATERIALIZED (
            SELECT present.*
              FROM referred
             CROSS JOIN LATERAL rows_as_given(NULL::messages, CASE WHEN locks >= 0 THEN %(new)s END, false) AS present
        ), missing AS MATERIALIZED (
            SELECT *, row_number() OVER (PARTITION BY conversation_id ORDER BY "Nth") AS "Place"
              FROM given
             WHERE id NOT IN (SELECT id FROM present)
        ), counted AS (
            SELECT conversation_id AS of, count(*)::integer AS messages, max(created_at) AS newest
              FROM missing
             GROUP BY conversation_id
        ), moved AS (
            UPDATE conversations
               SET message_count = message_count + counted.messages,
                   last_message_at = CASE WHEN message_count = 0 THEN newest ELSE greatest(last_message_at, newest) END
              FROM counted
             WHERE conversations.id = counted.of
            RETURNING counted.of, message_count - counted.messages AS before
        ), made AS (
            INSERT INTO messages ({new.columns}, position)
            SELECT {new.columns}, coalesce(moved.before, 1000000000 + (random() * 1000000000)::integer) + "Place"
              FROM missing
              LEFT JOIN moved ON moved.of = conversation_id
             -- A missing one fails on the foreign key, at a random position, where no other call waits for this one.
             ORDER BY "Nth"
            RETURNING *
        ), found AS (
            SELECT * FROM made UNION ALL SELECT * FROM present
        )
        SELECT {found.columns} FROM given JOIN found USING (id) ORDER BY "Nth"
"""


class Messages(Repository[R, N]):
    """Messages of conversations, in order."""

    table = "messages"
    refers_to_itself = True
    references = {"conversation_id": "conversations", "model_id": "models", "parent_id": "messages"}
    immutable = ("conversation_id",)

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
        identified=_IDENTIFIED,
    )
    async def create(self, new: N) -> R:  # pyright: ignore[reportGeneralTypeIssues]
        """Create the message at its conversation's next position, in one round trip.

        With an `id` the call can be repeated: a message that exists as given is returned, and no position is taken.
        Raises `NotFound`, `AlreadyExists` for a message that differs in a field that was given.
        """
        ...

    @sql(
        """
        WITH given AS (
            SELECT *, row_number() OVER (PARTITION BY conversation_id ORDER BY ordinality) AS nth
              FROM jsonb_populate_recordset(NULL::messages, %(new)s) WITH ORDINALITY
        ), counted AS (
            SELECT conversation_id AS of, count(*)::integer AS messages FROM given GROUP BY conversation_id
        ), locked AS MATERIALIZED (     -- in the order of ids, so that concurrent calls do not deadlock
            SELECT id AS locked_id FROM conversations WHERE id IN (SELECT of FROM counted) ORDER BY id FOR NO KEY UPDATE
        ), referred AS MATERIALIZED (   -- the foreign keys alone would lock these in the order of the rows
            SELECT (SELECT count(*) FROM locked) AS conversations,
                   (SELECT count(*) FROM (SELECT FROM messages WHERE id IN (SELECT parent_id FROM given) ORDER BY id
                                             FOR KEY SHARE) one) AS messages,
                   (SELECT count(*) FROM (SELECT FROM models WHERE id IN (SELECT model_id FROM given) ORDER BY id
                                             FOR KEY SHARE) one) AS models
        ), moved AS (               -- the row locks, held to commit, hand out positions without a gap
            UPDATE conversations
               SET message_count = message_count + counted.messages, last_message_at = clock_timestamp()
              FROM counted
              JOIN locked ON locked_id = counted.of
             CROSS JOIN referred
             WHERE conversations.id = counted.of
            RETURNING counted.of, message_count - counted.messages AS before
        )
        INSERT INTO messages ({new.columns}, position)
        SELECT {new.rows}, coalesce(moved.before, 1000000000 + (random() * 1000000000)::integer) + nth
          FROM given
          LEFT JOIN moved ON moved.of = conversation_id
        -- A missing one fails on the foreign key, at a random position, where no other call waits for this one.
         ORDER BY ordinality
        RETURNING {columns}
    """,
        identified=_IDENTIFIED,
    )
    async def create_many(self, new: Sequence[N]) -> list[R]:
        """Create the messages at their conversations' next positions, in the order given; all or none, one round trip.

        Messages with an `id` may exist, as for `create`. Raises `MissingReference`, which is a `NotFound`.
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
        WITH hits AS MATERIALIZED (   -- by the index alone: with more conditions the planner would read the table
            SELECT m.id, m.conversation_id, m.role, m.created_at, query
              FROM search_query(search_fold(%(text)s)) AS query
              JOIN messages m ON search_words(search_fold(message_text(m.content))) @@ query
             WHERE querytree(query) NOT IN ('', 'T')        -- what only excludes words would find everything else
        ), scoped AS (
            SELECT h.id, query
              FROM hits h
             WHERE (%(conversation_id)s::uuid IS NULL OR h.conversation_id = %(conversation_id)s)
               AND (%(project_id)s::uuid IS NULL
                    OR h.conversation_id IN (SELECT id FROM conversations WHERE project_id = %(project_id)s))
               AND (%(owner)s::text IS NULL
                    OR h.conversation_id IN (SELECT id FROM conversations WHERE owner = %(owner)s))
               AND (%(role)s::text IS NULL OR h.role = %(role)s)
               AND (%(since)s::timestamptz IS NULL OR h.created_at >= %(since)s)
               AND (%(until)s::timestamptz IS NULL OR h.created_at < %(until)s)
        ), ranked AS (              -- a common word is in thousands of messages, and a rank takes 0.1 ms
            SELECT newest.id, query,
                   ts_rank(words, replace(query::text, ':*', '')::tsquery)::float8 + ts_rank(words, query) / 10 AS rank
              FROM (SELECT * FROM scoped ORDER BY id DESC LIMIT 200) AS newest
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
        owner: str | None = None,
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

    @sql(_USAGE, repeatable=True)
    async def _usage_by(
        self,
        *,
        day: bool,
        model: bool,
        by_owner: bool,
        project: bool,
        owner: str | None,
        project_id: UUID | None,
        since: Timestamp | None,
        until: Timestamp | None,
        time_zone: TimeZone,
        limit: int,
    ) -> Found[MessageUsage]:
        """Return the usage, grouped by the keys that are true."""
        ...

    async def usage_by(
        self,
        *by: MessageUsageKey,
        owner: str | None = None,
        project_id: UUID | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        time_zone: str = "UTC",
        limit: int = 1000,
    ) -> Found[MessageUsage]:
        """Return messages, tokens and cost by any of day, model, owner and project; one statement, exact.

        `await storage.messages.usage_by("day", "model", owner="ann", since=monday)`: the last day first, within it the
        highest cost. Days are those of `time_zone`. `since` is inclusive, `until` is not. A message without a model
        counts for the model of its conversation; prices are the present ones. Raises `InvalidValue`.
        """
        keys = check_keys(by, MessageUsageKey, self.table)
        return await self._usage_by(
            day="day" in keys,
            model="model" in keys,
            by_owner="owner" in keys,
            project="project" in keys,
            owner=owner,
            project_id=project_id,
            since=since,
            until=until,
            time_zone=time_zone,
            limit=limit,
        )

    async def append(self, conversation_id: UUID, role: Role, content: Content, **fields: Unpack[MessageFields]) -> R:
        """Append a message; `fields` are those of `NewMessage`. One statement, one round trip.

        Positions are gapless, however many calls append at once. With an `id` the call can be repeated, as for
        `create`. With `created_at` the message is an old one: `last_message_at` is then the newest time of a message.
        Raises `NotFound` for a missing conversation.
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
