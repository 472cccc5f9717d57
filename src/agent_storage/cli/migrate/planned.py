"""A plan for the terminal; `plan` and `up --dry-run` print it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_storage.migrations.migrator import Migrator
    from agent_storage.migrations.verify.plan import LockTaken, Plan


def plan_up(
    migrator: Migrator, count: int | None = None, to: str | None = None, *, allow_out_of_order: bool = False
) -> Plan:
    """Return the plan of `up` from the files alone. Raises the errors that `up` would raise."""
    from agent_storage.migrations.history.selection import to_apply
    from agent_storage.migrations.verify import plan

    with migrator.session() as session:
        timeline = migrator.runnable(session, allow_out_of_order=allow_out_of_order)
        return plan.without_locks(to_apply(timeline, count, to))


def plan_lines(plan: Plan) -> Iterator[str]:
    """Each statement with the locks it takes, if they were traced."""
    for migration in plan.migrations:
        yield f"{migration.id}" + ("" if migration.transactional else " (without a transaction)")
        for statement in migration.statements:
            text = " ".join(statement.text.split())
            yield f"  {statement.line:>4}  {text if len(text) <= 100 else f'{text[:97]}...'}"
            yield from (f"          {_lock_line(lock)}" for lock in statement.locks)
    if not plan.migrations:
        yield "nothing pending"


def _lock_line(lock: LockTaken) -> str:
    size = "" if lock.rows is None else f" (about {lock.rows} rows, {_size(lock.bytes or 0)})"
    effect = f": {lock.effect}" if lock.effect else ""
    rewrite = ", rewrites the table" if lock.rewrite else ""
    return f"{lock.mode} on {lock.table}{size}{effect}{rewrite}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.0f} TB"
