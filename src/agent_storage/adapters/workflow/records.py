"""The models of `WorkflowStorage`: frozen, with any text as id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Self, TypeVar, cast

from pydantic import ConfigDict, Field

from agent_storage.adapters.text_ids import from_row, in_order, row_id, to_row
from agent_storage.errors import InvalidValue
from agent_storage.statements.ids import uuid7
from agent_storage.statements.records import Document, Input, Json, JsonObject, Record, Timestamp
from agent_storage.types import (
    ApprovalStatus,
    ApprovalType,
    ExecutionStateWithNodes,
    ExecutionStatus,
    NewNodeExecutionState,
    NodeStatus,
    PoolStatus,
    RunStatus,
)

N = TypeVar("N", bound=Input)
R = TypeVar("R", bound=Record)


def _new_id() -> str:
    return str(uuid7())


class Item(Document):
    """A frozen model. A wrong value is `InvalidValue`; an id that is not given is a new UUIDv7.

    `created_at` and `updated_at` are stored as the caller gives them, where the `New…` record has them; else they are
    given by the database.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kept_in: ClassVar[str] = "metadata"
    """The JSON column that holds the texts of ids."""
    references: ClassVar[tuple[str, ...]] = ("id",)
    """The fields that are ids."""
    ordered: ClassVar[bool] = True
    """True if the row stores the order of its creation, for ids without a time."""

    created_at: datetime | None = None
    updated_at: datetime | None = None

    def to_new(self, new: type[N], **more: Any) -> N:
        """Return the record that makes the row. Raises `InvalidValue`."""
        fields = {name: getattr(self, name) for name in type(self).model_fields if name in new.model_fields}
        return new(**to_row(fields, self.kept_in, self.references, ordered=self.ordered), **more)

    @classmethod
    def read(cls, row: Record) -> Self:
        """Return the item of a row."""
        values = from_row(row, cls.kept_in, cls.references)
        return cls(**{name: value for name, value in values.items() if name in cls.model_fields})

    @classmethod
    def read_all(cls, rows: Sequence[R], *, newest_first: bool = False) -> list[Self]:
        """Return the items of rows, in the order of their creation."""
        return [cls.read(row) for row in in_order(rows, cls.kept_in, newest_first=newest_first)]

    @classmethod
    def filters(cls, where: Mapping[str, Any]) -> JsonObject:
        """Return filters of the rows for filters of the items: UUIDs for texts.

        A whole document is compared by what it contains, since a row may keep texts beside it.
        """
        return dict(cls._filter(key, value) for key, value in where.items())

    @classmethod
    def _filter(cls, key: str, value: Any) -> tuple[str, Any]:
        name, _, operator = key.partition("__")
        if name not in cls.model_fields:
            known = ", ".join(cls.model_fields)
            raise InvalidValue(f"{cls.__name__} has no field {name[:60]!r}; fields are: {known}", column=name)
        if name == cls.kept_in and operator in ("", "eq"):
            return f"{name}__contains", value
        if name not in cls.references or operator == "is_null" or value is None:
            return key, value
        if operator in ("in", "not_in"):
            return key, [row_id(item) for item in cast(Sequence[str], value)]
        if operator not in ("", "eq", "ne"):
            raise InvalidValue(f"{cls.__name__}.{name}: ids have no order; operators are: eq, ne, in, not_in, is_null")
        return key, row_id(value)

    @classmethod
    def check_changes(cls, changes: JsonObject, *allowed: str) -> None:
        """Raise `InvalidValue` when something else than `allowed` is to be changed."""
        for name in changes:
            if name not in allowed:
                known = ", ".join(allowed)
                raise InvalidValue(f"{cls.__name__}.{name[:60]} cannot be changed; fields are: {known}", column=name)


class Workflow(Item):
    """The definition of runs. Several ids may have the same name and version. `definition` may not be None."""

    id: str = Field(default_factory=_new_id)
    name: str
    version: str = "1"
    definition: Json
    metadata: JsonObject = {}


