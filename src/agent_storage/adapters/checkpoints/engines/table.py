"""The table of checkpoints in SQLite or MySQL, and its statements. Synchronous, for both faces."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from agent_storage.adapters.checkpoints.engines.engine import Engine, Run
from agent_storage.adapters.checkpoints.engines.filters import Filters, moment, stored
from agent_storage.adapters.checkpoints.engines.rows import TABLE, alike, loaded, parents_first
from agent_storage.errors import AlreadyExists, InvalidValue
from agent_storage.statements.codec import Codec, RowMaker, encode_row
from agent_storage.statements.filters import Fields
from agent_storage.statements.ids import uuid7
from agent_storage.statements.lists import Found, Page, check_limit, given, within
from agent_storage.statements.pagination import read_cursor, write_cursor
from agent_storage.statements.records import columns
from agent_storage.statements.text import decode_json
from agent_storage.statements.where import Order, Where, all_of
from agent_storage.tables.checkpoints.checkpoints.record import (
    AgentStatistics,
    Checkpoint,
    CheckpointSummary,
    NewCheckpoint,
    Pruned,
)

#: How many checkpoints one transaction of a prune deletes.
_DELETED = 500

_FIELDS = Fields.of(TABLE, Checkpoint)
_WHOLE, _SUMMARY = tuple(columns(Checkpoint)), tuple(columns(CheckpointSummary))
_GIVEN = tuple(columns(NewCheckpoint))
#: A repeated call compares the fields that were given, `updated_at` aside, and those that the database decides if None.
_COMPARED = frozenset(_GIVEN) - {"id", "updated_at"}
_DECIDED = frozenset({"captured_at", "created_at"})


class CheckpointTable:
    """The checkpoints of an engine."""

    def __init__(self, engine: Engine[Any], *, json_limit: int) -> None:
        self.engine = engine
        self._codec = Codec(json_limit=json_limit)
        self._filters = Filters(_FIELDS, self._codec, engine.patterns)
        self._whole = RowMaker(Checkpoint, table=TABLE)
        self._summary = RowMaker(CheckpointSummary, table=TABLE)
        self._statistics = RowMaker(AgentStatistics, table=TABLE)
        # Of created_at and updated_at alone, the other is now, or the same where now would contradict it.
        created = "coalesce({c}, CASE WHEN {u} < now_at THEN {u} ELSE now_at END)"
        updated = "coalesce({u}, CASE WHEN {c} > now_at THEN {c} ELSE now_at END)"
        names = {"c": "created_given", "u": "updated_given"}
        self._insert = (
            "INSERT INTO checkpoints (id, agent_id, session_id, agent_type, name, owner, parent_id, state,"
            " captured_at, created_at, updated_at)"
            f" SELECT ?, ?, ?, ?, ?, ?, ?, ?, coalesce(captured_given, {created.format(**names)}),"
            f" {created.format(**names)}, {updated.format(**names)}"
            f" FROM (SELECT {engine.clock} AS now_at, ? AS captured_given, ? AS created_given, ? AS updated_given)"
            " AS given"
        )

    # ---- write -------------------------------------------------------------------------------------------------------

    def store(self, new: NewCheckpoint) -> str:
        """Create a checkpoint. Return its id. With an `id` the call can be repeated."""
        row = self._row(new)
        self.engine.write(lambda run: self._insert_or_compare(run, new, row), repeatable=True)
        return str(row["id"])

    def store_many(self, new: Sequence[NewCheckpoint]) -> list[str]:
        """Create checkpoints, all or none; those without a time were captured at one moment."""
        pairs = [(one, self._row(one)) for one in new]
        ids = [row["id"] for _, row in pairs]
        if len(set(ids)) < len(ids):
            raise InvalidValue(f"{TABLE}.id: an id is given twice", table=TABLE, column="id")
        if pairs:
            self.engine.write(lambda run: self._insert_all(run, pairs), repeatable=True)
        return [str(id_) for id_ in ids]

    def _insert_all(self, run: Run, pairs: Sequence[tuple[NewCheckpoint, dict[str, Any]]]) -> None:
        untimed = [str(row["id"]) for new, row in pairs if new.captured_at is None and new.created_at is None]
        now: datetime | None = None
        if untimed:  # a repeated call adds what was deleted meanwhile to the moment of the others
            text = f"SELECT coalesce((SELECT captured_at FROM checkpoints WHERE id = ?), {self.engine.clock})"
            ((at,),) = run(text, [min(untimed)])
            now = moment(at)
        for new, row in parents_first(pairs):
            self._insert_or_compare(run, new, {**row, "captured_at": row["captured_at"] or row["created_at"] or now})

    def _row(self, new: NewCheckpoint) -> dict[str, Any]:
        row = encode_row(new, _GIVEN, self._codec, table=TABLE)
        return {**row, "id": row["id"] or uuid7(new.created_at)}

    def _insert_or_compare(self, run: Run, new: NewCheckpoint, row: dict[str, Any]) -> None:
        names = ("id", "agent_id", "session_id", "agent_type", "name", "owner", "parent_id", "state")
        values = [stored(row[name]) for name in (*names, "captured_at", "created_at", "updated_at")]
        try:
            run(self._insert, values)
        except Exception as error:
            if not isinstance(self.engine.translated(error, writes=False), AlreadyExists):
                raise
            if not self._is_there(run, new, row):
                raise

    def _is_there(self, run: Run, new: NewCheckpoint, row: dict[str, Any]) -> bool:
        """Return whether the row exists. Raises `AlreadyExists` if it differs from what was given."""
        found = run(f"SELECT {', '.join(_WHOLE)} FROM checkpoints WHERE id = ?", [str(row["id"])])
        if not found:
            return False
        present = dict(zip(_WHOLE, loaded(_WHOLE, found[0]), strict=True))
        wanted = {**row, "state": decode_json(row["state"])}
        compared = sorted(_COMPARED & new.model_fields_set)
        compared = [name for name in compared if not (name in _DECIDED and getattr(new, name) is None)]
        differing = [name for name in compared if not alike(present[name], wanted[name])]
        if differing:
            raise AlreadyExists(
                f"{TABLE}: row {row['id']} exists and differs in {', '.join(differing)}; "
                "repeat the call with the values of the first one, or choose another id",
                table=TABLE,
                column=differing[0],
            )
        return True

    def delete(self, id_: UUID) -> bool:
        """Delete a checkpoint. Return whether there was one."""

        def work(run: Run) -> bool:
            found = run(f"SELECT id FROM checkpoints WHERE id = ?{self.engine.for_update}", [str(id_)])
            if found:
                run("DELETE FROM checkpoints WHERE id = ?", [str(id_)])
            return bool(found)

        return self.engine.write(work, repeatable=False)

    def prune(
        self,
        max_age: timedelta | None,
        max_per_agent: int | None,
        owner: str | None,
        keep_latest: bool,
    ) -> Pruned:
        """Delete checkpoints that are too old or too many, in transactions of 500."""
        if max_age is None and max_per_agent is None:
            raise InvalidValue("checkpoints: prune needs max_age, max_per_agent or both", table=TABLE)
        if max_per_agent is not None and max_per_agent < 0:
            raise InvalidValue("checkpoints: max_per_agent must not be negative", table=TABLE)
        text, values = self._superfluous(max_age, max_per_agent, owner, keep_latest=keep_latest)
        checkpoints = size = 0
        while candidates := self.engine.read(text, values):
            gone = 0
            for start in range(0, len(candidates), _DELETED):
                batch = candidates[start : start + _DELETED]
                count, freed = self.engine.write(
                    lambda run, batch=batch: self._remove(run, batch, keep_latest=keep_latest), repeatable=False
                )
                gone, size = gone + count, size + freed
            checkpoints += gone
            if len(candidates) < _DELETED * 20 or not gone:
                break
        return Pruned(checkpoints=checkpoints, bytes=size)

    def _superfluous(
        self, max_age: timedelta | None, max_per_agent: int | None, owner: str | None, *, keep_latest: bool
    ) -> tuple[str, list[Any]]:
        """The ids of checkpoints that are too old or have enough newer ones, each with the newest of its agent."""
        values: list[Any] = []
        within_ = ""
        if owner is not None:
            within_ = " WHERE owner = ?"
            values.append(stored(owner))
        reasons: list[str] = []
        if max_age is not None:
            reasons.append(f"captured_at < (SELECT {self.engine.clock}) - ?")
            values.append(max_age // timedelta(microseconds=1))
        if max_per_agent is not None:
            reasons.append("nth > ?")
            values.append(max_per_agent)
        over = "OVER (PARTITION BY agent_id, owner ORDER BY captured_at DESC, id DESC)"
        text = (
            f"SELECT id, newest FROM (SELECT id, captured_at, row_number() {over} AS nth,"
            f" first_value(id) {over} AS newest FROM checkpoints{within_}) AS ranked"
            f" WHERE ({' OR '.join(reasons)}){' AND nth > 1' if keep_latest else ''} LIMIT {_DELETED * 20}"
        )
        return text, values

    def _remove(self, run: Run, batch: Sequence[tuple[str, str]], *, keep_latest: bool) -> tuple[int, int]:
        """Delete the candidates whose agent still has its newest checkpoint, which is locked meanwhile."""
        wanted = sorted({id_ for id_, _ in batch} | ({newest for _, newest in batch} if keep_latest else set()))
        marks = ", ".join("?" for _ in wanted)
        rows = run(
            f"SELECT id, size_bytes FROM checkpoints WHERE id IN ({marks}) ORDER BY id{self.engine.for_update}", wanted
        )
        sizes: dict[str, int] = dict(rows)
        gone = [id_ for id_, newest in batch if id_ in sizes and (newest in sizes or not keep_latest)]
        if gone:
            run(f"DELETE FROM checkpoints WHERE id IN ({', '.join('?' for _ in gone)})", gone)
        return len(gone), sum(sizes[id_] for id_ in gone)

    # ---- read --------------------------------------------------------------------------------------------------------

    def get(self, id_: UUID) -> Checkpoint | None:
        """Return the checkpoint, or None."""
        return self._one("WHERE id = ?", [str(id_)])

    def latest(self, agent_id: str, name: str | None, owner: str | None) -> Checkpoint | None:
        """Return the newest checkpoint of an agent, or None."""
        text, values = self._filters.where({"agent_id": agent_id} | given(name=name, owner=owner))
        return self._one(f"WHERE {text} ORDER BY captured_at DESC, id DESC LIMIT 1", values)

    def _one(self, rest: str, values: list[Any]) -> Checkpoint | None:
        rows = self.engine.read(f"SELECT {', '.join(_WHOLE)} FROM checkpoints {rest}", values)
        made = self._made(self._whole, _WHOLE, rows)
        return made[0] if made else None

    def summaries(
        self,
        where: Where | None,
        filters: dict[str, Any],
        order_by: Order,
        limit: int,
        offset: int,
        cursor: str | None,
        total: bool,
    ) -> Page[CheckpointSummary]:
        """Return a page of checkpoints without their states."""
        order = _FIELDS.order(order_by)
        text, values = self._filters.where(filters if where is None else all_of(filters, where))
        check_limit(limit, TABLE)
        page, given_ = text, values
        if cursor is not None:
            after, row = self._filters.after(order, read_cursor(cursor, order, _FIELDS))
            page, given_ = f"({text}) AND {after}", [*values, *row]
        selected = (
            f"SELECT {', '.join(_SUMMARY)} FROM checkpoints WHERE {page} ORDER BY {self._filters.order(order)}"
            f" LIMIT {limit + 1} OFFSET {offset}"
        )
        if total:  # of the same snapshot; one row of nulls if the page is empty
            selected = (
                f"SELECT page.*, counted.total FROM (SELECT count(*) AS total FROM checkpoints WHERE {text}) AS counted"
                f" LEFT JOIN ({selected}) AS page ON 1 = 1 ORDER BY {self._filters.order(order)}"
            )
            given_ = [*values, *given_]
        rows = self.engine.read(selected, given_)
        counted = rows[0][-1] if total else None
        found = within(limit, self._made(self._summary, _SUMMARY, [row for row in rows if row[0] is not None]))
        return Page(list(found), write_cursor(order, found[-1], TABLE) if found.more else None, counted)

    def as_of(self, session_id: str, at: datetime | None, owner: str | None, limit: int) -> Found[Checkpoint]:
        """Return the newest checkpoint of each agent of a session, as of a moment."""
        check_limit(limit, TABLE, least=0, most=2**31 - 2)
        text, values = self._filters.where({"session_id": session_id} | given(owner=owner, captured_at__lte=at))
        names = ", ".join(f"c.{name}" for name in _WHOLE)
        rows = self.engine.read(
            f"SELECT {names} FROM checkpoints c JOIN (SELECT id, row_number() OVER"
            " (PARTITION BY agent_id, owner ORDER BY captured_at DESC, id DESC) AS nth"
            f" FROM checkpoints WHERE {text}) AS ranked ON c.id = ranked.id"
            f" WHERE ranked.nth = 1 ORDER BY c.agent_id, c.owner IS NULL, c.owner LIMIT {limit + 1}",
            values,
        )
        return within(limit, self._made(self._whole, _WHOLE, rows))

    def statistics(self, agent_id: str | None, owner: str | None, limit: int) -> Found[AgentStatistics]:
        """Return the number, the bytes and the newest time of each agent's checkpoints."""
        check_limit(limit, TABLE, least=0, most=2**31 - 2)
        text, values = self._filters.where(given(agent_id=agent_id, owner=owner))
        rows = self.engine.read(
            "SELECT agent_id, owner, count(*) AS checkpoints, sum(size_bytes) AS bytes,"
            f" max(captured_at) AS newest FROM checkpoints WHERE {text} GROUP BY agent_id, owner"
            f" ORDER BY sum(size_bytes) DESC, agent_id, owner IS NULL, owner LIMIT {limit + 1}",
            values,
        )
        return within(limit, self._made(self._statistics, tuple(AgentStatistics.model_fields), rows))

    def _made(self, maker: RowMaker, names: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> list[Any]:
        return maker.make(names, [loaded(names, row) for row in rows], self._codec)
