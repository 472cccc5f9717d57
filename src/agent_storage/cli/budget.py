"""`storage budget`: budget pools as trees."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from agent_storage.cli.context import AsJson, Db, Limit, group, opened, taught
from agent_storage.cli.show import branches, cell, emit, line, listing, short_ids, state
from agent_storage.types import PoolStatus

if TYPE_CHECKING:
    from rich.text import Text

    from agent_storage.types import BudgetPool

app = group("budget", "Show budgets as a tree: used, total, left.")
_BAR = 10


@app.command(
    epilog=taught("storage budget tree", "storage budget tree 019f7a3e", "storage budget tree --status exhausted")
)
def tree(
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="A pool; default: the newest roots.")] = None,
    status: Annotated[PoolStatus | None, typer.Option(help="Only roots of this status.")] = None,
    limit: Limit = 10,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """Show pools and the pools below them: used, held by reservations, total, left."""
    from agent_storage.cli.queries import PoolForest

    where: dict[str, object] = {"parent_pool_id": None, **({"status": status} if status else {})}
    with opened(db) as storage:
        pools = storage.budget_pools
        roots = [pools.resolve(id)] if id else list(pools.find(where, "-id", limit))
        found = PoolForest(storage.database).with_descendants([root.id for root in roots])
    if as_json:
        emit({"pools": found})
    elif not roots:
        line("no budget pool matches" if status else "no budget pools yet; `storage seed demo` makes some")
    else:
        _show(roots, found)


def _show(roots: list[BudgetPool], found: list[BudgetPool]) -> None:
    below: defaultdict[UUID, list[BudgetPool]] = defaultdict(list)
    for pool in found:
        if pool.parent_pool_id is not None:
            below[pool.parent_pool_id].append(pool)
    short = short_ids(pool.id for pool in found)
    rows = [
        (
            short[pool.id],
            cell(None).append(lead).append(cell(pool.metadata.get("name") or "unnamed")),
            f"{pool.used_budget:,.2f}",
            f"{pool.reserved_budget:,.2f}",
            f"{pool.total_budget:,.2f}",
            f"{pool.remaining_budget:,.2f}",
            _bar(pool),
            state(pool.status),
        )
        for lead, pool in branches(roots, below)
    ]
    columns = {
        "ID": "",
        "POOL": "wide",
        "USED": "right",
        "HELD": "right",
        "TOTAL": "right",
        "LEFT": "right",
        "": "",
        "STATUS": "",
    }
    listing(columns, rows)


def _bar(pool: BudgetPool) -> Text:
    share = 1 - pool.remaining_budget / pool.total_budget if pool.total_budget else Decimal(1)
    full = min(_BAR, int(share * _BAR + Decimal("0.5")))
    style = "red" if share >= Decimal("0.9") else "yellow" if share >= Decimal("0.6") else "green"
    return cell("█" * full, style).append("░" * (_BAR - full), style="dim")
