"""Genealogies of any shape, made and changed in every way, against a model: no cycle, and every list equals it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from uuid import UUID

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from agent_storage import Conflict, MissingReference, sync
from agent_storage.types import NewSession

#: The parent of each session, and the session that it was forked from.
Links = dict[UUID, tuple[UUID | None, UUID | None]]
FIELDS = ("parent_session_id", "forked_from_session_id")


def levels(start: UUID, step: Callable[[UUID], set[UUID]]) -> list[set[UUID]]:
    """What is one step away, two steps, and so on; each where it comes first."""
    seen, found, at = {start}, [], {start}
    while at := {other for one in at for other in step(one)} - seen:
        found.append(at)
        seen |= at
    return found


def has_cycle(links: Links) -> bool:
    left = dict(links)
    while leaves := [one for one, above in left.items() if not any(other in left for other in above)]:
        for one in leaves:
            del left[one]
    return bool(left)


class Genealogy(RuleBasedStateMachine):
    """Sessions in the database beside `links`, the model."""

    storage: sync.Storage

    @initialize()
    def empty(self) -> None:
        self.links: Links = {}
        with self.storage.database.connection() as connection:
            connection.execute("TRUNCATE sessions CASCADE")

    def draw(self, data: st.DataObject, *, none: bool = True) -> UUID | None:
        known = sorted(self.links)
        return data.draw(st.sampled_from([None, *known] if none or not known else known))

    def expect(self, after: Links, work: Callable[[], object]) -> bool:
        """Do it. It succeeds unless the model would have a cycle or name a missing session; then nothing changes."""
        missing = any(other is not None and other not in after for above in after.values() for other in above)
        try:
            work()
        except (Conflict, psycopg.Error) as error:
            assert has_cycle(after), error
            assert isinstance(error, Conflict) or error.sqlstate == "AS001"
            return False
        except MissingReference:
            assert missing
            return False
        assert not missing
        assert not has_cycle(after)
        self.links = after
        return True

    @rule(data=st.data())
    def create(self, data: st.DataObject) -> None:
        id_, above = uuid.UUID(int=data.draw(st.integers(0, 2**128 - 1))), (self.draw(data), self.draw(data))
        if id_ not in self.links:
            new = NewSession(id=id_, agent="a", **dict(zip(FIELDS, above, strict=True)))
            self.expect({**self.links, id_: above}, lambda: self.storage.sessions.create(new))

    @rule(data=st.data(), number=st.integers(2, 5))
    def create_many(self, data: st.DataObject, number: int) -> None:
        ids = [id_ for _ in range(number) if (id_ := UUID(int=data.draw(st.integers(0, 2**128 - 1)))) not in self.links]
        ids = list(dict.fromkeys(ids))
        places = st.sampled_from([None, *ids, *ids, *sorted(self.links), UUID(int=7)])
        after = {**self.links, **{id_: (data.draw(places), data.draw(places)) for id_ in ids}}
        news = [NewSession(id=id_, agent="a", **dict(zip(FIELDS, after[id_], strict=True))) for id_ in ids]
        self.expect(after, lambda: self.storage.sessions.create_many(news))

    @rule(data=st.data(), fork=st.booleans())
    def spawn_or_fork(self, data: st.DataObject, fork: bool) -> None:
        origin = self.draw(data, none=False)
        if origin is not None:
            made = (self.storage.sessions.fork if fork else self.storage.sessions.spawn)(origin)
            self.links[made.id] = (None, origin) if fork else (origin, None)

    @rule(data=st.data(), field=st.sampled_from([0, 1]))
    def update(self, data: st.DataObject, field: int) -> None:
        one, above = self.draw(data, none=False), self.draw(data)
        if one is not None:
            after = {**self.links, one: (above, self.links[one][1]) if field == 0 else (self.links[one][0], above)}
            self.expect(after, lambda: self.storage.sessions.update(one, **{FIELDS[field]: above}))

    @rule(data=st.data(), raw=st.booleans())
    def update_many(self, data: st.DataObject, raw: bool) -> None:
        known = sorted(self.links)
        ids = data.draw(st.lists(st.sampled_from(known), unique=True)) if known else []
        above = (self.draw(data), self.draw(data))
        after = {**self.links, **dict.fromkeys(ids, above)}
        if raw:
            self.expect(after, lambda: self.raw("parent_session_id = %s, forked_from_session_id = %s", *above, ids))
        else:
            changes: dict[str, Any] = dict(zip(FIELDS, above, strict=True))
            self.expect(after, lambda: self.storage.sessions.update_many(ids, changes))

    @rule()
    def swap_all(self) -> None:
        """One raw UPDATE of every row, which may close many cycles at once."""
        after = {one: (forked, parent) for one, (parent, forked) in self.links.items()}
        text = "parent_session_id = forked_from_session_id, forked_from_session_id = parent_session_id"
        self.expect(after, lambda: self.raw(text, list(self.links)))

    @rule(data=st.data())
    def turn_round(self, data: st.DataObject) -> None:
        """One raw UPDATE lets each of a line of sessions descend from the next instead of the one before."""
        known = sorted(self.links)
        ids = data.draw(st.lists(st.sampled_from(known), unique=True, min_size=2)) if len(known) > 1 else []
        after = {**self.links, **{one: (other, None) for one, other in pairwise(ids)}}
        text = "parent_session_id = (%s::uuid[])[array_position(%s::uuid[], id) + 1], forked_from_session_id = NULL"
        self.expect(after, lambda: self.raw(text, ids, ids, ids[:-1]))

    def raw(self, change: str, *values: Any) -> None:
        with self.storage.database.connection() as connection:
            connection.execute(f"UPDATE sessions SET {change} WHERE id = ANY(%s)", values)

    @rule(data=st.data(), how=st.sampled_from(["delete", "delete_many", "delete_where"]))
    def delete(self, data: st.DataObject, how: str) -> None:
        known = sorted(self.links)
        ids = data.draw(st.lists(st.sampled_from(known), unique=True, max_size=3)) if known else []
        if how == "delete":
            ids = ids[:1]
            for one in ids:
                assert self.storage.sessions.delete(one)
        elif how == "delete_many":
            assert self.storage.sessions.delete_many(ids) == len(ids)
        else:
            assert self.storage.sessions.delete_where({"id__in": ids}) == len(ids)
        left = {one: above for one, above in self.links.items() if one not in ids}
        self.links = {
            one: (None if above[0] in ids else above[0], None if above[1] in ids else above[1])
            for one, above in left.items()
        }

    def above(self, one: UUID) -> set[UUID]:
        return {other for other in self.links[one] if other is not None}

    def below(self, one: UUID) -> set[UUID]:
        return {other for other, above in self.links.items() if one in above}

    @invariant()
    def every_list_equals_the_model(self) -> None:
        if not hasattr(self, "links"):
            return
        sessions = self.storage.sessions
        stored = {row.id: (row.parent_session_id, row.forked_from_session_id) for row in sessions.find(limit=1000)}
        assert stored == self.links
        roots = [one for one, above in self.links.items() if above == (None, None)]
        assert [row.id for row in sessions.roots(1000)] == sorted(roots, reverse=True)
        for one in sorted(self.links)[:3]:
            for found, step in ((sessions.ancestors, self.above), (sessions.descendants, self.below)):
                expected = [other for level in levels(one, step) for other in sorted(level)]
                assert [row.id for row in found(one, 1000)] == expected
            assert [row.id for row in sessions.children(one, 1000)] == sorted(self.below(one), reverse=True)


def test_genealogies_equal_a_model_however_they_are_made_and_changed(sync_storage: sync.Storage) -> None:
    Genealogy.storage = sync_storage
    run_state_machine_as_test(
        Genealogy,
        settings=settings(
            max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
