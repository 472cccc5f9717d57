"""The steps of CONTRIBUTING.md add a table and a column to a copy of the repository, without another edit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import SECRET_KEY, fresh_database

ROOT = Path(__file__).parent.parent
TABLE = "src/agent_storage/tables/knowledge/notes"
VERSIONS = "src/agent_storage/migrations/versions"

#: The three files that are written by hand, in a domain that does not exist yet.
WRITTEN = {
    f"{TABLE}/schema.sql": """\
CREATE TABLE notes (
    id         uuid        PRIMARY KEY DEFAULT uuid_v7(),
    project_id uuid        NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    title      text        NOT NULL CHECK (char_length(title) BETWEEN 1 AND 500),
    body       text        NOT NULL DEFAULT '',
    tags       text[]      NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT notes_project_id_title_key UNIQUE (project_id, title)
);
CREATE TRIGGER set_timestamp BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION trigger_set_timestamp();

COMMENT ON TABLE notes IS 'Notes on projects';
COMMENT ON COLUMN notes.id IS 'Primary key: a UUIDv7 by default, or the id that the caller gave';
COMMENT ON COLUMN notes.project_id IS 'Project of the note';
COMMENT ON COLUMN notes.title IS 'Title, unique in its project';
COMMENT ON COLUMN notes.body IS 'Text of the note';
COMMENT ON COLUMN notes.tags IS 'Tags to filter by';
COMMENT ON COLUMN notes.created_at IS 'Time of the INSERT; never changes';
COMMENT ON COLUMN notes.updated_at IS 'Time of the last UPDATE';
""",
    f"{TABLE}/record.py": '''\
"""A note on a project."""

from __future__ import annotations

from uuid import UUID

from agent_storage.statements.records import Input, Key, Record


class NewNote(Input):
    """Fields to create a note."""

    project_id: UUID
    title: Key
    body: str = ""
    tags: list[str] = []


class Note(Record, NewNote):
    """A note."""
''',
    f"{TABLE}/repository.py": '''\
"""Notes on projects."""

from __future__ import annotations

from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.repository import Repository, sql
from agent_storage.statements.lists import Found
from agent_storage.tables.knowledge.notes.record import NewNote, Note

R = TypeVar("R", bound=Note, default=Note, covariant=True)
N = TypeVar("N", bound=NewNote, default=NewNote, covariant=True)


class Notes(Repository[R, N]):
    """Notes on projects."""

    table = "notes"
    natural_key = ("project_id", "title")
    references = {"project_id": "projects"}

    @sql("SELECT {columns} FROM {table} WHERE project_id = %(project_id)s AND title = %(title)s", repeatable=True)
    async def get_by(self, *, project_id: UUID, title: str) -> R | None:
        """Return the note of this project and title, or None."""
        ...

    @sql(
        "SELECT {columns} FROM {table} WHERE project_id = %(project_id)s ORDER BY id DESC LIMIT %(limit)s",
        repeatable=True,
    )
    async def by_project(self, project_id: UUID, limit: int = 100) -> Found[R]:
        """Return the notes of a project, newest first."""
        ...
''',
}
#: What a service does with the table, on both faces.
USED = """
import asyncio
import agent_storage
from agent_storage import sync
from agent_storage.types import NewNote, NewProject, Note

async def on_the_async_face():
    async with agent_storage.Storage() as storage:
        project = await storage.projects.create(NewProject(name="async", path="/async"))
        made = await storage.notes.create(NewNote(project_id=project.id, title="first", tags=["a"]))
        assert await storage.notes.get(made.id) == made
        changed = await storage.notes.update(made.id, body="text")
        assert (changed.body, changed.tags) == ("text", ["a"])
        assert await storage.notes.get_by(project_id=project.id, title="first") == changed
        again = await storage.notes.upsert(NewNote(project_id=project.id, title="first", body="new"))
        assert again.id == made.id
        assert list(await storage.notes.by_project(project.id)) == [again]
        async with storage.transaction() as tx:
            assert await tx.notes.delete(made.id)
        assert await storage.notes.count() == 0

def on_the_sync_face():
    with sync.Storage() as storage:
        project = storage.projects.create(NewProject(name="sync", path="/sync"))
        made = storage.notes.create_many([NewNote(project_id=project.id, title=t, tags=[t]) for t in "ab"])
        assert storage.notes.find({"tags__contains": ["b"]}) == [made[1]]
        assert storage.notes.page(limit=1).items == made[:1]
        assert list(storage.notes.by_project(project.id)) == made[::-1]
        with storage.notes.stream() as rows:
            assert sorted(row.title for row in rows) == ["a", "b"]
        assert storage.notes.delete_many([row.id for row in made]) == 2

asyncio.run(on_the_async_face())
on_the_sync_face()
assert agent_storage.__file__.startswith(COPY), agent_storage.__file__
"""

PINNED = "COMMENT ON COLUMN notes.pinned IS 'Whether the note is shown first';"
#: Uses the column that is added afterwards.
PINS = """
from agent_storage import sync
from agent_storage.types import NewNote, NewProject

