"""The rows that all teams share: providers, their models, and tools."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from agent_storage.demo.unit import SPAN, Known, Unit, label
from agent_storage.types import NewModel, NewProvider, NewToolConfig


class Offer(NamedTuple):
    """A provider and its models: name, title, context window, prices in and out per million tokens."""

    name: str
    kind: str
    base_url: str
    models: tuple[tuple[str, str, int, int, int], ...]


PROVIDERS = (
    Offer(
        "Anthropic",
        "anthropic",
        "https://api.anthropic.com",
        (
            ("claude-large", "Claude Large", 200_000, 15, 75),
            ("claude-medium", "Claude Medium", 200_000, 3, 15),
            ("claude-small", "Claude Small", 200_000, 1, 5),
        ),
    ),
    Offer(
        "OpenAI",
        "openai",
        "https://api.openai.com/v1",
        (("gpt-main", "GPT Main", 128_000, 5, 15), ("gpt-mini", "GPT Mini", 128_000, 1, 2)),
    ),
    Offer(
        "Local GPU",
        "openai",
        "http://gpu-01.internal:8000/v1",
        (("qwen-coder", "Qwen Coder", 32_768, 0, 0), ("llama-chat", "Llama Chat", 131_072, 0, 0)),
    ),
)

#: Tools: name, transport, command or address, and what they take.
_TOOLS = (
    ("logs.search", "stdio", "logs-mcp", ("query", "since")),
    ("code.search", "stdio", "ripgrep-mcp", ("pattern", "path")),
    ("db.query", "stdio", "postgres-mcp", ("sql",)),
    ("ci.status", "http", "https://ci.internal/mcp", ("branch",)),
    ("docs.search", "sse", "https://wiki.internal/mcp/sse", ("query",)),
    ("shell.run", "stdio", "shell-mcp", ("command",)),
)


def make(seed: int, until: datetime) -> tuple[Unit, Known]:
    """Return the shared rows, and those of them that the teams refer to."""
    known = Known()
    unit = Unit(seed, -1, until, known)
    at = until - SPAN - timedelta(days=1)
    for offer in PROVIDERS:
        at = _provider(unit, offer, at)
    for name, transport, reached, takes in _TOOLS:
        at = unit.later(at, 30, 300)
        known.tools[name] = unit.add(
            "tool_configs",
            NewToolConfig,
            at,
            name=label(name, seed),
            transport=transport,
            command=reached if transport == "stdio" else None,
            url=None if transport == "stdio" else reached,
            input_schema={
                "type": "object",
                "required": [takes[0]],
                "properties": {item: {"type": "string"} for item in takes},
            },
        )
    return unit, known


def _provider(unit: Unit, offer: Offer, at: datetime) -> datetime:
    at = unit.later(at, 60, 600)
    provider = unit.add(
        "providers", NewProvider, at, name=label(offer.name, unit.seed), kind=offer.kind, base_url=offer.base_url
    )
    for name, title, window, price_in, price_out in offer.models:
        at = unit.later(at, 5, 60)
        model = unit.add(
            "models",
            NewModel,
            at,
            provider_id=provider,
            name=name,
            display_name=title,
            context_window=window,
            input_price=Decimal(price_in),
            output_price=Decimal(price_out),
            capabilities={"tools": True, "vision": price_in > 1},
        )
        unit.known.models.append((model, name, price_in, price_out))
    return at
