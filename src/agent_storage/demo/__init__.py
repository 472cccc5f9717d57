"""Demo data: every table filled with linked rows that a person would believe, the same for the same seed number."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agent_storage.demo import agents, catalogue, chat, projects, runs
from agent_storage.demo.unit import Unit, label
from agent_storage.demo.writer import ORDER, analyze, write
from agent_storage.errors import Conflict, InvalidValue

if TYPE_CHECKING:
    from agent_storage.sync import Storage

#: When the data ends unless told otherwise: a fixed day, so that a seed number names the same data for ever.
ANCHOR = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)
#: The largest scale: about twenty million rows.
LARGEST = 10_000


def seed_demo(
    storage: Storage,
    scale: int = 1,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
    *,
    until: datetime = ANCHOR,
) -> dict[str, int]:
    """Fill every table with about 2,000 rows times `scale`, in one transaction. Return the number of rows by table.

    The rows lie in the two weeks before `until`. The same arguments give the same rows, ids included, and a larger
    scale begins with the rows of a smaller one. `progress` is told how many parts of how many are written. Raises
    `Conflict` when this seed is there already, before anything is written.
    """
    if not 1 <= scale <= LARGEST:
        raise InvalidValue(f"scale must lie between 1 and {LARGEST:,}")
    counts = dict.fromkeys(ORDER, 0)
    with storage.transaction() as tx:
        if tx.providers.count({"name": label(catalogue.PROVIDERS[0].name, seed)}):
            raise Conflict(f"seed {seed} is already there; choose another --seed")
        shared, known = catalogue.make(seed, until)
        write(tx, shared, counts)
        for number in range(scale):
            unit = Unit(seed, number, until, known)
            projects.add(unit)
            chat.add(unit)
            agents.add(unit)
            runs.add(unit)
            write(tx, unit, counts)
            if progress is not None:
                progress(number + 1, scale)
        analyze(tx)
    return counts


__all__ = ["ANCHOR", "LARGEST", "seed_demo"]
