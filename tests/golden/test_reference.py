"""The written-down reference is that of the code: what is sent, and what describes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from agent_storage.sync.tables import REPOSITORIES

ROOT = Path(__file__).parents[2]


def test_the_statements_and_the_descriptions_are_current() -> None:
    command = [sys.executable, ROOT / "tools" / "reference.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_faces_send_the_statements_of_the_golden_file() -> None:
    golden = (ROOT / "tests" / "golden" / "statements.sql").read_text("utf-8")
    sent = [statement.text for repository in REPOSITORIES.values() for statement in repository.statements().values()]
    assert [text for text in sent if f"\n{text};\n" not in golden] == []
    assert golden.count("\n/* ") == len(sent)
