"""`storage conversation`: list conversations, read one."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from agent_storage.cli.context import AsJson, Db, Limit, Owner, group, opened, taught
from agent_storage.cli.show import emit, facts, line, listing, make_console, short_ids, transcript, when

if TYPE_CHECKING:
    from agent_storage.types import Conversation, Model, Usage

app = group("conversation", "List conversations, read one.")


@app.command(
    "list",
    epilog=taught(
        "storage conversation list",
        "storage conversation list -n 5",
        "storage conversation list --archived --owner Ada",
    ),
)
def list_(
    project: Annotated[str | None, typer.Option(metavar="ID", help="Only those of this project.")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="Only archived ones. Default: only the others.")] = False,
    owner: Owner = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """List conversations, the most recently active first."""
    with opened(db) as storage:
        project_id = storage.projects.resolve(project).id if project else None
        found = storage.conversations.recent(limit, project_id=project_id, owner=owner, archived=archived).items
        used = {item.model_id for item in found if item.model_id}
        models = {item.id: item.name for item in storage.models.find({"id__in": list(used)})} if used else {}
    if as_json:
        emit({"conversations": found})
        return
    if not found:
        narrowed = project or owner or archived
        line("no conversation matches" if narrowed else "no conversations yet; `storage seed demo` makes some")
        return
    _table(found, models)


def _table(found: list[Conversation], models: dict[UUID, str]) -> None:
    short = short_ids(item.id for item in found)
    columns = {"ID": "", "LAST ACTIVE": "", "MSGS": "right", "MODEL": "", "TITLE": "wide"}
    listing(
        columns,
        [
            (short[i.id], when(i.last_message_at), i.message_count, _model(i, models), i.title or "untitled")
            for i in found
        ],
    )


def _model(conversation: Conversation, models: dict[UUID, str]) -> str:
    return models.get(conversation.model_id, "") if conversation.model_id else ""


@app.command(epilog=taught("storage conversation show 019f7a3e", "storage conversation show 019f7a3e -n 10"))
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="A conversation's id, or its first digits.")],
    limit: Limit = 50,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """Show a conversation, its last messages, tokens and cost."""
    with opened(db) as storage:
        conversation = storage.conversations.resolve(id)
        messages = sorted(storage.messages.latest(conversation.id, limit), key=lambda message: message.position)
        usage = storage.conversations.usage(conversation.id)
        model = storage.models.get(conversation.model_id) if conversation.model_id else None
    if as_json:
        emit({"conversation": conversation, "messages": messages, "usage": usage})
        return
    _facts(conversation, model, usage)
    if len(messages) < usage.messages:
        line(f"… {usage.messages - len(messages)} earlier messages (--limit shows more)", "dim")
    console = make_console()
    console.rule()
    transcript(console, messages)


def _facts(conversation: Conversation, model: Model | None, usage: Usage) -> None:
    origin = conversation.forked_from_id
    facts(
        {
            "conversation": conversation.id,
            "title": conversation.title or "untitled",
            "forked from": f"{origin}, at position {conversation.forked_at_position}" if origin else None,
            "owner": conversation.owner,
            "model": model.name if model else None,
            "last active": when(conversation.last_message_at),
            "archived": when(conversation.archived_at),
            "used": f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out, cost {usage.cost:.6f}",
        }
    )
