"""A project's record, and what is going on in it."""

from __future__ import annotations

from datetime import datetime

from agent_storage.statements.records import Input, Jsonb, JsonObject, Key, Record
from agent_storage.tables.projects.tickets.record import TaskStatistics


class NewProject(Input):
    """Fields to create a project."""

    name: Key
    path: Key
    owner: Key | None = None
    description: str | None = None
    settings: Jsonb[JsonObject] = {}


class Project(Record, NewProject):
    """A project."""


class ProjectOverview(Project):
    """A project with the number of its tickets by status (archived ones aside) and when one last changed."""

    open_tickets: int
    in_progress_tickets: int
    done_tickets: int
    closed_tickets: int
    last_activity_at: datetime


class ProjectStatistics(TaskStatistics, frozen=True):
    """Counts of a project's tickets by status, and of their tasks; archived tickets are only counted as such."""

    open_tickets: int
    in_progress_tickets: int
    done_tickets: int
    closed_tickets: int
    archived_tickets: int
    files: int