with sync.Storage() as storage:
    project = storage.projects.create(NewProject(name="pins", path="/pins"))
    made = storage.notes.create(NewNote(project_id=project.id, title="t", pinned=True))
    assert storage.notes.find({"pinned": True}) == [made]
    assert not storage.notes.update(made.id, pinned=False).pinned
"""


class Copy:
    """The tracked files of the repository in a folder, committed, with commands that run there."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "STORAGE_"))},
            "PYTHONPATH": str(path / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "STORAGE_DATABASE_URL": url,
            "STORAGE_TEST_DATABASE_URL": url,
            "STORAGE_SECRET_KEY": SECRET_KEY,
            "PYTEST_XDIST_WORKER": "_of_the_copy",  # part of the name of the template database: the outer one is in use
        }
        for name in self._run("git", "ls-files", "-z", cwd=ROOT).rstrip("\0").split("\0"):
            if (ROOT / name).exists():  # a file that is deleted but not committed is left out
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, path / name, follow_symlinks=False)
        self.git("init", "--quiet")
        self.commit("before")

    def git(self, *arguments: str) -> str:
        return self._run("git", *arguments)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", message)

    def python(self, *arguments: str) -> str:
        return self._run(sys.executable, *arguments)

    def storage(self, *arguments: str) -> str:
        return self.python("-m", "agent_storage.cli", *arguments)

    def changed(self) -> set[str]:
        """The files that differ from the commit, and the new ones."""
        self.git("add", "--all")
        return set(self.git("diff", "--cached", "--name-only", "-z").rstrip("\0").split("\0"))

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            command,
            cwd=cwd or self.path,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


def column(copy: Copy) -> None:
    """Add a column to the table: two files and a drafted migration."""
    copy.commit("a table")
    edits = {
        "schema.sql": [
            ("    created_at", "    pinned     boolean     NOT NULL DEFAULT false,\n    created_at"),
            ("COMMENT ON COLUMN notes.created_at", PINNED + "\nCOMMENT ON COLUMN notes.created_at"),
        ],
        "record.py": [("    tags: list[str] = []\n", "    tags: list[str] = []\n    pinned: bool = False\n")],
    }
    for name, replaced in edits.items():
        path = copy.path / TABLE / name
        text = path.read_text("utf-8")
        for old, new in replaced:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path.write_text(text, "utf-8")
    made = copy.storage("migrate", "new", "add_notes_pinned", "--draft").splitlines()
    copy.python("tools/generate.py")
    copy.python("tools/reference.py")
    assert copy.changed() == {
        *(f"{TABLE}/{name}" for name in edits),
        *(f"{VERSIONS}/{Path(path).name}" for path in made),
        f"{VERSIONS}/migrations.lock",
        "src/agent_storage/tables/changes.py",
        "docs/schema.md",
        "tests/golden/statements.sql",
    }
    assert "agree" in copy.storage("check")
    copy.storage("migrate", "up")
    copy.python("-c", PINS)


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="needs a git checkout")
def test_a_table_is_three_files_and_a_column_two_each_with_a_drafted_migration(
    tmp_path: Path, server_conninfo: str
) -> None:
    pytest.importorskip("unasyncd")
    with fresh_database(server_conninfo) as url:
        copy = Copy(tmp_path, url)
        for name, text in WRITTEN.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, "utf-8")
        up, down = map(Path, copy.storage("migrate", "new", "add_notes", "--draft").splitlines())
        migration = {f"{VERSIONS}/{path.name}" for path in (up, down)}
        copy.python("tools/generate.py")
        copy.python("tools/reference.py")

        assert copy.changed() == {
            *WRITTEN,
            *migration,
            f"{VERSIONS}/migrations.lock",
            *(
                f"src/agent_storage/{name}"
                for name in ("types.py", "tables/__init__.py", "tables/changes.py", "sync/tables/__init__.py")
            ),
            *(f"src/agent_storage/tables/knowledge/{name}__init__.py" for name in ("", "notes/")),
            *(f"src/agent_storage/sync/tables/knowledge/{name}__init__.py" for name in ("", "notes/")),
            "src/agent_storage/sync/tables/knowledge/notes/repository.py",
            "docs/schema.md",
            "tests/golden/statements.sql",
        }
        assert "COMMENT ON COLUMN notes.tags IS 'Tags to filter by'" in up.read_text("utf-8")

        copy.python("-m", "ruff", "check", "--no-cache", "--quiet", TABLE, "src/agent_storage/sync/tables/knowledge")
        copy.python("-m", "ruff", "format", "--no-cache", "--check", "--quiet", TABLE)
        assert "agree" in copy.storage("check")
        copy.storage("migrate", "check", "--only", "lint", "--only", "test")
        copy.storage("migrate", "up")
        copy.storage("migrate", "check", "--only", "drift")
        assert "Notes on projects" in copy.storage("tables")
        copy.storage("seed", "demo")
        copy.python("-c", f"COPY = {str(tmp_path)!r}\n{USED}")
        column(copy)
        suite = ("tests/contract/test_vocabulary.py", "tests/golden")
        assert " passed" in copy.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *suite)
