"""The migration that gives existing budgets a ledger: it adds up, and the way back keeps the amounts spent."""

from __future__ import annotations

from decimal import Decimal

import psycopg
import pytest

from agent_storage import sync
from agent_storage.migrations.errors import MigrationError
from agent_storage.migrations.migrator import Migrator

from ..conftest import fresh_database

BEFORE = "20261121095000_one_vocabulary"
ONE, TWO, LEAF = (f"0199b73d-0000-7000-8000-00000000000{n}" for n in range(1, 4))


def test_existing_pools_get_entries_that_add_up_and_the_way_back_keeps_what_was_spent(server_conninfo: str) -> None:
    with fresh_database(server_conninfo) as conninfo:
        Migrator(conninfo).up(to=BEFORE)
        with psycopg.connect(conninfo) as connection:
            connection.execute(
                f"""
                INSERT INTO budget_pools (id, parent_pool_id, total_budget, used_budget, status) VALUES
                    ('{ONE}', NULL, 100, 30, 'active'),
                    ('{TWO}', '{ONE}', 50, 20, 'exhausted'),      -- by hand
                    ('{LEAF}', '{TWO}', 25, 25, 'active')         -- created with an amount that no parent knew of
            """.encode()
            )
        Migrator(conninfo).up()
        with sync.Storage(conninfo) as storage:
            entries = {str(item.pool_id): (item.kind, item.amount) for item in storage.budget_entries.find()}
            assert entries == {
                ONE: ("spend", Decimal(10)), TWO: ("refund", Decimal(5)), LEAF: ("spend", Decimal(25))
            }  # fmt: skip
            pools = {str(item.id): item for item in storage.budget_pools.find()}
            assert [(pools[id_].used_budget, pools[id_].status) for id_ in (ONE, TWO, LEAF)] == [
                (30, "active"), (20, "active"), (25, "exhausted")
            ]  # fmt: skip
            held = storage.budget_pools.reserve(pools[TWO].id, Decimal(30))
            assert storage.budget_pools.spend(pools[ONE].id, Decimal(1)).remaining_budget == 39
            assert held.status == "held"
        Migrator(conninfo).down(to=BEFORE)
        with psycopg.connect(conninfo) as connection:
            rows = connection.execute("SELECT used_budget, remaining_budget, status FROM budget_pools ORDER BY id")
            assert rows.fetchall() == [(31, 69, "active"), (20, 30, "active"), (25, 0, "exhausted")]
        Migrator(conninfo).up()


def test_pools_that_are_above_themselves_stop_it_with_a_sentence(server_conninfo: str) -> None:
    with fresh_database(server_conninfo) as conninfo:
        Migrator(conninfo).up(to=BEFORE)
        with psycopg.connect(conninfo) as connection:
            connection.execute(
                f"""
                INSERT INTO budget_pools (id, parent_pool_id, total_budget)
                VALUES ('{ONE}', '{TWO}', 1), ('{TWO}', '{ONE}', 1)
            """.encode()
            )
        with pytest.raises(MigrationError, match="above themselves"):
            Migrator(conninfo).up()
