"""Products in folders: packages with a source, made by the commands that a product uses."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from agent_storage.maintenance.scaffold import NewTable, new_table
from agent_storage.sources import Configuration, Source, configured

ROOT = Path(__file__).parent.parent
SHOP = ROOT / "examples" / "shop"
#: The source of this checkout, and no other environment of the developer.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "STORAGE_"))},
    "PYTHONPATH": str(ROOT / "src"),
    "PYTHONDONTWRITEBYTECODE": "1",
    "NO_COLOR": "1",
    "COLUMNS": "200",
}


@dataclass
class Product:
    """A product whose package has a name that no other test imports."""

    folder: Path
    package: str

    @property
    def storage(self) -> Path:
        return self.folder / "src" / self.package / "storage"

    @property
    def configuration(self) -> Configuration:
        return configured(self.folder, environment={})

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.configuration.sources

    def table(self, name: str, *columns: str, domain: str | None = None, record: str | None = None) -> NewTable:
        return new_table(self.sources, self.configuration.own, name, columns, domain=domain, record=record)

    def write(self, name: str, text: str) -> Path:
        """Write a file of the source, and of the packages above it."""
        path = self.storage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in path.parents:
            if folder.is_relative_to(self.storage / "tables"):
                (folder / "__init__.py").touch()
        path.write_text(text.replace("PACKAGE", self.package), "utf-8")
        return path

    def extend_conversations(self, column: str, rule: str, field: str, references: str = "") -> None:
        """Add a column to the shipped conversations, with a record and a repository."""
        sql = f"ALTER TABLE conversations ADD COLUMN {column} {rule};\n"
        sql += f"COMMENT ON COLUMN conversations.{column} IS 'A column more';\n"
        self.write("tables/conversations/schema.sql", sql)
        self.migration("20260101000000_wider", sql, f"ALTER TABLE conversations DROP COLUMN {column};\n")
        self.write("tables/conversations/record.py", WIDER_RECORD.replace("FIELD", field))
        self.write("tables/conversations/repository.py", WIDER_REPOSITORY.replace("REFERENCES", references or "{}"))

    def migration(self, id: str, up: str, down: str) -> None:
        self.write(f"migrations/{id}.sql", up)
        self.write(f"migrations/{id}.rollback.sql", down)

    def run(self, *command: str, code: int = 0, **environment: str) -> str:
        """Run Python with these arguments in the folder. Return what it printed."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env={**ENVIRONMENT, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr


def product(folder: Path, *lines: str) -> Product:
    """Make an empty product. `lines` are further ones of its section in pyproject.toml."""
    made = Product(folder, f"product_{uuid4().hex[:12]}")
    made.storage.mkdir(parents=True)
    (made.storage / "__init__.py").touch()
    (made.storage.parent / "__init__.py").touch()
    section = ["[tool.agent-storage]", f'sources = ["src/{made.package}/storage"]', *lines, ""]
    (folder / "pyproject.toml").write_text("\n".join(section), "utf-8")
    return made


WIDER_RECORD = """\
from __future__ import annotations

from uuid import UUID

from agent_storage.types import Conversation, NewConversation


class NewWider(NewConversation):
    FIELD


class Wider(Conversation, NewWider):
    pass
"""
WIDER_REPOSITORY = """\
from __future__ import annotations

from agent_storage import sql
from agent_storage.tables.chat.conversations.repository import Conversations

from PACKAGE.storage.tables.conversations.record import NewWider, Wider


class WiderConversations(Conversations[Wider, NewWider]):
    references = {**Conversations.references, **REFERENCES}
"""
