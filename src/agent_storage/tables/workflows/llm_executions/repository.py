"""Calls of language models."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found, check_keys
from agent_storage.statements.records import Timestamp, TimeZone
from agent_storage.tables.workflows.llm_executions.record import (
    LlmExecution,
    LlmUsage,
    LlmUsageKey,
    ModelUsage,
    NewLlmExecution,
)

if TYPE_CHECKING:
    from agent_storage.tables.changes import LlmExecutionChanges

_OF_CALLS = """
    SELECT e.created_at, e.metadata ->> 'model' AS model, r.owner, r.workflow_id, e.success,
           e.input_tokens, e.output_tokens, e.cost
      FROM llm_executions e
      JOIN workflow_sessions r ON r.id = e.session_id
     WHERE e.created_at >= coalesce(%(since)s::timestamptz, '-infinity')
       AND e.created_at < coalesce(%(until)s::timestamptz, 'infinity')
"""

# Three selects, each with its own index, of which one returns rows.
_USED = f"""
    {_OF_CALLS} AND %(owner)s::text IS NULL AND %(workflow_id)s::uuid IS NULL
     UNION ALL
    {_OF_CALLS} AND r.owner = %(owner)s AND (%(workflow_id)s::uuid IS NULL OR r.workflow_id = %(workflow_id)s)
     UNION ALL
    {_OF_CALLS} AND r.workflow_id = %(workflow_id)s AND %(owner)s::text IS NULL
"""
_USAGE = f"""
    SELECT CASE WHEN %(day)s THEN (created_at AT TIME ZONE %(time_zone)s)::date END AS day,
           CASE WHEN %(model)s THEN model END AS model,
           CASE WHEN %(by_owner)s THEN owner END AS owner,
           CASE WHEN %(workflow)s THEN workflow_id END AS workflow_id,
           count(*) AS calls,
           count(*) FILTER (WHERE NOT success) AS failures,
           coalesce(sum(input_tokens), 0) AS input_tokens,
           coalesce(sum(output_tokens), 0) AS output_tokens,
           coalesce(sum(cost), 0) AS cost
      FROM ({_USED}) used
     GROUP BY 1, 2, 3, 4
     ORDER BY 1 DESC, cost DESC, calls DESC, 2, 3, 4
     LIMIT %(limit)s
"""  # all of it is written above

R = TypeVar("R", bound=LlmExecution, default=LlmExecution, covariant=True)
N = TypeVar("N", bound=NewLlmExecution, default=NewLlmExecution, covariant=True)


class LlmExecutions(Repository[R, N]):
    """Calls of language models in workflow runs: texts, tokens and costs."""

    table = "llm_executions"
    references = {"session_id": "workflow_sessions"}

    @sql(
        "SELECT {columns} FROM {table} WHERE session_id = %(session_id)s ORDER BY id DESC LIMIT %(limit)s",
        repeatable=True,
    )
    async def by_session(self, session_id: UUID, limit: int = 100) -> Found[R]:
        """Return the calls of a run, newest first."""
        ...

    @sql(
        """
        SELECT {columns}
          FROM {table}
         WHERE session_id = %(session_id)s AND node_id = %(node_id)s
         ORDER BY id DESC
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def by_node(self, session_id: UUID, node_id: str, limit: int = 100) -> Found[R]:
        """Return the calls of a node of a run, newest first."""
        ...

    @sql(
        """
        SELECT count(*) AS calls,
               count(*) FILTER (WHERE NOT success) AS failures,
               coalesce(sum(input_tokens), 0) AS input_tokens,
               coalesce(sum(output_tokens), 0) AS output_tokens,
               coalesce(sum(cost), 0) AS cost
          FROM llm_executions
         WHERE session_id = %(session_id)s
        """,
        repeatable=True,
    )
    async def usage(self, session_id: UUID) -> ModelUsage:
        """Return the tokens and the cost of the calls of a run."""
        ...

    @sql(_USAGE, repeatable=True)
    async def _usage_by(
        self,
        *,
        day: bool,
        model: bool,
        by_owner: bool,
        workflow: bool,
        owner: str | None,
        workflow_id: UUID | None,
        since: Timestamp | None,
        until: Timestamp | None,
        time_zone: TimeZone,
        limit: int,
    ) -> Found[LlmUsage]:
        """Return the usage, grouped by the keys that are true."""
        ...

    async def usage_by(
        self,
        *by: LlmUsageKey,
        owner: str | None = None,
        workflow_id: UUID | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        time_zone: str = "UTC",
        limit: int = 1000,
    ) -> Found[LlmUsage]:
        """Return calls, tokens and cost by any of day, model, owner and workflow; one statement, exact.

        The last day first, within it the highest cost. Days are those of `time_zone`. `since` is inclusive, `until` is
        not. The model is the one in the metadata of the call, the owner the one of its run. Raises `InvalidValue`.
        """
        keys = check_keys(by, LlmUsageKey, self.table)
        return await self._usage_by(
            day="day" in keys,
            model="model" in keys,
            by_owner="owner" in keys,
            workflow="workflow" in keys,
            owner=owner,
            workflow_id=workflow_id,
            since=since,
            until=until,
            time_zone=time_zone,
            limit=limit,
        )

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[LlmExecutionChanges]) -> R: ...  # noqa: D102
