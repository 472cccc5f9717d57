"""`storage migrate`: the migration manager in a terminal. Each module holds the commands of one panel of --help."""

from __future__ import annotations

import typer

from agent_storage.cli.context import AsJson, Db, Group, taught
from agent_storage.cli.migrate.terminal import Folder, Quiet

app = typer.Typer(
    name="migrate",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    help="Change the database's schema with plain SQL files, and show its state.",
    epilog=taught(
        "storage migrate new add_orders_note",
        "storage migrate up --dry-run --locks",
        "storage migrate up",
        "storage migrate check",
        codes=(0, 1, 2, 3, 4, 5, 6, 7, 8, 130),
    ),
)


@app.callback()
def _options(folder: Folder = None, quiet: Quiet = False, as_json: AsJson = False, db: Db = None) -> None:
    """The common options. The commands read them from the context."""


# Each module adds its commands to `app`, in the order in which --help lists them.
from agent_storage.cli.migrate import everyday, checks, repairs  # noqa: E402, I001

__all__ = ["app", "checks", "everyday", "repairs"]
