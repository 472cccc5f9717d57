"""Approvals against a model: every public method of the repository, and raw SQL, in any order.

The model is a dict of requests and the rules of docs/tables.md; the database has to agree after every step.
"""

# ruff: noqa: A001  # a request's id is `id` everywhere

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from agent_storage import NotFound, StorageError, WaitTimeout, sync
from agent_storage.types import NewApprovalRequest, NewWorkflowSession

LATER = datetime.now(UTC) + timedelta(days=1)
PAST = datetime(2026, 1, 1, tzinfo=UTC)
WAITS = {
    "human_review": "waiting_for_human_review",
    "budget_increase": "waiting_for_budget_approval",
    "workflow_call": "waiting_for_workflow_approval",
}
TYPES = st.sampled_from(list(WAITS))
TIMES = st.sampled_from([None, LATER, PAST])
WHO = st.sampled_from(["ada", "bob"])
STATUSES = st.sampled_from(["pending", "approved", "rejected", "expired"])
#: Changes of any fields, consistent or not.
CHANGES = st.dictionaries(
    st.sampled_from(["status", "resolved_at", "resolved_by", "resolution_notes"]), st.none()
).flatmap(
    lambda names: st.fixed_dictionaries(
        {
            name: {
                "status": STATUSES,
                "resolved_at": st.sampled_from([None, PAST]),
                "resolved_by": st.sampled_from([None, "eve"]),
                "resolution_notes": st.sampled_from([None, "n"]),
            }[name]
            for name in names
        }
    )
)


@dataclass
class Asked:
    """A request as the model has it. `resolved_at` is a time, or True for a time of the server."""

    session: int
    node: str
    type: str
    expires_at: datetime | None
    status: str = "pending"
    resolved_at: Any = None
    resolved_by: str | None = None
    resolution_notes: str | None = None
    context: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def overdue(self) -> bool:
        return self.expires_at == PAST

    @property
    def open(self) -> bool:
        return self.status == "pending" and not self.overdue

    @property
    def consistent(self) -> bool:
        decision = (self.resolved_at, self.resolved_by, self.resolution_notes)
        if self.status == "pending":
            return decision == (None, None, None)
        return self.resolved_at is not None and (self.status == "expired" or self.resolved_by is not None)


