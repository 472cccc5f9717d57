"""Projects of a team: their files, their tickets, the steps of those and what is said about them."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from uuid import UUID

from agent_storage.demo import words
from agent_storage.demo.unit import SPAN, Unit
from agent_storage.types import NewProject, NewProjectFile, NewTicket, NewTicketComment, NewTicketTask


def add(unit: Unit) -> None:
    """Add a project for each of the team's services."""
    for service in unit.services:
        at = unit.later(unit.until - SPAN - timedelta(hours=12), 60, 36_000)
        project = unit.add(
            "projects",
            NewProject,
            at,
            name=f"{service} ({unit.team})",
            path=f"/srv/{unit.slug}/{service}",
            owner=unit.people[0],
            description=f"Changes of the {unit.team} team in {service}.",
            settings={"default_branch": "main", "language": "python"},
        )
        unit.projects.append(project)
        for module in unit.random.sample(words.MODULES, 18):
            at = unit.later(at, 1, 60)
            _file(unit, project, service, module, at)
        tickets = [unit.pick(words.TICKETS) for _ in range(4)] + list(words.TICKETS[:8])
        for number, ticket in enumerate(tickets):
            _ticket(unit, project, ticket, archived=number == 0)


def _file(unit: Unit, project: UUID, service: str, module: str, at: datetime) -> None:
    package = service.replace("-", "_")
    uses = unit.random.sample(words.MODULES, 2)
    lines = [f'"""The {module} of {service}."""', ""]
    lines += [f"from {package} import {name}" for name in uses]
    lines += ["", "", f"def load_{module}(limit: int = {unit.random.randint(10, 500)}) -> list[dict]:"]
    lines += [f"    return {uses[0]}.read({module!r}, limit)", ""]
    content = "\n".join(lines)
    unit.add(
        "project_files",
        NewProjectFile,
        at,
        project_id=project,
        path=f"src/{package}/{module}.py",
        extension="py",
        size_bytes=len(content.encode()),
        checksum=sha256(content.encode()).hexdigest(),
        content=content,
        summary=f"Loads the {module} of {service} by way of {uses[0]}.",
        summarized_at=unit.later(at, 60, 600),
        imports=[f"{package}.{name}" for name in uses],
        exports=[f"load_{module}"],
    )


def _ticket(unit: Unit, project: UUID, text: tuple[str, str, tuple[str, ...]], *, archived: bool) -> None:
    title, overview, steps = text
    at, status = unit.moment(), unit.pick(["open", "open", "in_progress", "in_progress", "done", "closed"])
    finished = unit.later(at, 3600, 7000)
    done = len(steps) if status in ("done", "closed") else unit.random.randrange(len(steps))
    ticket = unit.add(
        "tickets",
        NewTicket,
        at,
        project_id=project,
        title=title,
        overview=unit.phrase(overview),
        status=status,
        priority=unit.random.randint(0, 3),
        assignee=None if status == "open" else unit.pick(unit.people),
        labels=unit.random.sample(words.LABELS, unit.random.randint(1, 2)),
        extra={"archived_at": finished if archived else None},
    )
    _steps(unit, ticket, at, steps, 0 if status == "open" else done)
    for _ in range(unit.random.randint(1, 3)):
        author, body = unit.pick([*unit.people, *words.AGENTS]), unit.phrase(unit.pick(words.COMMENTS))
        unit.add(
            "ticket_comments", NewTicketComment, unit.later(at, 60, 7000), ticket_id=ticket, author=author, body=body
        )


def _steps(unit: Unit, ticket: UUID, at: datetime, steps: tuple[str, ...], done: int) -> None:
    before: UUID | None = None
    for position, step in enumerate(steps, 1):
        before = unit.add(
            "ticket_tasks",
            NewTicketTask,
            at + timedelta(seconds=position),
            ticket_id=ticket,
            content=unit.phrase(step),
            done=position <= done,
            position=position,
            estimated_hours=Decimal(unit.random.randint(1, 16)) / 2,
            depends_on=[before] if before else [],
            tags=["backend"] if position % 2 else [],
            agent_id=unit.pick([*words.AGENTS, None]),
        )
