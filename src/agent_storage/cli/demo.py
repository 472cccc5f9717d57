"""`storage demo`: a real conversation, stored, read back and shown."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_storage.cli.context import AsJson, Db, opened, plain, require_schema, to_json

if TYPE_CHECKING:
    from rich.console import Console

    from agent_storage.sync import Storage
    from agent_storage.types import Conversation, Message, Model, ToolStats, Usage

app = typer.Typer()


@app.command()
def demo(
    file: Annotated[Path | None, typer.Option("--file", help="Another conversation, in the same form.")] = None,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """Store a conversation with a tool call, read it back and show it: transcript, tokens, cost, where the data lies.

    Each run stores another conversation. Examples: `storage demo`, `storage demo --file talk.json`
    """
    talk = _read(file)
    with opened(db) as storage:
        require_schema(storage)
        conversation, model = _store(storage, talk)
        messages = storage.messages.page(conversation.id, limit=1000).items
        usage = storage.conversations.usage(conversation.id)
        tools = storage.tool_results.stats(datetime.now(UTC) - timedelta(days=1))
        if as_json:
            typer.echo(to_json({"conversation": conversation, "messages": messages, "usage": usage, "tools": tools}))
            return
        _show(conversation, model, messages, usage, tools)
        _where(storage, conversation)


def _read(file: Path | None) -> dict[str, Any]:
    import orjson

    source = file or resources.files("agent_storage").joinpath("cli", "conversation.json")
    try:
        talk = orjson.loads(source.read_bytes())
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="--file") from None
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"{file} is not JSON: {error}", param_hint="--file") from None
    if not isinstance(talk, dict) or not {"title", "provider", "model", "tool", "messages"} <= talk.keys():
        raise typer.BadParameter(
            "the file needs title, provider, model, tool and messages; copy examples/conversation.json",
            param_hint="--file",
        )
    return talk  # pyright: ignore[reportUnknownVariableType]


def _store(storage: Storage, talk: dict[str, Any]) -> tuple[Conversation, Model]:
    """Store everything in one transaction, so that an interrupted demo leaves no rows."""
    from agent_storage.types import NewConversation, NewMessage, NewModel, NewProvider, NewToolConfig, ToolCallPart

    with storage.transaction() as tx:
        provider = tx.providers.upsert(NewProvider(**talk["provider"]))
        model = tx.models.upsert(NewModel(provider_id=provider.id, **talk["model"]))
        tool = tx.tool_configs.upsert(NewToolConfig(**talk["tool"]))
        conversation = tx.conversations.create(NewConversation(title=talk["title"], model_id=model.id))
        messages = tx.messages.append_many(
            conversation.id, [NewMessage(conversation_id=conversation.id, **item) for item in talk["messages"]]
        )
        for message in messages:
            for part in message.content if isinstance(message.content, list) else []:
                if isinstance(part, ToolCallPart):
                    call = tx.tool_results.start(
                        conversation.id,
                        part.id,
                        part.name,
                        part.arguments,
                        message_id=message.id,
                        tool_config_id=tool.id,
                    )
                    tx.tool_results.finish(call.id, _answer(messages, call.call_id))
    return storage.conversations.require(conversation.id), model


def _answer(messages: list[Message], call_id: str) -> Any:
    from agent_storage.types import ToolResultPart

    for message in messages:
        for part in message.content if isinstance(message.content, list) else []:
            if isinstance(part, ToolResultPart) and part.tool_call_id == call_id:
                return part.result
    return None


def _show(
    conversation: Conversation, model: Model, messages: list[Message], usage: Usage, tools: list[ToolStats]
) -> None:
    from rich.text import Text

    from agent_storage.cli.show import make_console, transcript

    console = make_console()
    console.rule(Text(plain(conversation.title or "untitled"), style="bold"))
    transcript(console, messages)
    console.rule()
    _totals(console, model, usage, tools)


def _totals(console: Console, model: Model, usage: Usage, tools: list[ToolStats]) -> None:
    console.print(
        f"{usage.messages} messages, {usage.input_tokens:,} tokens in, {usage.output_tokens:,} out, "
        f"cost {usage.cost:.6f} at the prices of {model.name}",
        highlight=False,
    )
    for tool in tools:
        console.print(
            f"tool {tool.tool_name}: {tool.calls} calls, {tool.errors} errors, p95 {tool.p95_ms or 0:.0f} ms (one day)",
            highlight=False,
        )


def _where(storage: Storage, conversation: Conversation) -> None:
    settings = storage.database.settings
    if settings.embedded:
        from agent_storage.embedded import default_data_dir

        typer.echo(f"stored in the embedded PostgreSQL, data in {settings.data_dir or default_data_dir()}")
    else:
        typer.echo("stored in the PostgreSQL that is set")
    typer.echo(f"conversation {conversation.id}")
    typer.echo("next: storage status · storage sql messages · storage check · storage migrate --help")