class Approvals(RuleBasedStateMachine):
    """The rules are the calls of the repository."""

    storage: sync.Storage
    raw: psycopg.Connection[Any]
    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.raw.execute("TRUNCATE workflow_sessions CASCADE")
        self.rows = self.storage.approval_requests
        self.model: dict[UUID, Asked] = {}
        runs = self.storage.workflow_sessions.create_many([NewWorkflowSession(workflow_snapshot={})] * 2)
        self.runs = [run.id for run in runs]
        self.run_status = ["running", "running"]
        self.nodes: dict[tuple[int, str], tuple[str, UUID]] = {}

    # ---- the model -------------------------------------------------------------------------------------------------

    def changed(self, id: UUID, changes: dict[str, Any]) -> Asked | None:
        """The request after an UPDATE, or None if that has to be refused."""
        old = self.model[id]
        new = Asked(**{**vars(old), **changes})
        if old.status != "pending":
            return new if new == old else None
        if old.overdue and (new.status in ("approved", "rejected") or new.expires_at != old.expires_at):
            return None
        if new.status != "pending" and new.resolved_at is None:
            new.resolved_at = True
        return new if new.consistent else None

    def keep(self, id: UUID, new: Asked | None) -> None:
        """Store the request, or remove it; its run and node go on if that ends the wait."""
        old = self.model.pop(id)
        if new is not None:
            self.model[id] = new
        if old.status == "pending" and (new is None or new.status != "pending"):
            if self.run_status[old.session].startswith("waiting"):
                self.run_status[old.session] = self.awaited(old.session) or "running"
            if self.nodes.get((old.session, old.node)) == ("waiting", id):
                self.nodes[old.session, old.node] = ("running", id)

    def awaited(self, session: int) -> str | None:
        """The status of a run that waits for its oldest request."""
        asked = sorted((id, item) for id, item in self.model.items() if item.session == session and item.open)
        return WAITS[asked[0][1].type] if asked else None

    @contextmanager
    def expecting(self, allowed: object) -> Iterator[None]:
        """The block succeeds if it is allowed, and raises if not."""
        try:
            yield
        except StorageError:
            assert not allowed
        except psycopg.Error as error:
            assert not allowed and error.sqlstate in ("AS001", "23514")
        else:
            assert allowed

    def new(self, id: UUID, asked: Asked) -> NewApprovalRequest:
        return NewApprovalRequest(
            id=id,
            session_id=self.runs[asked.session],
            node_id=asked.node,
            type=asked.type,  # pyright: ignore[reportArgumentType]
            expires_at=asked.expires_at,
            status=asked.status,  # pyright: ignore[reportArgumentType]
            resolved_at=asked.resolved_at,
            resolved_by=asked.resolved_by,
            resolution_notes=asked.resolution_notes,
        )

    def fresh(self) -> UUID:
        """Ids in the order of creation, as UUIDv7 are."""
        return UUID(int=(max(self.model, default=UUID(int=0)).int + (1 << 20)) | 1)

    # ---- create and ask --------------------------------------------------------------------------------------------

    @rule(target=ids, session=st.integers(0, 1), node=st.sampled_from("ab"), type=TYPES, at=TIMES, changes=CHANGES)
    def create(self, session: int, node: str, type: str, at: datetime | None, changes: dict[str, Any]) -> Any:
        id, asked = self.fresh(), Asked(session, node, type, at, **changes)
        with self.expecting(asked.consistent):
            self.rows.create(self.new(id, asked))
        if not asked.consistent:
            return multiple()
        self.model[id] = asked
        return id

    @rule(target=ids, count=st.integers(1, 3), session=st.integers(0, 1), type=TYPES, at=TIMES)
    def create_many(self, count: int, session: int, type: str, at: datetime | None) -> Any:
        made: list[UUID] = []
        for _ in range(count):
            made.append(self.fresh())
            self.model[made[-1]] = Asked(session, "m", type, at)
        self.rows.create_many([self.new(id, self.model[id]) for id in made])
        return multiple(*made)

    @rule(target=ids, session=st.integers(0, 1), node=st.sampled_from("abc"), type=TYPES, at=TIMES, wait=st.booleans())
    def ask(self, session: int, node: str, type: str, at: datetime | None, wait: bool) -> UUID:
        id, asked = self.fresh(), Asked(session, node, type, at)
        self.model[id] = asked
        if self.run_status[session] == "running":
            self.run_status[session] = WAITS[type]
        self.nodes[session, node] = ("waiting", id)
        if not wait:
            self.rows.ask(self.new(id, asked))
        elif asked.overdue:
            assert self.rows.ask_and_wait(self.new(id, asked), 30).status == "expired"
            self.keep(id, self.changed(id, {"status": "expired"}))
        else:
            with pytest.raises(WaitTimeout):
                self.rows.ask_and_wait(self.new(id, asked), 0)
        return id

    @rule(id=ids)
    def ask_again(self, id: UUID) -> None:
        if id in self.model:
            pending = Asked(self.model[id].session, self.model[id].node, self.model[id].type, None)
            assert self.rows.ask(self.new(id, pending)).id == id

    # ---- decide ----------------------------------------------------------------------------------------------------

    @rule(id=ids, who=WHO, notes=st.sampled_from([None, "n"]), verb=st.sampled_from(["approve", "reject"]))
    def decide(self, id: UUID, who: str, notes: str | None, verb: str) -> None:
        allowed = id in self.model and self.model[id].open
        with self.expecting(allowed):
            getattr(self.rows, verb)(id, who, notes)
        if allowed:
            status = "approved" if verb == "approve" else "rejected"
            fields = {"status": status, "resolved_by": who, "resolution_notes": notes}
            self.keep(id, self.changed(id, fields))

    @rule(id=ids)
    def expire(self, id: UUID) -> None:
        allowed = id in self.model and self.model[id].status == "pending"
        with self.expecting(allowed):
            self.rows.expire(id)
        if allowed:
            self.keep(id, self.changed(id, {"status": "expired"}))

    @rule()
    def expire_overdue(self) -> None:
        due = {id for id, item in self.model.items() if item.status == "pending" and item.overdue}
        assert {row.id for row in self.rows.expire_overdue()} == due
        for id in due:
            self.keep(id, self.changed(id, {"status": "expired"}))

    @rule(id=ids, others=st.lists(ids, max_size=2), many=st.booleans())
    def wait(self, id: UUID, others: list[UUID], many: bool) -> None:
        asked = [id, *others] if many else [id]
        found = [self.model[one] for one in asked if one in self.model]
        decided = [item for item in found if item.status != "pending"]
        due = {one for one in asked if one in self.model and self.model[one].overdue and not decided}
        try:
            row = self.rows.wait_any(asked, 0) if many else self.rows.wait(id, 0)
        except NotFound:
            assert len(found) < len(asked) and not decided
        except WaitTimeout:
            assert not decided and not due and len(found) == len(asked)
        else:
            assert row.status != "pending" and row.id in asked
            if not decided:
                assert row.id in due
                for one in due:
                    self.keep(one, self.changed(one, {"status": "expired"}))

    # ---- change anything -------------------------------------------------------------------------------------------

    @rule(id=ids, changes=CHANGES, at=TIMES, way=st.sampled_from(["update", "update_many", "update_where", "raw"]))
    def change(self, id: UUID, changes: dict[str, Any], at: datetime | None, way: str) -> None:
        changes = {**changes, "expires_at": at} if at or not changes else changes
        if id not in self.model:
            return
        new = self.changed(id, changes)
        with self.expecting(new):
            if way == "update":
                self.rows.update(id, **changes)
            elif way == "update_many":
                assert self.rows.update_many([id], changes) == 1
            elif way == "update_where":
                assert self.rows.update_where({"id": id}, changes) == 1
            else:
                names = ", ".join(f"{name} = %s" for name in changes)
                query = f"UPDATE approval_requests SET {names} WHERE id = %s"
                self.raw.execute(query, [*changes.values(), id])  # pyright: ignore
        if new is not None:
            self.keep(id, new)

    @rule(id=ids, value=st.integers(0, 2))
    def patch(self, id: UUID, value: int) -> None:
        if id in self.model:
            old = self.model[id]
            allowed = old.status == "pending" or old.context.get("n") == value
            with self.expecting(allowed):
                self.rows.patch(id, context={"n": value})
            if allowed:
                old.context = {"n": value}

    @rule(id=ids)
    def move_to_another_run_node_or_type(self, id: UUID) -> None:
        if id in self.model:
            for changes in ({"session_id": uuid.uuid4()}, {"node_id": "x"}):
                with self.expecting(False):
                    self.rows.update(id, **changes)  # pyright: ignore
            with self.expecting(False):
                self.raw.execute("UPDATE approval_requests SET type = type || '' , node_id = 'x' WHERE id = %s", [id])

    @rule(id=ids, way=st.sampled_from(["delete", "delete_many", "delete_where", "raw"]))
    def delete(self, id: UUID, way: str) -> None:
        if way == "delete":
            assert self.rows.delete(id) == (id in self.model)
        elif way == "delete_many":
            self.rows.delete_many([id])
        elif way == "delete_where":
            self.rows.delete_where({"id": id})
        else:
            self.raw.execute("DELETE FROM approval_requests WHERE id = %s", [id])
        if id in self.model:
            self.keep(id, None)

    # ---- runs ------------------------------------------------------------------------------------------------------

    @rule(session=st.integers(0, 1))
    def pause(self, session: int) -> None:
        allowed = self.run_status[session] != "paused"
        with self.expecting(allowed):
            self.storage.workflow_sessions.pause(self.runs[session])
        self.run_status[session] = "paused"

    @rule(session=st.integers(0, 1))
    def resume(self, session: int) -> None:
        status, awaited = self.run_status[session], self.awaited(session)
        allowed = status == "paused" or (status.startswith("waiting") and awaited is None)
        with self.expecting(allowed):
            self.storage.workflow_sessions.resume(self.runs[session])
        if allowed:
            self.run_status[session] = awaited or "running"

    # ---- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def every_read_agrees_with_the_model(self) -> None:
        stored = {row.id: row for row in self.rows.find(limit=1000)}
        assert stored.keys() == self.model.keys()
        for id, item in self.model.items():
            row = stored[id]
            for name in ("status", "type", "expires_at", "resolved_by", "resolution_notes", "context"):
                assert getattr(row, name) == getattr(item, name), name
            assert (row.session_id, row.node_id) == (self.runs[item.session], item.node)
            if item.resolved_at is True:  # a time of the server, which never changes again
                item.resolved_at = row.resolved_at
            assert row.resolved_at == item.resolved_at
        open_ = sorted(id for id, item in self.model.items() if item.open)
        assert [row.id for row in self.rows.pending()] == open_
        assert [row.id for row in self.rows.page({"status": "pending"}, limit=1000)] == open_
        assert self.rows.count({"status": "pending"}) == len(open_)
        assert self.rows.count_by("status") == Counter(item.status for item in self.model.values())
        assert self.rows.count_by("type", {"status": "pending"}) == Counter(self.model[id].type for id in open_)
        with self.rows.stream({"status": "pending"}) as rows:
            assert [row.id for row in rows] == open_
        for session, run in enumerate(self.runs):
            mine = sorted((id for id, item in self.model.items() if item.session == session), reverse=True)
            assert [row.id for row in self.rows.by_session(run)] == mine[:100]
            assert self.storage.workflow_sessions.require(run).status == self.run_status[session]
            for node in self.storage.node_execution_states.by_session(run):
                status, request = self.nodes[session, node.node_id]
                assert node.status.startswith(status), (node.status, status)
                assert node.pending_approval_id == request


def test_any_sequence_of_calls_and_raw_statements_agrees_with_the_model(
    sync_storage: sync.Storage, migrated: str
) -> None:
    with psycopg.connect(migrated, autocommit=True) as raw:
        machine = type("Machine", (Approvals,), {"storage": sync_storage, "raw": raw})
        run_state_machine_as_test(  # pyright: ignore[reportUnknownMemberType]
            machine,
            settings=settings(
                max_examples=60,
                stateful_step_count=25,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_the_machine_has_every_public_method_in_its_alphabet(migrated: str) -> None:
    """A method that is added to the repository has to be added to the machine, too."""
    source = Path(__file__).read_text(encoding="utf-8")
    repository = sync.Storage(migrated).approval_requests
    shared = {"record", "new", "table", "natural_key", "refers_to_itself", "soft_delete", "owner", "statements"}
    shared |= {"references", "immutable", "insert_order", "changes_parent"}
    shared |= {"fields", "transaction", "runner", "upsert", "get_by", "get", "require", "exists", "resolve", "short_id"}
    names = {name for name in dir(repository) if not name.startswith("_")} - shared
    assert {name for name in names if f"rows.{name}(" not in source and f'"{name}"' not in source} == set()
