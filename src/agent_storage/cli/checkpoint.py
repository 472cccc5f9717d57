"""`storage checkpoint`: the checkpoints of agents, in any of the configured providers."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from agent_storage.cli.context import AsJson, Db, Limit, Owner, errors, group, taught
from agent_storage.cli.show import emit, facts, line, listing, short_ids, when

if TYPE_CHECKING:
    from agent_storage.sync.adapters.checkpoints.providers import ConfiguredProvider
    from agent_storage.types import Checkpoint

#: The variable with the providers by name, as a JSON object, or the name of a file that contains one.
VARIABLE = "STORAGE_CHECKPOINTS"

app = group("checkpoint", "List the checkpoints of agents, show one, copy them to another database.")
Provider = Annotated[
    str | None,
    typer.Option(metavar="NAME", help=f"A provider of {VARIABLE}, or a URL. Default: the default one, else --db."),
]
Agent = Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this agent.")]
Session = Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this session.")]


@app.command("list", epilog=taught("storage checkpoint list", "storage checkpoint list --agent agent-1 -n 5"))
def list_(
    provider: Provider = None,
    agent: Agent = None,
    session: Session = None,
    owner: Owner = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """List the newest checkpoints, without their states."""
    with _opened(provider, db) as opened:
        page = opened.list_checkpoints(agent, session, limit, owner=owner)
    if as_json:
        emit({"checkpoints": page.items, "more": page.more})
    elif not page.items:
        line("no checkpoint matches" if agent or session or owner else "no checkpoints yet")
    else:
        short = short_ids(one.id for one in page)
        columns = {"ID": "", "CAPTURED": "", "BYTES": "right", "AGENT": "", "SESSION": "", "NAME": "wide"}
        rows = [
            (short[one.id], when(one.captured_at), f"{one.size_bytes:,}", one.agent_id, one.session_id, one.name)
            for one in page
        ]
        listing(columns, rows)


@app.command(epilog=taught("storage checkpoint show 019f7a3e", codes=(0, 1, 2, 8, 130)))
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="A checkpoint's id, or its first digits.")],
    provider: Provider = None,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """Show a checkpoint with its state."""
    with _opened(provider, db) as opened:
        found = _resolved(opened, id)
    if as_json:
        emit({"checkpoint": found})
        return
    facts(
        {
            "checkpoint": found.id,
            "agent": found.agent_id,
            "session": found.session_id,
            "type": found.agent_type,
            "name": found.name,
            "owner": found.owner,
            "captured": when(found.captured_at),
            "follows": found.parent_id,
            "size": f"{found.size_bytes:,} bytes",
        }
    )
    line(json.dumps(found.state, indent=2, ensure_ascii=False))


def _resolved(opened: ConfiguredProvider, id: str) -> Checkpoint:
    """Return the checkpoint with an id of which the first digits are given."""
    from agent_storage.errors import AmbiguousId, NotFound
    from agent_storage.statements.ids import prefix_range

    first, last = prefix_range(id)
    page = opened.list_checkpoints(where={"id__gte": first, "id__lte": last}, order_by="id", limit=10)
    if len(page) > 1:
        shown = ", ".join(str(one.id) for one in page)
        raise AmbiguousId(f"{id} fits several checkpoints: {shown}", candidates=[one.id for one in page])
    found = opened.retrieve_checkpoint(str(page.items[0].id)) if page.items else None
    if found is None:
        raise NotFound(f"there is no checkpoint {id}; `storage checkpoint list` shows the newest")
    return found


@app.command(
    epilog=taught(
        "storage checkpoint copy --from main --to sqlite:///agents.db",
        "storage checkpoint copy --from mysql://root@localhost/legacy --to main --agent agent-1",
    )
)
def copy(
    source: Annotated[str, typer.Option("--from", metavar="NAME", help="The provider to copy from, or a URL.")],
    target: Annotated[str, typer.Option("--to", metavar="NAME", help="The provider to copy to, or a URL.")],
    agent: Agent = None,
    session: Session = None,
    owner: Owner = None,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """Copy checkpoints that the target lacks, with their ids and times. Can be repeated.

    The schema of the target is migrated first. A checkpoint that the target has with other fields ends the command.
    """
    from agent_storage.sync.adapters.checkpoints import copy_checkpoints

    with _opened(source, db) as opened, _opened(target, db, migrate=True) as to:
        done = copy_checkpoints(opened, to, agent_id=agent, session_id=session, owner=owner)
    if as_json:
        emit({"copied": done.copied, "present": done.present, "bytes": done.bytes})
    else:
        line(f"copied {done.copied:,} checkpoints, {done.bytes:,} bytes; {done.present:,} were there already")


@contextmanager
def _opened(name: str | None, db: str | None, *, migrate: bool = False) -> Generator[ConfiguredProvider]:
    """Yield a provider: of the configuration, of a URL, or without either the database of the other commands."""
    from agent_storage.errors import InvalidSettings
    from agent_storage.sync.adapters.checkpoints import checkpoint_provider

    with errors():
        configuration = {"main": {"url": db}} | _configuration()
        if name is None:
            default = configuration.get("default", "main")
            name = "main" if db is not None else str(default)
        if name in configuration and name != "default":
            settings = {"url": db} if db is not None and name == "main" else configuration[name]
        elif "://" in name:
            settings = name
        else:
            known = ", ".join(key for key in configuration if key != "default")
            raise InvalidSettings(f"no checkpoint provider {name!r} is configured; known are: {known} ({VARIABLE})")
        provider = checkpoint_provider(settings, name=name if "://" not in name else "of the URL")
        try:
            if migrate:
                provider.initialize()
            yield provider.open()
        finally:
            provider.close()


def _configuration() -> dict[str, Any]:
    from pathlib import Path

    from agent_storage.errors import InvalidSettings

    text = os.environ.get(VARIABLE, "").strip()
    try:
        if text and not text.startswith("{"):
            text = Path(text).read_text("utf-8")
        found: object = json.loads(text or "{}")
    except (OSError, ValueError):
        raise InvalidSettings(f"{VARIABLE} is neither a JSON object nor a file that contains one") from None
    if not isinstance(found, Mapping):
        raise InvalidSettings(f"{VARIABLE} must be a JSON object of providers by name")
    return dict(cast("Mapping[str, Any]", found))
