"""Demo data: every table has rows, they fit together, and the same seed gives the same rows."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from agent_storage import sync
from agent_storage.demo import ANCHOR, seed_demo
from agent_storage.errors import Conflict, InvalidValue
from agent_storage.tables import REPOSITORIES


def rows(url: str, query: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def everything(url: str) -> dict[str, list[Any]]:
    return {table: rows(url, f"SELECT * FROM {table} ORDER BY id") for table in REPOSITORIES}


def test_every_table_has_rows_about_two_thousand_in_all(seeded_database: str) -> None:
    counts = {table: len(found) for table, found in everything(seeded_database).items()}
    assert all(counts.values()), counts
    assert 1800 <= sum(counts.values()) <= 2200


def test_the_same_seed_gives_the_same_rows_in_another_database(
    seeded_database: str, sync_storage: sync.Storage
) -> None:
    counts = seed_demo(sync_storage, scale=2)
    again = everything(sync_storage.database.conninfo)
    assert counts == {table: len(again[table]) for table in counts}
    for table, found in everything(seeded_database).items():  # scale 2 begins with the rows of scale 1
        ids = {row[0] for row in found}
        assert [row for row in again[table] if row[0] in ids] == found, table


def test_another_seed_fits_beside_it_and_the_same_one_is_refused_before_it_writes(sync_storage: sync.Storage) -> None:
    told: list[tuple[int, int]] = []
    seed_demo(sync_storage, seed=1, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]
    seed_demo(sync_storage, seed=2)
    before = everything(sync_storage.database.conninfo)
    with pytest.raises(Conflict, match="seed 2 is already there; choose another --seed"):
        seed_demo(sync_storage, scale=3, seed=2)
    assert everything(sync_storage.database.conninfo) == before
    with pytest.raises(InvalidValue):
        seed_demo(sync_storage, scale=0)


def test_the_ids_are_those_of_their_time_and_nothing_lies_in_the_future(seeded_database: str) -> None:
    for table, found in everything(seeded_database).items():
        assert all(row[0].version == 7 for row in found)
        moment = "('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0"
        apart = f"SELECT max(abs(extract(epoch FROM created_at) - {moment})) FROM {table}"
        assert rows(seeded_database, apart)[0][0] < 0.01, table
        latest = rows(seeded_database, f"SELECT max(greatest(created_at, updated_at)) FROM {table}")[0][0]
        assert latest <= ANCHOR, table


def test_what_the_database_keeps_up_to_date_agrees(seeded_database: str) -> None:
    wrong = {
        "message_count": """SELECT c.id FROM conversations c LEFT JOIN messages m ON m.conversation_id = c.id
                             GROUP BY c.id HAVING count(m.id) <> c.message_count
                                OR max(m.position) <> c.message_count OR max(m.created_at) <> c.last_message_at""",
        "last_sequence": """SELECT s.id FROM event_streams s LEFT JOIN stream_events e USING (stream_id)
                             GROUP BY s.id HAVING count(e.id) <> s.last_sequence OR max(sequence) <> last_sequence""",
        "depends_on": """SELECT t.id FROM ticket_tasks t, unnest(t.depends_on) d (id)
                          WHERE NOT EXISTS (
                                SELECT FROM ticket_tasks o WHERE o.id = d.id AND o.ticket_id = t.ticket_id)""",
        "pending_approval_id": """SELECT n.id FROM node_execution_states n LEFT JOIN approval_requests a
                                     ON a.id = n.pending_approval_id AND a.session_id = n.session_id
                                  WHERE n.pending_approval_id IS NOT NULL AND a.id IS NULL""",
        "genealogy": """SELECT s.id FROM sessions s WHERE s.data -> 'genealogy' <> '{}' AND NOT EXISTS (
                         SELECT FROM tasks t WHERE t.session_id IN (s.parent_session_id, s.forked_from_session_id)
                            AND t.id::text IN (s.data #>> '{genealogy,fork_point_task_id}',
                                               s.data #>> '{genealogy,spawn_point_task_id}'))""",
        "session_ids": """SELECT b.id FROM boards b, jsonb_array_elements_text(data->'session_ids') i (id)
                           WHERE NOT EXISTS (
                                 SELECT FROM sessions s WHERE s.id::text = i.id AND s.board_id = b.id)""",
    }
    assert {name: rows(seeded_database, query) for name, query in wrong.items()} == {name: [] for name in wrong}


def test_foreign_keys_hold(seeded_database: str) -> None:
    """COPY checks them; that they are there, and validated, is looked up."""
    keys = rows(seeded_database, "SELECT conrelid::regclass::text, convalidated FROM pg_constraint WHERE contype = 'f'")
    assert len(keys) > 20
    assert all(validated for _, validated in keys)
    assert rows(seeded_database, "SELECT count(*) > 10 FROM sessions WHERE parent_session_id IS NOT NULL") == [(True,)]
    assert rows(seeded_database, "SELECT count(*) > 5 FROM sessions WHERE forked_from_session_id IS NOT NULL") == [
        (True,)
    ]


def test_budgets_add_up_through_the_tree(seeded_database: str) -> None:
    with sync.Storage(seeded_database) as seeded:
        _add_up(seeded)


def _add_up(seeded: sync.Storage) -> None:
    pools = {pool.id: pool for pool in seeded.budget_pools.find(limit=1000)}
    spent: defaultdict[Any, Decimal] = defaultdict(Decimal)
    charged = {state.session_id: state.budget_pool_id for state in seeded.execution_states.find(limit=1000)}
    for call in seeded.llm_executions.find(limit=1000):
        pool = charged[call.session_id]
        while pool is not None:
            spent[pool] += call.cost or 0
            pool = pools[pool].parent_pool_id
    assert {pool.id: pool.used_budget for pool in pools.values()} == {id_: spent[id_] for id_ in pools}
    assert {pool.status for pool in pools.values()} == {"active", "exhausted", "suspended"}
    assert all(pool.status == "exhausted" for pool in pools.values() if not pool.remaining_budget)


def test_repositories_go_on_where_the_demo_data_ends(sync_storage: sync.Storage) -> None:
    seed_demo(sync_storage)
    talk = sync_storage.conversations.recent(1).items[0]
    added = sync_storage.messages.append(talk.id, "user", "One more thing.")
    assert added.position == talk.message_count + 1
    stream = sync_storage.event_streams.find(limit=1)[0]
    assert sync_storage.stream_events.publish(stream.stream_id).sequence == stream.last_sequence + 1
