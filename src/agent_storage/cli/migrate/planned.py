"""The plan that `up --dry-run` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from agent_storage.cli.migrate.terminal import shadowing

if TYPE_CHECKING:
    from agent_storage.migrations.migrator import Migrator
    from agent_storage.migrations.verify.plan import LockTaken, Plan


def plan_up(
    migrator: Migrator,
    count: int | None = None,
    to: str | None = None,
    *,
    allow_out_of_order: bool = False,
    locks: bool = False,
    shadow_url: str | None = None,
) -> Plan:
    """Return what `up` would run. Raises what `up` would raise before it starts.

    With `locks`, the statements run in a shadow database, which shows the locks and rewrites of each.
    """
    from agent_storage.migrations.history.selection import to_apply
    from agent_storage.migrations.verify import plan
    from agent_storage.migrations.verify.catalogs import as_applied
    from agent_storage.migrations.verify.shadow import open_shadow

    with migrator.session() as session:
        tracking = migrator.tracking(session)
        timelines = migrator.runnable(session, tracking, allow_out_of_order=allow_out_of_order)
        chosen = to_apply(timelines, count, to)
        if not locks:
            return plan.without_locks(chosen)
        with (
            shadowing(migrator, shadow_url) as server,
            server.database() as conninfo,
            open_shadow(conninfo) as shadow,
        ):
            return plan.with_locks(shadow, session.connection, as_applied(tracking, timelines), chosen)


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield each statement with the locks it takes, if they were traced."""
    for migration in plan.migrations:
        yield f"{migration.name}" + ("" if migration.transactional else " (without a transaction)")
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
