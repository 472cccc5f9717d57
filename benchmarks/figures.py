"""Figures, printed as a table or written as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured value: the work, the contender, the value and its unit, and a note."""

    work: str
    by: str
    value: float
    unit: str
    note: str = ""


def number(value: float) -> str:
    """Return three significant digits, with thousands separators."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least value that `share` of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def extent(values: Sequence[float]) -> str:
    """Return the median count and the range of the rounds."""
    return f"median of {len(values)}, {number(min(values))} to {number(max(values))}"


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print a table, a line between one work and the next."""
    table = Table("work", "by", "", "unit", "note", title=title, title_justify="left")
    table.columns[2].justify = "right"
    for place, one in enumerate(figures):
        last = place + 1 == len(figures) or figures[place + 1].work != one.work
        table.add_row(one.work, one.by, number(one.value), one.unit, one.note, end_section=last)
    Console(width=140).print(table)


def save(file: Path, machine: Mapping[str, str], figures: Sequence[Figure]) -> None:
    """Write the figures as JSON."""
    found = {"machine": dict(machine), "figures": [asdict(one) for one in figures]}
    file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
