"""tools/prose.py: the patterns that it finds, and the text that it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def prose(path: Path, text: str) -> list[str]:
    path.write_text(text, encoding="utf-8")
    command = [sys.executable, str(ROOT / "tools" / "prose.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1 if done.stdout else 0, "")
    return [line.partition(":")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"""Who waits, polls."""\n', "1: Who"),
        ('"""Return it.\n\nWhat is left over stays.\n"""\n', "3: What"),
        ("# The row stands there.\n", "1: stands"),
        ("x = 1\n# A process\n# of its own.\n", "3: of its own"),
        ('raise ValueError(f"{1} is behind the last one")\n', "1: behind"),
        ("# Written\n# anew by the ledger.\n", "2: anew"),
    ],
)
def test_a_pattern_is_reported_with_its_line(tmp_path: Path, text: str, found: str) -> None:
    assert prose(tmp_path / "text.py", text)[0].startswith(f"{found}: ")


@pytest.mark.parametrize(
    "text",
    [
        '"""Return `ledger` and books_of(anew), behind a transaction pooler."""\n',
        "ledger = behind = books = 1\n",
        'query = "SELECT who FROM ledger WHERE anew"\n',
        "# Nobody reads this. prose: ok\n",
        '"""Print to standard output; use a standby."""\n',
    ],
)
def test_code_identifiers_and_permitted_lines_are_not_reported(tmp_path: Path, text: str) -> None:
    assert prose(tmp_path / "text.py", text) == []


def test_code_blocks_and_figures_of_markdown_are_not_reported(tmp_path: Path) -> None:
    text = "Text.\n\n```\nWho stands behind\n```\n\n    nobody\n\n| stands | 1 | 2 |\n\n- Whoever asks\n"
    assert [line.partition(": ")[0] for line in prose(tmp_path / "text.md", text)] == ["11", "11"]
