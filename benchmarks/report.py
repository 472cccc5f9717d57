"""Write the results of a run into a document: `python -m benchmarks.report benchmarks/results docs/performance.md`.

The text between the marker comments of a part is replaced; the rest is not changed. A part is a file of the folder
(`domains` is domains.json).
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


def part(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a part: the machine, and the figures."""
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
    """Yield the table of one work of `benchmarks.compare`, the fastest first."""
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
    """Replace the text between the markers."""
    folder, target = (Path(name) for name in sys.argv[1:3])
    parts = {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))}
    missing: list[str] = []

    def written(match: re.Match[str]) -> str:
        name = match[2]
        if name not in parts:
            missing.append(name)
            return match[0]
        return f"{match[1]}\n" + "\n".join(part(parts[name])) + f"\n\n{match[3]}"

    target.write_text(MARKED.sub(written, target.read_text("utf-8")), "utf-8")
    if missing:
        sys.exit(f"no results of {', '.join(missing)} in {folder}: left as they were")


if __name__ == "__main__":
    main()
