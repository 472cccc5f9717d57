"""Coding agents of a team: a board, repositories, sessions that spawn and fork others, their tasks and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from agent_storage.demo import words
from agent_storage.demo.unit import SPAN, Unit
from agent_storage.types import BoardData, NewBoard, NewCheckpoint, NewRepo, NewSession, NewTask, RepoData, Worktree

#: The number of sessions of a team, and of those that were not spawned or forked.
_SESSIONS, _ROOTS = 36, 10


@dataclass
class _Place:
    """A session that others may come from."""

    id: UUID
    at: datetime
    title: str
    repo: UUID
    work: tuple[str, tuple[str, ...]]
    owner: str | None
    tasks: list[UUID] = field(default_factory=list[UUID])


def add(unit: Unit) -> None:
    """Add all that the team's agents do."""
    repos = [_repo(unit, service) for service in unit.services]
    board = unit.id(unit.until - SPAN)
    places: list[_Place] = []
    for number in range(_SESSIONS):
        origin = unit.pick(places) if number >= _ROOTS else None
        places.append(_session(unit, number, board, unit.pick(repos), origin))
    unit.add(
        "boards",
        NewBoard,
        unit.until - SPAN,
        id=board,
        name=f"{unit.team} agents",
        slug=unit.slug,
        data=BoardData(
            description=f"Work of the agents of {unit.team}.",
            color=unit.pick(["#1b9e77", "#d95f02", "#7570b3"]),
            session_ids=[place.id for place in places],
        ),
    )


def _repo(unit: Unit, service: str) -> UUID:
    slug = f"{service}-{unit.slug}"
    data = RepoData(
        name=service,
        remote_url=f"git@git.internal:{unit.slug}/{service}.git",
        local_path=f"/srv/{unit.slug}/{service}",
        managed=True,
        default_branch="main",
        worktrees=[Worktree(name="agent-1", path=f"/srv/{unit.slug}/{service}.agent-1", ref="agents/1")],
    )
    return unit.add("repos", NewRepo, unit.until - SPAN, slug=slug, data=data)


def _session(unit: Unit, number: int, board: UUID, repo: UUID, origin: _Place | None) -> _Place:
    forked = number % 3 == 0
    title, prompts = work = origin.work if origin else unit.pick(words.WORK)
    at = unit.moment(timedelta(hours=12)) if origin is None else unit.later(origin.at, 200, 1500)
    # a fork goes on with its origin's title, a spawned session works on a part
    name = origin.title if origin and forked else _part(unit, prompts, origin) if origin else unit.phrase(title)
    owner = origin.owner if origin else unit.people[number % len(unit.people)]
    place = _Place(unit.id(at), at, name, origin.repo if origin else repo, work, owner)
    status = unit.pick(["completed", "completed", "completed", "running", "failed", "idle"])
    agent, sha = unit.pick(words.AGENTS), _sha(unit)
    _tasks(unit, place, status, prompts)
    point = unit.pick(origin.tasks) if origin else None
    unit.add(
        "sessions",
        NewSession,
        at,
        id=place.id,
        agent=agent,
        status=status,
        owner=place.owner,
        board_id=board,
        repo_id=place.repo,
        parent_session_id=origin.id if origin and not forked else None,
        forked_from_session_id=origin.id if origin and forked else None,
        data=_about(unit, place, name, sha, {f"{'fork' if forked else 'spawn'}_point_task_id": point} if point else {}),
    )
    _checkpoint(unit, place, agent, name)
    return place


def _sha(unit: Unit) -> str:
    return f"{unit.random.getrandbits(160):040x}"


def _about(unit: Unit, place: _Place, title: str, sha: str, genealogy: dict[str, UUID]) -> dict[str, Any]:
    """A session's data."""
    return {
        "title": title,
        "git_state": {"ref": "agents/1", "base_sha": sha, "current_sha": _sha(unit)},
        "genealogy": genealogy,
        "concepts": ["coding", "testing"],
        "tool_use_count": 7 * len(place.tasks),
        "message_count": 12 * len(place.tasks),
    }


def _part(unit: Unit, prompts: tuple[str, ...], origin: _Place) -> str:
    """Return the title of a spawned session, which differs from that of its origin."""
    return unit.pick([text for text in map(unit.phrase, prompts) if text != origin.title])


def _tasks(unit: Unit, place: _Place, status: str, prompts: tuple[str, ...]) -> None:
    """Add the tasks of the session: all but the last are completed, and the last has the status of the session."""
    last = {"idle": "created", "running": "running", "failed": "failed"}.get(status, "completed")
    at = place.at
    for prompt in prompts:
        at = unit.later(at, 20, 180)
        state = last if prompt is prompts[-1] else "completed"
        text = unit.phrase(prompt)
        data: dict[str, Any] = {
            "description": text,
            "full_prompt": f"{text}. Keep the change small and run the tests before you stop.",
            "tool_use_count": unit.random.randint(3, 40),
            "model": unit.pick(unit.known.models)[1],
        }
        ended = unit.later(at, 30, 900) if state in ("completed", "failed") else None
        task = unit.add("tasks", NewTask, at, session_id=place.id, status=state, completed_at=ended, data=data)
        place.tasks.append(task)


def _checkpoint(unit: Unit, place: _Place, agent: str, title: str) -> None:
    at = unit.later(place.at, 600, 1200)
    state = {
        "goal": title,
        "step": len(place.tasks),
        "open_files": [f"src/{unit.pick(words.MODULES)}.py" for _ in range(3)],
        "notes": unit.phrase("The cause is in {service}; {person} knows the history. {n} call sites are left."),
    }
    unit.add(
        "checkpoints",
        NewCheckpoint,
        at,
        agent_id=f"{agent}@{unit.slug}",
        session_id=str(place.id),
        agent_type=agent,
        name="before the last task",
        owner=place.owner,
        state=state,
        captured_at=at,
    )