class Session(Item):
    """A run of a workflow. Its snapshot defaults to the current definition of the workflow."""

    references = ("id", "workflow_id")

    id: str = Field(default_factory=_new_id)
    workflow_id: str | None = None
    workflow_snapshot: Json = {}
    status: RunStatus = "running"
    metadata: JsonObject = {}


class NodeState(Item):
    """The state of a node of a run. 0, "" and False are valid inputs and outputs; None means none."""

    references = ("pending_approval_id",)

    status: NodeStatus = "pending"
    input: Json = None
    output: Json = None
    error: str | None = None
    started_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    retry_count: int = 0
    pending_approval_id: str | None = None
    metadata: JsonObject = {}


class ExecutionState(Item):
    """The state of a run, and of each of its nodes by node id."""

    kept_in = "context"
    references = ("session_id", "budget_pool_id")

    session_id: str
    budget_pool_id: str | None = None
    current_node_id: str | None = None
    status: ExecutionStatus = "running"
    started_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    context: JsonObject = {}
    nodes: dict[str, NodeState] = {}

    def new_nodes(self, session_id: Any) -> list[NewNodeExecutionState]:
        """Return the records of the nodes. Raises `InvalidValue`."""
        return [
            node.to_new(NewNodeExecutionState, session_id=session_id, node_id=node_id)
            for node_id, node in self.nodes.items()
        ]

    @classmethod
    def read(cls, row: Record) -> Self:
        """Return the state of a row and its nodes."""
        values = from_row(row, cls.kept_in, cls.references)
        nodes = row.nodes if isinstance(row, ExecutionStateWithNodes) else []
        values["nodes"] = {node.node_id: NodeState.read(node) for node in nodes}
        return cls(**{name: value for name, value in values.items() if name in cls.model_fields})


class LlmExecution(Item):
    """A call of a language model; `metadata` holds the model, its temperature and the like."""

    references = ("id", "session_id")

    id: str = Field(default_factory=_new_id)
    session_id: str
    node_id: str
    success: bool = True
    text: str | None = None
    tool_calls: list[Json] = []
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cost: Decimal | None = None
    error: str | None = None
    metadata: JsonObject = {}


class ToolCall(Item):
    """A tool call that a language model asked for in a call of it; `tool_call_id` is the model's own name for it."""

    kept_in = "arguments"
    references = ("id", "execution_id")

    id: str = Field(default_factory=_new_id)
    execution_id: str
    tool_call_id: str
    tool_name: str
    arguments: JsonObject = {}
    result: Json = None
    error: str | None = None
    duration_ms: int | None = None


class BudgetPool(Item):
    """A sum of money; `remaining_budget` is given by the database."""

    references = ("id", "parent_pool_id")

    id: str = Field(default_factory=_new_id)
    parent_pool_id: str | None = None
    total_budget: Decimal
    used_budget: Decimal = Decimal(0)
    remaining_budget: Decimal | None = None
    status: PoolStatus = "active"
    metadata: JsonObject = {}


class ApprovalRequest(Item):
    """A question to a person that a run waits for, and who decided it when."""

    kept_in = "context"
    references = ("id", "session_id")

    id: str = Field(default_factory=_new_id)
    session_id: str
    node_id: str
    type: ApprovalType
    status: ApprovalStatus = "pending"
    context: JsonObject = {}
    expires_at: Timestamp | None = None
    resolved_at: Timestamp | None = None
    resolved_by: str | None = None
    resolution_notes: str | None = None


class StreamEvent(Item):
    """Something that happened in a stream; `data` may not be None. `sequence` is given by the database."""

    kept_in = "data"
    ordered = False

    id: str = Field(default_factory=_new_id)
    stream_id: str
    node_id: str | None = None
    data: Json = {}
    sequence: int | None = None
