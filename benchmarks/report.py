"""Write the results of a run into a document: `python -m benchmarks.report benchmarks/results docs/performance.md`.

What stands between the marker comments of a part is replaced; the rest is left as people wrote it. A part is a file of
the folder (`domains` is domains.json), and `goals` are those of all of them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .figures import number

MARKED = re.compile(r"(<!-- benchmarks: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
OURS = "agent-storage"


def goals(parts: Mapping[str, Any]) -> Iterator[str]:
    """A line for each goal of all parts."""
    found = [one for part in parts.values() for one in part.get("goals", ())]
    yield f"{sum(one['met'] for one in found)} of {len(found)} are met."
    yield ""
    yield "| work | goal | wanted | reached | |"
    yield "|---|---|--:|--:|---|"
    for one in sorted(found, key=lambda one: _in_order(one["work"])):
        met = "met" if one["met"] else "**not met**"
        yield f"| {one['work']} | {one['goal']} | {one['wanted']:.2f} | {one['reached']:.2f} | {met} |"


def _in_order(work: str) -> tuple[int, str]:
    """W9 before W10, and what has no number last."""
    found = re.match(r"W(\d+)", work)
    return (int(found[1]) if found else 99, work)


def part(document: Mapping[str, Any]) -> Iterator[str]:
    """The machine, and the figures."""
    yield " · ".join(f"{name} {value}" for name, value in document["machine"].items())
    if "results" in document:
        for key in dict.fromkeys(one["work"] for one in document["results"]):
            yield from compared([one for one in document["results"] if one["work"] == key])
        return
    yield ""
    yield "| work | by | | | |"
    yield "|---|---|--:|---|---|"
    for one in document["figures"]:
        name = f"**{one['by']}**" if one["by"].startswith(OURS) else one["by"]
        yield f"| {one['work']} | {name} | {number(one['value'])} | {one['unit']} | {one['note']} |"


def compared(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One work of `benchmarks.compare`, the fastest first."""
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
    folder, target = (Path(name) for name in sys.argv[1:3])
    parts = {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))}
    missing: list[str] = []

    def written(match: re.Match[str]) -> str:
        name = match[2]
        if name != "goals" and name not in parts:
            missing.append(name)
            return match[0]
        lines = goals(parts) if name == "goals" else part(parts[name])
        return f"{match[1]}\n" + "\n".join(lines) + f"\n\n{match[3]}"

    target.write_text(MARKED.sub(written, target.read_text("utf-8")), "utf-8")
    if missing:
        sys.exit(f"no results of {', '.join(missing)} in {folder}: left as they were")


if __name__ == "__main__":
    main()
