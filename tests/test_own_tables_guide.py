"""docs/your-own-tables.md: its blocks are run in their order, in a product that they make from nothing.

A block whose first line is a comment with a path is that file. `sh` is run line by line, `text` is a part of what the
commands before it printed, other `python` is a script.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .products import ENVIRONMENT, ROOT

GUIDE = (ROOT / "docs" / "your-own-tables.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
FILE = re.compile(r"(?:#|--) ([\w./-]+\.(?:py|sql|toml))\n")


def test_every_block_of_the_guide_runs_in_its_order(tmp_path: Path, database: str) -> None:
    pytest.importorskip("unasyncd")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, module in {"storage": "agent_storage.cli", "pytest": "pytest"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n', "utf-8")
        (programs / name).chmod(0o755)
    folder = tmp_path / "product"
    folder.mkdir()
    environment = {
        **ENVIRONMENT,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{folder / 'src'}",
        "STORAGE_DATABASE_URL": database,
        "STORAGE_TEST_DATABASE_URL": database,
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    printed = ""
    for language, text in BLOCKS:
        file = FILE.match(text)
        if file:
            path = folder / file[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text if path.suffix == ".toml" else text[file.end() :], "utf-8")
        elif language == "sh":
            lines = [line for line in text.splitlines() if not line.startswith("pip install ")]
            printed = "".join(run("sh", "-c", line) for line in lines)
        elif language == "text":
            for line in text.splitlines():
                assert line in printed, f"{line}\nis not in\n{printed}"
        else:
            assert language == "python", language
            printed = run(sys.executable, "-c", text)


def test_every_link_of_the_guide_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", GUIDE):
        path, _, anchor = target.partition("#")
        assert not path or (ROOT / "docs" / path).exists(), target
        if anchor and not path:
            titles = re.findall(r"^##+ (.*)$", GUIDE, re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target
