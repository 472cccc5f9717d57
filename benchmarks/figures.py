"""Figures and how they are shown: a table for people, JSON for programs."""

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
    """One number: what was done, by what, how much of what unit; `note` says what else has to be known."""

    work: str
    by: str
    value: float
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Goal:
    """What was meant to be reached, and what was."""

    work: str
    goal: str
    wanted: float
    reached: float
    met: bool

    @classmethod
    def least(cls, work: str, goal: str, wanted: float, reached: float) -> Goal:
        """More is better."""
        return cls(work, f"{goal}, at least", wanted, reached, reached >= wanted)

    @classmethod
    def most(cls, work: str, goal: str, wanted: float, reached: float) -> Goal:
        """Less is better."""
        return cls(work, f"{goal}, at most", wanted, reached, reached <= wanted)


def number(value: float) -> str:
    """Three digits that matter, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that `share` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def extent(values: Sequence[float]) -> str:
    """How far the rounds were apart."""
    return f"median of {len(values)}, {number(min(values))} to {number(max(values))}"


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print a table, a line between one work and the next."""
    table = Table("work", "by", "", "unit", "note", title=title, title_justify="left")
    table.columns[2].justify = "right"
    for place, one in enumerate(figures):
        last = place + 1 == len(figures) or figures[place + 1].work != one.work
        table.add_row(one.work, one.by, number(one.value), one.unit, one.note, end_section=last)
    Console(width=140).print(table)


def save(file: Path, machine: Mapping[str, str], figures: Sequence[Figure], goals: Sequence[Goal] = ()) -> None:
    """Write it all as JSON."""
    found = {
        "machine": dict(machine),
        "figures": [asdict(one) for one in figures],
        "goals": [asdict(one) for one in goals],
    }
    file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
