"""Print tables, trees, short ids and states to a terminal. Control sequences in stored text are not executed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent_storage.cli.context import end_quietly, plain, to_json

if TYPE_CHECKING:
    from agent_storage.types import Message

T = TypeVar("T")

_ROLES = {"system": "magenta", "user": "cyan", "assistant": "green", "tool": "yellow"}
_STATES = {
    **dict.fromkeys(("completed", "approved", "active", "success"), "green"),
    **dict.fromkeys(("failed", "rejected", "exhausted", "error", "timeout"), "red"),
    **dict.fromkeys(("running", "in_progress"), "cyan"),
    **dict.fromkeys(("idle", "created", "skipped", "expired", "cancelled"), "dim"),
}


class _Console(Console):
    """A console for which a reader that goes away (`storage session list | head`) is no error."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print. End quietly when the reader is gone."""
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            end_quietly()

    def on_broken_pipe(self) -> None:
        """End quietly. Newer releases of rich call this."""
        end_quietly()


def make_console() -> Console:
    """Return a console on stdout that does not highlight values."""
    if reconfigure := getattr(
        sys.stdout, "reconfigure", None
    ):  # a character that the encoding lacks becomes a question mark
        reconfigure(errors="replace")
    return _Console(highlight=False, emoji=False)


def emit(value: Any) -> None:
    """Print a value as JSON, which is UTF-8 whatever the terminal's encoding."""
    try:
        typer.echo(to_json(value).encode())
    except BrokenPipeError:
        end_quietly()


def line(text: str, style: str = "") -> None:
    """Print a sentence, folded at the terminal's width."""
    make_console().print(Text(plain(text), style=style))


def cell(value: object, style: str = "") -> Text:
    """Return a value on one line; None is an empty text."""
    text = "" if value is None else plain(str(value))
    return Text(" ".join(text.split()), style=style)


def state(status: str) -> Text:
    """Return a status in its colour, in as few words as possible."""
    words = status.replace("waiting_for_", "waits: ").replace("_", " ")
    return Text(words, style=_STATES.get(status, "yellow"))


def when(moment: datetime | None) -> str:
    """Return a moment in the local time zone, to the minute; one of another year without its time."""
    if moment is None:
        return ""
    local = moment.astimezone()
    return f"{local:%d %b %H:%M}" if local.year == datetime.now().astimezone().year else f"{local:%d %b %Y}"


def short_ids(ids: Iterable[UUID | None]) -> dict[UUID, str]:
    """Return the shortest prefix of each id, of at least 8 digits, that none of the others shares."""
    from agent_storage.statements.ids import shortest_prefix

    known = sorted({item for item in ids if item is not None})
    around = [None, *known, None]
    return {item: shortest_prefix(item, around[at], around[at + 2]) for at, item in enumerate(known)}


def listing(columns: Mapping[str, str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table.

    A column is `wide` (cut where the terminal ends), `fold` (folded there), `right` (numbers) or `""`.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left", title_style="bold")
    for name, kind in columns.items():
        flexible = kind in ("wide", "fold")
        justify = "right" if kind == "right" else "left"
        table.add_column(name, justify=justify, no_wrap=not flexible, overflow="ellipsis", header_style="dim")
    kinds = list(columns.values())
    for row in rows:
        table.add_row(*(_fitted(item, kind) for item, kind in zip(row, kinds, strict=True)))
    make_console().print(table)


def _fitted(item: object, kind: str) -> Text:
    text = item if isinstance(item, Text) else cell(item)
    text.no_wrap = kind != "fold"
    return text


def facts(pairs: Mapping[str, object]) -> None:
    """Print names and values below each other, without those that are None or empty."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        if value not in (None, "", []):
            grid.add_row(name, value if isinstance(value, Text) else Text(plain(str(value))))
    make_console().print(grid)


def branches(roots: Sequence[T], below: Mapping[Any, Sequence[T]], key: str = "id") -> Iterator[tuple[str, T]]:
    """Yield every node of some trees with the lines that lead to it, parents first. `below` holds children by id."""
    stack: list[tuple[str, str, T]] = [("", "", root) for root in reversed(roots)]
    while stack:
        lead, own, node = stack.pop()
        yield lead + own, node
        inner = lead + {"": "", "├─ ": "│  ", "└─ ": "   "}[own]
        children = below.get(getattr(node, key), ())
        marks = ["├─ "] * (len(children) - 1) + ["└─ "]
        stack += [(inner, mark, child) for mark, child in reversed(list(zip(marks, children, strict=False)))]


def transcript(console: Console, messages: Iterable[Message]) -> None:
    """Print messages with their positions and roles."""
    for message in messages:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=13, no_wrap=True)
        grid.add_column(overflow="fold")
        head = Text(f"{message.position:>3} {message.role:<9} ", style=_ROLES[message.role])
        grid.add_row(head, Text(plain(_words(message))))
        console.print(grid)


def _words(message: Message) -> str:
    """A message's content as a person reads it."""
    if isinstance(message.content, str):
        return message.content
    lines: list[str] = []
    for part in message.content:
        fields = part.model_dump()
        match part.type:
            case "text":
                lines.append(fields["text"])
            case "tool_call":
                lines.append(f"→ {fields['name']}({fields['arguments']})")
            case "tool_result":
                lines.append(f"← {fields['result']}")
            case kind:
                lines.append(f"[{kind}]")
    return "\n".join(lines)
