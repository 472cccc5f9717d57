"""Copy checkpoints from one provider to another, with their ids and times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from agent_storage.adapters.checkpoints.listing import Copied
from agent_storage.adapters.checkpoints.provider import CheckpointProvider
from agent_storage.errors import AlreadyExists, MissingReference
from agent_storage.tables.checkpoints.checkpoints.record import Checkpoint, CheckpointSummary, NewCheckpoint

#: The most checkpoints, and bytes, that are stored at once.
_ROWS, _BYTES = 100, 8 * 1024 * 1024


async def copy_checkpoints(
    source: CheckpointProvider,
    target: CheckpointProvider,
    *,
    agent_id: str | None = None,
    session_id: str | None = None,
    owner: str | None = None,
) -> Copied:
    """Copy checkpoints that the target lacks, the oldest first, each with its id and times. Can be repeated.

    Checkpoints that they follow are copied, too. Interrupted, it goes on the next time. Raises `AlreadyExists` for a
    checkpoint that the target has with other fields.
    """
    copied, cursor = Copied(0, 0, 0), None
    while True:
        page = await source.list_checkpoints(
            agent_id, session_id, _ROWS, owner=owner, order_by="captured_at", cursor=cursor
        )
        lacking = await _lacking(page.items, target)
        copied = copied.plus(0, len(page) - len(lacking), 0)
        for batch in _batches(lacking):
            found = [await source.retrieve_checkpoint(str(one.id)) for one in batch]
            rows = [row for row in found if row is not None]  # one may have been deleted meanwhile
            rows += await _store(source, target, rows)
            copied = copied.plus(len(rows), 0, sum(row.size_bytes for row in rows))
        cursor = page.next_cursor
        if cursor is None:
            return copied


async def _lacking(page: Sequence[CheckpointSummary], target: CheckpointProvider) -> list[CheckpointSummary]:
    """The checkpoints that the target does not have. Raises `AlreadyExists` for one that differs there."""
    if not page:
        return []
    present = {
        one.id: one for one in await target.list_checkpoints(where={"id__in": [one.id for one in page]}, limit=_ROWS)
    }
    for one in page:
        if one.id in present and _compared(one) != _compared(present[one.id]):
            raise AlreadyExists(
                f"checkpoints: row {one.id} differs in the target; delete it there, or copy without it",
                table="checkpoints",
            )
    return [one for one in page if one.id not in present]


def _compared(one: CheckpointSummary) -> dict[str, Any]:
    # The size depends on the database, parent_id on deletions since.
    return one.model_dump(exclude={"size_bytes", "updated_at", "parent_id"})


def _batches(rows: Sequence[CheckpointSummary]) -> list[list[CheckpointSummary]]:
    batches: list[list[CheckpointSummary]] = []
    size = _BYTES
    for row in rows:
        if size + row.size_bytes > _BYTES:
            batches.append([])
            size = 0
        batches[-1].append(row)
        size += row.size_bytes
    return batches


def _new(row: Checkpoint) -> NewCheckpoint:
    return NewCheckpoint.model_construct(None, **row.model_dump(exclude={"size_bytes"}))


async def _store(
    source: CheckpointProvider, target: CheckpointProvider, rows: Sequence[Checkpoint]
) -> list[Checkpoint]:
    """Store them, after checkpoints that they follow and that the target lacks: those may be captured later.

    Return these.
    """
    try:
        await target.store_checkpoints([_new(row) for row in rows])
        return []
    except MissingReference:
        given = {row.id for row in rows}
        line = [row.id for row in reversed(rows)]
    further: list[Checkpoint] = []
    waited_for: set[UUID] = set()
    while line:
        row = await source.retrieve_checkpoint(str(line[-1]))
        try:
            if row is not None:
                await target.store_checkpoint(_new(row))
        except MissingReference:
            # A parent twice in one line: raw SQL made a circle, or a reference to nothing.
            if row is None or row.parent_id is None or row.parent_id in waited_for:
                raise
            waited_for.add(row.parent_id)
            line.append(row.parent_id)
            continue
        if row is not None and row.id not in given:
            further.append(row)
        line.pop()
    return further
