"""Tool calls of runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.codec import check
from agent_storage.statements.filters import EVERY, Condition, Joined, Parsed
from agent_storage.statements.lists import Found
from agent_storage.statements.records import Column
from agent_storage.statements.where import Where
from agent_storage.tables.workflows.tool_call_logs.record import NewToolCallLog, ToolCallLog

if TYPE_CHECKING:
    from agent_storage.tables.changes import ToolCallLogChanges

_RUN = Column("session_id", UUID, nullable=False, storage=None)
_OF_RUN = Condition(
    "execution_id", False, "of_run", "execution_id IN (SELECT id FROM llm_executions WHERE session_id = {})"
)

R = TypeVar("R", bound=ToolCallLog, default=ToolCallLog, covariant=True)
N = TypeVar("N", bound=NewToolCallLog, default=NewToolCallLog, covariant=True)


class ToolCallLogs(Repository[R, N]):
    """Tool calls that language models asked for in workflow runs."""

    table = "tool_call_logs"
    references = {"execution_id": "llm_executions"}

    @sql(
        "SELECT {columns} FROM {table} WHERE execution_id = %(execution_id)s ORDER BY id DESC LIMIT %(limit)s",
        repeatable=True,
    )
    async def by_execution(self, execution_id: UUID, limit: int = 100) -> Found[R]:
        """Return the tool calls of one call of a model, newest first."""
        ...

    @sql(
        """
        SELECT {log.columns}
          FROM llm_executions e
          JOIN tool_call_logs log ON log.execution_id = e.id
         WHERE e.session_id = %(session_id)s
         ORDER BY log.id DESC
         LIMIT %(limit)s
        """,
        repeatable=True,
    )
    async def by_session(self, session_id: UUID, limit: int = 100) -> Found[R]:
        """Return the tool calls of a run, newest first. One round trip."""
        ...

    def _where(self, where: Where | None, *, needed: str | None = None) -> Parsed:
        """Take `session_id`, the run, as if it was a column."""
        if not isinstance(where, Mapping) or where.get("session_id") is None:
            return super()._where(where, needed=needed)
        form, values = super()._where({name: value for name, value in where.items() if name != "session_id"})
        run = check(_RUN, where["session_id"], table=self.table)
        return Joined("and", (_OF_RUN,) if form == EVERY else (form, _OF_RUN)), [*values, run]

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[ToolCallLogChanges]) -> R: ...  # noqa: D102
