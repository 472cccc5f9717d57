"""A picture of `benchmarks.compare`: `python -m benchmarks.chart FIGURES.json PICTURE.svg` (or .png).

A panel for each work: how long a call takes, the shortest bar is the fastest, ours are dark.
"""

# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# What draws need not be installed.

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .figures import number

OURS, OTHERS, INK = "#1b5e8c", "#b8c4cc", "#444444"
COLUMNS = 2


def draw(document: dict[str, Any], target: Path) -> None:
    """Write the picture; the same figures give the same file."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "agent-storage", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    works = list(dict.fromkeys(one["work"] for one in document["results"]))
    rows = -(-len(works) // COLUMNS)
    figure, panels = plt.subplots(rows, COLUMNS, figsize=(13, 4.4 * rows), squeeze=False)
    for panel in panels.flat[len(works) :]:
        panel.set_visible(False)
    for panel, work in zip(panels.flat, works, strict=False):
        found = sorted((one for one in document["results"] if one["work"] == work), key=lambda one: -one["median"])
        names = [one["by"] for one in found]
        values = [one["median"] for one in found]
        colours = [OURS if name.startswith("agent-storage") else OTHERS for name in names]
        bars = panel.barh(names, values, color=colours)
        panel.bar_label(bars, [number(value) for value in values], padding=3, fontsize=7, color=INK)
        panel.set_title(f"{work}: {found[0]['title']} (µs)", fontsize=9, loc="left", color=INK)
        panel.tick_params(labelsize=7, colors=INK)
        panel.set_xlim(0, 1.12 * max(values))
        panel.xaxis.set_visible(False)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
    about = document["machine"]
    figure.suptitle(f"agent-storage and its peers, {about['date']}, PostgreSQL {about['postgresql']}", color=INK)
    figure.tight_layout(rect=(0, 0, 1, 0.985))
    figure.savefig(target, facecolor="white", metadata={"Date": None} if target.suffix == ".svg" else None)


def main() -> None:
    """Draw what the command line names."""
    source, target = (Path(name) for name in sys.argv[1:3])
    draw(json.loads(source.read_text("utf-8")), target)


if __name__ == "__main__":
    main()
