"""A workflow's record."""

from __future__ import annotations

from agent_storage.statements.records import Input, Json, Jsonb, JsonObject, Key, Record, Version


class NewWorkflow(Input):
    """Fields to create a workflow. Several may have the same name and version."""

    name: Key
    version: Version = "1"
    owner: Key | None = None
    definition: Jsonb[Json]
    metadata: Jsonb[JsonObject] = {}


class Workflow(Record, NewWorkflow):
    """A workflow: what runs follow."""
