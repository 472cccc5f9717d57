"""Say what a rollback would lose, and ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_storage.cli.migrate.terminal import Terminal
    from agent_storage.migrations.commands.losses import Losses
    from agent_storage.migrations.files.file import MigrationKey
    from agent_storage.migrations.migrator import Migrator


def confirm_losses(
    shown: Terminal,
    migrator: Migrator,
    count: int,
    to: str | None = None,
    *,
    everything: bool = False,
    yes: bool,
) -> Sequence[MigrationKey] | None:
    """Ask before rolling back these migrations of the own source. Return them, or None with `yes`, which asks nothing.

    Without a terminal it raises `InvalidRequest`.
    """
    from agent_storage.migrations.commands.losses import losses
    from agent_storage.migrations.history.selection import last_applied

    if yes:
        return None
    found = losses(migrator, lambda timelines: last_applied(timelines, count, to, everything=everything))
    if found.keys:
        ask(shown, found)
    return found.keys


def ask(shown: Terminal, found: Losses) -> None:
    """Print what is lost, and ask."""
    shown.note("this loses:" if found.lines else "this loses no table, column or row")
    for line in found.lines:
        shown.note(f"  {line}")
    shown.confirm(f"roll back {', '.join(found.names)}?", yes=False)
