"""Write the tables of `benchmarks.compare` into a document: `python -m benchmarks.report FIGURES.json DOCUMENT.md`.

What stands between the two marker comments is replaced; the rest is left as people wrote it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .figures import number

BEGIN, END = "<!-- written by benchmarks.report -->", "<!-- end of what benchmarks.report wrote -->"
OURS = "agent-storage"


def tables(document: dict[str, Any]) -> Iterator[str]:
    """The lines: machine, goals, then each work with the fastest first."""
    yield " · ".join(f"{name} {value}" for name, value in document["machine"].items())
    yield ""
    yield "### Goals"
    yield ""
    yield "| work | goal | wanted | reached | |"
    yield "|---|---|--:|--:|---|"
    for one in document["goals"]:
        met = "met" if one["met"] else "**not met**"
        yield f"| {one['work']} | {one['goal']} | {one['wanted']:.2f} | {one['reached']:.2f} | {met} |"
    for key in dict.fromkeys(one["work"] for one in document["results"]):
        yield from work([one for one in document["results"] if one["work"] == key])


def work(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One work's table."""
    extra = [
        (name, title)
        for name, title in (("peak_mb", "peak MB"), ("p99_ms", "p99 ms"))
        if any(one[name] for one in results)
    ]
    yield ""
    yield f"### {results[0]['work']}: {results[0]['title']}"
    yield ""
    yield "| by | µs | least to most | CPU | ratio |" + "".join(f" {title} |" for _, title in extra)
    yield "|---|--:|---|--:|--:|" + "--:|" * len(extra)
    for one in sorted(results, key=lambda one: one["median"]):
        name = f"**{one['by']}**" if one["by"].startswith(OURS) else one["by"]
        cells = [name, number(one["median"]), f"{number(one['least'])} to {number(one['most'])}"]
        cells += ["–" if one["cpu"] is None else number(one["cpu"])]
        cells += ["–" if one["ratio"] is None else f"{one['ratio']:.2f}"]
        cells += ["–" if one[field] is None else number(one[field]) for field, _ in extra]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Replace what stands between the markers."""
    source, target = (Path(name) for name in sys.argv[1:3])
    text = target.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = "\n".join(tables(json.loads(source.read_text("utf-8"))))
    target.write_text(f"{before}{BEGIN}\n\n{lines}\n\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
