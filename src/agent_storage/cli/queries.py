"""Queries of the commands beyond the repositories: whole forests and summaries, one round trip each."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from agent_storage.sync.repository import sql
from agent_storage.sync.tables.coding.sessions.repository import Sessions
from agent_storage.sync.tables.workflows.budget_pools.repository import BudgetPools
from agent_storage.sync.tables.workflows.workflows.repository import Workflows
from agent_storage.types import BudgetPool, RunStatus, Session, Workflow


class WorkflowSummary(Workflow):
    """A workflow with its number of runs and the status of its newest run."""

    runs: int
    newest_status: str | None
    newest_at: datetime | None


class SessionForest(Sessions):
    """Sessions with all that came from them."""

    table = "sessions"

    @sql("""
        WITH RECURSIVE below (id) AS (
            SELECT unnest(%(ids)s::uuid[])
             UNION
            SELECT child.id
              FROM below
             CROSS JOIN LATERAL (SELECT s.id FROM sessions s WHERE s.parent_session_id = below.id
                                  UNION ALL
                                 SELECT s.id FROM sessions s WHERE s.forked_from_session_id = below.id) child
        )
        SELECT {s.columns} FROM below JOIN sessions s USING (id) ORDER BY id
    """)
    def with_descendants(self, ids: list[UUID]) -> list[Session]:
        """Return these sessions and all that came from them, spawned or forked, oldest first."""
        ...


class PoolForest(BudgetPools):
    """Budget pools with all below them."""

    table = "budget_pools"

    @sql("""
        WITH RECURSIVE below (id) AS (
            SELECT unnest(%(ids)s::uuid[])
             UNION
            SELECT p.id FROM below JOIN budget_pools p ON p.parent_pool_id = below.id
        )
        SELECT {p.columns} FROM below JOIN budget_pools p USING (id) ORDER BY id
    """)
    def with_descendants(self, ids: list[UUID]) -> list[BudgetPool]:
        """Return these pools and all below them, oldest first."""
        ...


class WorkflowSummaries(Workflows):
    """Workflows with a summary of their runs."""

    table = "workflows"

    @sql("""
        SELECT {w.columns},
               (SELECT count(*)
                  FROM workflow_sessions r
                 WHERE r.workflow_id = w.id AND (%(owner)s::text IS NULL OR r.owner = %(owner)s)) AS runs,
               newest.status AS newest_status, newest.created_at AS newest_at
          FROM workflows w
          LEFT JOIN LATERAL (SELECT r.status, r.created_at
                               FROM workflow_sessions r
                              WHERE r.workflow_id = w.id AND (%(owner)s::text IS NULL OR r.owner = %(owner)s)
                              ORDER BY r.id DESC
                              LIMIT 1) newest ON true
         WHERE (%(name)s::text IS NULL OR w.name = %(name)s)
           AND (%(status)s::text IS NULL OR newest.status = %(status)s)
           AND (%(owner)s::text IS NULL OR newest.status IS NOT NULL)
         ORDER BY w.id DESC
         LIMIT %(limit)s
    """)
    def summaries(
        self, name: str | None, status: RunStatus | None, owner: str | None, limit: int
    ) -> list[WorkflowSummary]:
        """List workflows, newest first; with `owner`, those with runs of this owner, and these runs alone."""
        ...
