"""tools/docstrings.py: the docstrings that it reports, and the names that it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def docstrings(*paths: Path) -> list[str]:
    command = [sys.executable, str(ROOT / "tools" / "docstrings.py"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1 if done.stdout else 0, "")
    return done.stdout.splitlines()


def reported(path: Path, text: str) -> list[str]:
    path.write_text(text, encoding="utf-8")
    return [line.removeprefix(f"{path}:") for line in docstrings(path)]


def test_every_public_function_of_the_package_has_a_docstring_that_begins_with_a_verb() -> None:
    assert docstrings() == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('def row():\n    """The row, or None."""\n', "1: row: The row, or None."),
        ("async def rows():\n    yield 1\n", "1: rows: no docstring"),
        ('class Rows:\n    async def all(self):\n        """Whether."""\n', "2: Rows.all: Whether."),
        ("class Rows:\n    @property\n    def first(self): ...\n", "3: Rows.first: no docstring"),
        ('class Rows:\n    def __len__(self):\n        """Number of rows."""\n', "2: Rows.__len__: Number of rows."),
        ('if True:\n    def row():\n        """Returns it."""\n', "2: row: Returns it."),
        ('@sql("SELECT 1")\ndef one():\n    """One."""\n', "2: one: One."),
    ],
)
def test_a_noun_phrase_or_a_missing_docstring_is_reported_with_its_line(tmp_path: Path, text: str, found: str) -> None:
    assert reported(tmp_path / "rows.py", text) == [found]


@pytest.mark.parametrize(
    "text",
    [
        'def row():\n    """Return the row, or None."""\n',
        "def _row(): ...\n",
        "class _Rows:\n    def all(self): ...\n",
        "class Rows:\n    def __len__(self): ...\n",
        'class Rows:\n    @cached_property\n    def first(self):\n        """The first row."""\n',
        "@typing.overload\ndef row(): ...\n",
        'def row():\n    """Return a function."""\n\n    def inner(): ...\n',
    ],
)
def test_verbs_private_names_and_properties_are_not_reported(tmp_path: Path, text: str) -> None:
    assert reported(tmp_path / "rows.py", text) == []


def test_a_private_module_is_not_reported(tmp_path: Path) -> None:
    assert reported(tmp_path / "_rows.py", "def row(): ...\n") == []
