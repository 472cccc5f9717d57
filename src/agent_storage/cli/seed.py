"""`storage seed`: demo data."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer

from agent_storage.cli.context import AsJson, Db, errors, group, opened, require_schema, taught
from agent_storage.cli.show import emit, line, listing

app = group("seed", "Fill every table with realistic demo data.")


@app.command(epilog=taught("storage seed demo", "storage seed demo --scale 100 --seed 7"))
def demo(
    scale: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="About 2,000 rows times N.")] = 1,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="The same number gives the same data.")] = 1,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The day on which the two weeks of data end.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """Fill every shipped table with realistic, linked rows: teams, tickets, conversations, agents, workflows, budgets.

    All rows are written in one transaction. An interrupted run leaves nothing.
    """
    from agent_storage.demo import ANCHOR, seed_demo
    from agent_storage.errors import InvalidSettings
    from agent_storage.sources import configured

    with errors():
        if not any(source.shipped for source in configured().sources):
            raise InvalidSettings("demo data is for the shipped tables, which `include` of pyproject.toml leaves out")
    begun = time.perf_counter()
    with opened(db) as storage, _bar(scale) as progress:
        require_schema(storage)
        end = until.replace(tzinfo=UTC) if until else ANCHOR
        counts = seed_demo(storage, scale, seed, progress, until=end)
    if as_json:
        emit({"seed": seed, "scale": scale, "rows": sum(counts.values()), "tables": counts})
    else:
        _report(counts, time.perf_counter() - begun)


def _report(counts: dict[str, int], seconds: float) -> None:
    from agent_storage.tables import REPOSITORIES

    listing(
        {"TABLE": "", "ROWS": "right", "": "wide"},
        [(name, f"{counts[name]:,}", "") for name in REPOSITORIES if name in counts],
    )
    line(f"{sum(counts.values()):,} rows in {len(counts)} tables, {seconds:.1f} s")
    line("next: storage tables · storage session tree · storage approval list")


@contextmanager
def _bar(scale: int) -> Generator[Callable[[int, int], None] | None]:
    """A progress bar on stderr, when that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("seeding", total=scale)
        yield lambda done, total: bar.update(task, completed=done, total=total)
