"""The repository keeps its own promises: what is generated is current, what is written twice is equal, blocks run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "agent_storage"
README = (ROOT / "README.md").read_text("utf-8")


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_generated_is_current() -> None:
    pytest.importorskip("unasyncd")
    run(sys.executable, "tools/generate.py", "--check")


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(BLOCKS.index(block)))
def test_every_python_block_of_the_readme_runs(block: str, migrated: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block, "utf-8")
    run(sys.executable, script, STORAGE_DATABASE_URL=migrated)


def test_every_shell_line_of_the_readme_is_a_command_that_runs(database: str, tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    # A source is called like the folder above its migrations.
    versions = shutil.copytree(PACKAGE / "migrations" / "versions", tmp_path / "agent_storage" / "versions")
    environment = {"STORAGE_DATABASE_URL": database}
    seen: list[str] = []
    for line in lines:
        command = line.split("#")[0].split()
        if command[0] == "make":
            assert re.search(rf"^{command[1]}:", makefile, re.MULTILINE), line
        else:  # on a copy of the folder: `new` writes into it
            folder = ["--folder", versions] if command[1] == "migrate" else []
            run(sys.executable, "-m", "agent_storage.cli", *command[1:], *folder, **environment)
            for path in versions.glob("*_conversation_language*.sql"):  # a person writes them now
                path.write_text("SELECT 1;\n", "utf-8")
        seen.append(command[1])
    assert {"demo", "test", "migrate"} <= set(seen)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_no_file_names_a_machine_or_a_registry() -> None:
    names = run("git", "ls-files").splitlines() if (ROOT / ".git").exists() else []
    pattern = re.compile(r"/(root|home)/\w|index.url\b|file:///\w")
    for name in names:
        path = ROOT / name
        if path.is_file() and not path.is_symlink() and path != Path(__file__):
            assert not pattern.search(path.read_text("utf-8", errors="replace")), name
