"""`storage migrate`: the migration manager in a terminal. The commands stand in the modules beside, by subject."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="migrate",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""
Change the schema of the database with plain SQL files, and inspect its state.

A first migration: `storage migrate new add_orders_note`, write the two files, `storage migrate up`.

Exit codes: 0 done or nothing to do, 1 SQL failed, 2 usage or configuration, 3 pending, 4 drift, 5 history problem,
6 lock not obtained, 7 lint or test finding, 8 unreachable or no privilege, 130 interrupted.
""",
)

# Each module adds its commands to `app`, in the order in which --help lists them.
from agent_storage.cli.migrate import run, inspect, amend  # noqa: E402, I001

__all__ = ["amend", "app", "inspect", "run"]
