"""Files of projects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from typing_extensions import TypeVar

from agent_storage.errors import InvalidValue
from agent_storage.repository import Repository, sql
from agent_storage.tables.projects.project_files.record import NewProjectFile, ProjectFile, Synced

if TYPE_CHECKING:
    from agent_storage.tables.changes import ProjectFileChanges

R = TypeVar("R", bound=ProjectFile, default=ProjectFile, covariant=True)
N = TypeVar("N", bound=NewProjectFile, default=NewProjectFile, covariant=True)


class ProjectFiles(Repository[R, N]):
    """Files of projects: contents, summaries, imports and exports."""

    table = "project_files"
    natural_key = ("project_id", "path")
    references = {"project_id": "projects"}

    @sql("SELECT {columns} FROM {table} WHERE project_id = %(project_id)s AND path = %(path)s", repeatable=True)
    async def get_by(self, *, project_id: UUID, path: str) -> R | None:
        """Return the file of this project and path, or None."""
        ...

    @sql(
        "SELECT id FROM projects WHERE id = %(project_id)s FOR NO KEY UPDATE",
        missing="projects has no row %(project_id)s: create the project first",
    )
    async def _lock_project(self, project_id: UUID) -> UUID:
        """Lock the row of the project to the end of the transaction. Raises `NotFound`."""
        ...

    @sql("""
        WITH given AS (
            SELECT * FROM jsonb_populate_recordset(NULL::project_files, %(new)s)
        ), stored AS MATERIALIZED (     -- locked in the order of ids, as update_many and delete_many lock them
            SELECT f.id AS stored_id, f.path AS stored_path
              FROM project_files f
             WHERE f.project_id = %(project_id)s
             ORDER BY f.id
               FOR UPDATE
        ), gone AS (
            DELETE FROM project_files f
             USING stored
             WHERE f.id = stored_id
               AND NOT EXISTS (SELECT FROM given WHERE given.path = stored_path)
            RETURNING f.id
        ), written AS (
            INSERT INTO project_files AS f ({new.columns})
            SELECT {new.rows} FROM given WHERE (SELECT count(*) FROM stored) >= 0 ORDER BY {new.order}
            ON CONFLICT (project_id, path) DO UPDATE SET {new.updates}
             WHERE f.checksum IS DISTINCT FROM excluded.checksum OR excluded.checksum IS NULL
            RETURNING (f.xmax = 0) AS added       -- no transaction has ended this version: it is the first
        )
        SELECT (SELECT count(*) FROM written WHERE added) AS added,
               (SELECT count(*) FROM written WHERE NOT added) AS changed,
               (SELECT count(*) FROM gone) AS deleted,
               (SELECT count(*) FROM given) - (SELECT count(*) FROM written) AS unchanged
    """)
    async def _replace(self, project_id: UUID, new: Sequence[N]) -> Synced:
        """Replace the files of the project by those given."""
        ...

    async def sync(self, project_id: UUID, files: Sequence[N]) -> Synced:
        """Replace the files of a project: add new ones, change those of another checksum, delete the others.

        A file whose checksum is the same keeps its row as it is, its summary too; one without a checksum is written
        always. One transaction; two syncs of a project take turns. Raises `NotFound`, or `InvalidValue` for files of
        another project and for a path given twice.
        """
        paths = {file.path for file in files}
        if len(paths) < len(files) or any(file.project_id != project_id for file in files):
            fault = "a path is given twice" if len(paths) < len(files) else "a file belongs to another project"
            raise InvalidValue(f"project_files: {fault}", table=self.table, column="path")
        async with self.transaction() as rows:
            await rows._lock_project(project_id)
            return await rows._replace(project_id, files)

    if TYPE_CHECKING:

        async def update(self, id: UUID, /, **changes: Unpack[ProjectFileChanges]) -> R: ...  # noqa: D102
