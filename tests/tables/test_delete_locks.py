"""`lock_for_delete` locks what the foreign keys will delete and change, for the shipped tables without the catalog."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from agent_storage import NotFound, Storage, sync
from agent_storage.sync.tables import REPOSITORIES
from agent_storage.types import NewProject, NewTicket

from ..rows import Factory, parents_first

TABLES = sorted(REPOSITORIES)
#: What refers to rows that are deleted or change with them.
PARENTS = """
    SELECT DISTINCT confrelid::regclass::text
      FROM pg_constraint WHERE contype = 'f' AND confdeltype IN ('c', 'n') ORDER BY 1
"""
#: Every table with an id.
KNOWN = (
    "SELECT DISTINCT table_name::text FROM information_schema.columns WHERE column_name = 'id' AND data_type = 'uuid'"
)
#: A user's table that goes with its ticket.
NOTES = """
    CREATE TABLE notes (
        id        uuid PRIMARY KEY DEFAULT uuid_v7(),
        ticket_id uuid NOT NULL REFERENCES tickets (id) ON DELETE CASCADE,
        body      text NOT NULL DEFAULT ''
    )
"""

Locks = dict[str, dict[UUID, str]]


@pytest.fixture
def connection(migrated: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(migrated, autocommit=True) as opened:
        yield opened


@pytest.fixture
def filled(migrated: str) -> dict[str, list[UUID]]:
    """Rows in every table; a message has replies, a checkpoint has children, a task is needed by another one."""
    with sync.Storage(migrated) as storage:
        factory = Factory(storage, 7)
        for table in parents_first():
            number = 1 if table == "execution_states" else 9
            news = [factory.new(table, number) for number in range(number)]
            factory.ids[table] = [row.id for row in getattr(storage, table).create_many(news)]
        factory.ids["event_streams"] = [row.id for row in storage.event_streams.find()]
        with storage.connection() as connection:
            connection.execute("UPDATE checkpoints SET parent_id = (SELECT min(id::text)::uuid FROM checkpoints)")
            connection.execute(
                "UPDATE messages m SET parent_id = (SELECT min(o.id::text)::uuid FROM messages o"
                " WHERE o.conversation_id = m.conversation_id AND o.id < m.id)"
            )
            connection.execute(
                "UPDATE ticket_tasks t SET depends_on = ARRAY(SELECT o.id FROM ticket_tasks o"
                " WHERE o.ticket_id = t.ticket_id AND o.id < t.id)"
            )
    return factory.ids


def locks(connection: psycopg.Connection, migrated: str, function: str, table: str, ids: list[UUID]) -> Locks:
    """The rows that another session finds locked after the function ran, and how strongly."""
    query = sql.SQL("SELECT {}(%s::regclass, %s)").format(sql.Identifier(function))
    found: Locks = {}
    with connection.transaction(force_rollback=True), psycopg.connect(migrated) as other:
        connection.execute(query, [table, ids])
        known = [row[0] for row in other.execute(KNOWN)]
        for name in known:
            rows = {row[0] for row in other.execute(_select(name, ""))}
            free = {row[0] for row in other.execute(_select(name, "FOR NO KEY UPDATE SKIP LOCKED"))}
            referable = {row[0] for row in other.execute(_select(name, "FOR KEY SHARE SKIP LOCKED"))}
            other.rollback()
            if locked := {row: "NO KEY UPDATE" if row in referable else "UPDATE" for row in rows - free}:
                found[name] = locked
    return found


def _select(table: str, lock: str) -> sql.Composed:
    return sql.SQL("SELECT id FROM {} {}").format(sql.Identifier(table), sql.SQL(lock))  # type: ignore[arg-type]


@pytest.mark.parametrize("table", TABLES)
def test_the_statements_of_a_shipped_table_lock_what_its_foreign_keys_say(
    connection: psycopg.Connection, migrated: str, filled: dict[str, list[UUID]], table: str
) -> None:
    ids = random.Random(table).sample(filled[table], min(3, len(filled[table])))
    read = locks(connection, migrated, "lock_by_foreign_keys", table, [*ids, uuid4()])
    assert read[table].keys() >= set(ids)
    assert locks(connection, migrated, "lock_for_delete", table, [*ids, uuid4()]) == read


def test_each_shipped_parent_has_its_statements_and_a_single_row_of_another_table_needs_none(
    connection: psycopg.Connection,
) -> None:
    parents = {row[0] for row in connection.execute(PARENTS)}
    with connection.transaction(force_rollback=True):
        connection.execute("DROP FUNCTION lock_by_foreign_keys")
        for table in sorted({*TABLES} - {"budget_pools", "budget_reservations"}):
            ids = [uuid4(), uuid4()] if table in parents else [uuid4()]
            connection.execute("SELECT lock_for_delete(%s::regclass, %s)", [table, ids])


def test_a_table_that_refers_to_a_shipped_one_is_locked_too(
    connection: psycopg.Connection, migrated: str, filled: dict[str, list[UUID]]
) -> None:
    connection.execute(NOTES)
    ticket = filled["tickets"][0]
    made = connection.execute("INSERT INTO notes (ticket_id) VALUES (%s), (%s) RETURNING id", [ticket, ticket])
    note = made.fetchone()
    assert note is not None
    assert note[0] in locks(connection, migrated, "lock_for_delete", "tickets", [ticket])["notes"]
    assert note[0] in locks(connection, migrated, "lock_for_delete", "projects", filled["projects"])["notes"]


async def test_120_deletes_of_tickets_beside_updates_of_a_table_that_refers_to_them_do_not_deadlock(
    connection: psycopg.Connection, migrated: str
) -> None:
    connection.execute(NOTES)
    async with Storage(migrated, pool_max=60, multiplex=0) as storage:
        project = await storage.projects.create(NewProject(name="p", path="/p"))
        tickets = await storage.tickets.create_many([NewTicket(project_id=project.id, title="t")] * 60)
        ids = [row.id for row in tickets]
        connection.execute("INSERT INTO notes (ticket_id) SELECT unnest(%s::uuid[]) FROM generate_series(1, 3)", [ids])
        notes = [row[0] for row in connection.execute("SELECT id FROM notes")]

        async def call(number: int) -> None:
            dice = random.Random(number)
            if number % 3 == 0:
                await storage.tickets.delete_many(dice.sample(ids, 4))
            elif number % 3 == 1:
                await storage.tickets.update_many(dice.sample(ids, 12), {"title": "x"})
            else:
                async with storage.connection() as other:
                    await other.execute(
                        "WITH locked AS (SELECT id FROM notes WHERE id = ANY (%s) ORDER BY id FOR NO KEY UPDATE)"
                        " UPDATE notes SET body = 'x' FROM locked WHERE notes.id = locked.id",
                        [dice.sample(notes, 40)],
                    )

        await asyncio.gather(*map(call, range(120)))
    assert connection.execute(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone() == (0,)


@pytest.mark.parametrize("table", ["tickets", "ticket_comments", "projects"])
async def test_a_role_that_may_delete_but_not_lock_the_rows_below_deletes(
    connection: psycopg.Connection, migrated: str, filled: dict[str, list[UUID]], table: str
) -> None:
    role = f"role_{uuid4().hex[:12]}"
    connection.execute(f"CREATE ROLE {role}")
    connection.execute(f"GRANT SELECT, DELETE ON {table} TO {role}")
    connection.execute(f"GRANT SELECT ON ticket_tasks TO {role}")
    try:
        async with Storage(migrated, multiplex=0) as storage, storage.transaction() as transaction:
            async with transaction.connection() as one:
                await one.execute(f"SET LOCAL ROLE {role}")
            repository = getattr(transaction, table)
            assert await repository.delete(filled[table][0])
            assert await repository.delete_many(filled[table][1:4]) == 3
            with pytest.raises(NotFound):
                await repository.require(filled[table][0])
    finally:
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")
