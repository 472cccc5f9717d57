"""Demo data and the commands that show what is stored, as a person uses them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from agent_storage import sync
from agent_storage.cli.context import plain
from agent_storage.demo import ANCHOR, seed_demo
from agent_storage.errors import Conflict, InvalidValue
from agent_storage.migrations.migrator import Migrator
from agent_storage.tables import REPOSITORIES
from agent_storage.types import NewConversation, NewMessage, NewSession

COMMANDS = {
    "tables": "tables",
    "session list": "sessions",
    "session tree": "sessions",
    "conversation list": "conversations",
    "workflow list": "workflows",
    "approval list": "approvals",
    "budget tree": "pools",
}


def storage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent_storage.cli", *arguments],
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def url(server_conninfo: str) -> Iterator[str]:
    """A database with the rows of seed 1, for tests that change nothing another one looks at."""
    with psycopg.connect(server_conninfo, autocommit=True) as connection:
        connection.execute("CREATE DATABASE storage_seeded TEMPLATE template0")
        seeded = make_conninfo(server_conninfo, dbname="storage_seeded")
        Migrator(seeded).up()
        with sync.Storage.open(seeded) as opened:
            seed_demo(opened)
        yield seeded
        connection.execute("DROP DATABASE storage_seeded WITH (FORCE)")


@pytest.fixture
def seeded(url: str) -> Iterator[sync.Storage]:
    with sync.Storage.open(url) as opened:
        yield opened


def shown(url: str, *arguments: str, **environment: str) -> str:
    done = storage(*arguments, "--db", url, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked(url: str, *arguments: str) -> Any:
    return json.loads(shown(url, *arguments, "--json"))


def rows(url: str, query: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def everything(url: str) -> dict[str, list[Any]]:
    return {table: rows(url, f"SELECT * FROM {table} ORDER BY id") for table in REPOSITORIES}


# ---- demo data -----------------------------------------------------------------------------------------------------


def test_every_table_has_rows_about_two_thousand_in_all(url: str) -> None:
    counts = {table: len(found) for table, found in everything(url).items()}
    assert all(counts.values()), counts
    assert 1800 <= sum(counts.values()) <= 2200


def test_the_same_seed_gives_the_same_rows_in_another_database(url: str, sync_storage: sync.Storage) -> None:
    counts = seed_demo(sync_storage, scale=2)
    again = everything(sync_storage.database.conninfo)
    assert counts == {table: len(again[table]) for table in counts}
    for table, found in everything(url).items():  # scale 2 begins with the rows of scale 1
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
    refused = storage("seed", "demo", "--db", sync_storage.database.conninfo)
    assert (refused.returncode, refused.stderr) == (1, "error: seed 1 is already there; choose another --seed\n")
    assert everything(sync_storage.database.conninfo) == before
    with pytest.raises(InvalidValue):
        seed_demo(sync_storage, scale=0)


def test_the_ids_are_those_of_their_time_and_nothing_lies_in_the_future(url: str) -> None:
    for table, found in everything(url).items():
        assert all(row[0].version == 7 for row in found)
        moment = "('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0"
        apart = f"SELECT max(abs(extract(epoch FROM created_at) - {moment})) FROM {table}"
        assert rows(url, apart)[0][0] < 0.01, table
        latest = rows(url, f"SELECT max(greatest(created_at, updated_at)) FROM {table}")[0][0]
        assert latest <= ANCHOR, table


def test_what_the_database_keeps_up_to_date_agrees(url: str) -> None:
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
    assert {name: rows(url, query) for name, query in wrong.items()} == {name: [] for name in wrong}


def test_foreign_keys_hold(url: str) -> None:
    """COPY checks them; that they are there, and validated, is looked up."""
    keys = rows(url, "SELECT conrelid::regclass::text, convalidated FROM pg_constraint WHERE contype = 'f'")
    assert len(keys) > 20
    assert all(validated for _, validated in keys)
    assert rows(url, "SELECT count(*) > 10 FROM sessions WHERE parent_session_id IS NOT NULL") == [(True,)]
    assert rows(url, "SELECT count(*) > 5 FROM sessions WHERE forked_from_session_id IS NOT NULL") == [(True,)]


def test_budgets_add_up_through_the_tree(seeded: sync.Storage) -> None:
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


def test_an_interrupt_amid_a_large_seed_leaves_nothing(migrated: str) -> None:
    command = [sys.executable, "-m", "agent_storage.cli", "seed", "demo", "--scale", "50", "--db", migrated]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY%'"
    deadline = time.monotonic() + 30
    while rows(migrated, busy) == [(0,)]:
        assert time.monotonic() < deadline
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert errors.endswith("interrupted\n")
    assert "Traceback" not in errors
    assert not any(everything(migrated).values())


# ---- commands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_lists_are_text_and_json_and_fit_the_terminal(url: str, command: str) -> None:
    for width in (80, 120):
        lines = shown(url, *command.split(), COLUMNS=str(width)).splitlines()
        assert len(lines) > 3
        assert max(map(len, lines)) <= width
    assert len(asked(url, *command.split())[COMMANDS[command]]) > 0


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_database_is_met_with_what_to_do(migrated: str, command: str) -> None:
    assert "`storage seed demo` makes some" in shown(migrated, *command.split())
    assert isinstance(asked(migrated, *command.split())[COMMANDS[command]], list)


@pytest.mark.parametrize("group", ["seed", "session", "conversation", "workflow", "approval", "budget"])
def test_a_group_explains_itself_and_suggests_what_was_meant(group: str) -> None:
    helped = storage(group, "--help")
    assert helped.returncode == 0
    assert "tree" in helped.stdout or "list" in helped.stdout or "demo" in helped.stdout
    first = {"seed": "demo", "budget": "tree"}.get(group, "list")
    assert f"Did you mean {first}?" in (wrong := storage(group, first[:-1])).stderr
    assert wrong.returncode == 2
    assert "Example" in storage(group, first, "--help").stdout


def test_a_database_without_tables_says_how_to_make_them(database: str) -> None:
    for command in (["tables"], ["seed", "demo"], ["session", "list"]):
        refused = storage(*command, "--db", database)
        assert refused.returncode != 0
        assert "migrate up" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_seed_and_tables_count_the_same(migrated: str) -> None:
    seeded = asked(migrated, "seed", "demo", "--seed", "7", "--until", "2026-06-01")
    counted = {item["table"]: item["rows"] for item in asked(migrated, "tables")["tables"]}
    assert counted == seeded["tables"]
    assert list(counted) == list(REPOSITORIES)
    text = shown(migrated, "tables")
    assert f"{seeded['rows']:,} rows" in text
    assert "Providers of models: an API and its key." in text
    assert "2,0" in shown(migrated, "seed", "demo", "--seed", "8")


def test_a_large_table_is_estimated(migrated: str) -> None:
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("INSERT INTO boards (name, slug) SELECT 'b', n::text FROM generate_series(1, 120000) AS n")
        for _ in range(2):
            boards = next(item for item in asked(migrated, "tables")["tables"] if item["table"] == "boards")
            assert boards["estimated"]
            assert 100_000 <= boards["rows"] <= 130_000
            connection.execute("ANALYZE boards")
    assert "~120,000" in shown(migrated, "tables")


def test_sessions_by_short_id_filter_and_genealogy(url: str, seeded: sync.Storage) -> None:
    running = asked(url, "session", "list", "--status", "running", "--limit", "3")["sessions"]
    assert {item["status"] for item in running} == {"running"}
    assert "no session matches" in shown(url, "session", "list", "--agent", "nobody")
    child = seeded.sessions.find({"parent_session_id__is_null": False}, limit=1)[0]
    parent = seeded.sessions.require(child.parent_session_id)  # pyright: ignore[reportArgumentType]
    short = seeded.sessions.short_id(child.id)
    text = shown(url, "session", "show", short)
    assert str(child.id) in text
    assert "spawned by" in text
    detail = asked(url, "session", "show", short)
    assert detail["ancestors"][0]["id"] == str(parent.id)
    assert detail["tasks"]
    tree = shown(url, "session", "tree", str(parent.id))
    assert "└─ " in tree
    assert "↳" in tree
    made = asked(url, "session", "tree", str(parent.id))["sessions"][0]
    assert str(child.id) in [item["id"] for item in made["children"]]


def test_a_session_that_was_both_spawned_and_forked_stands_at_one_place(sync_storage: sync.Storage) -> None:
    first, second = (sync_storage.sessions.create(NewSession(agent=name)) for name in ("a", "b"))
    both = NewSession(agent="c", parent_session_id=first.id, forked_from_session_id=second.id)
    made = sync_storage.sessions.create(both)
    found = asked(sync_storage.database.conninfo, "session", "tree")["sessions"]
    places = [child["id"] for root in found for child in root["children"]]
    assert places == [str(made.id)]


def test_conversations_are_listed_and_read(url: str, seeded: sync.Storage) -> None:
    talk = seeded.conversations.recent(1).items[0]
    text = shown(url, "conversation", "show", seeded.conversations.short_id(talk.id))
    assert "You help the" in text
    assert "→ " in text
    assert "tokens in" in text
    some = asked(url, "conversation", "show", str(talk.id), "-n", "2")
    assert [item["position"] for item in some["messages"]] == [talk.message_count - 1, talk.message_count]
    assert "earlier messages" in shown(url, "conversation", "show", str(talk.id), "-n", "2")
    archived = asked(url, "conversation", "list", "--archived")["conversations"]
    assert archived
    assert all(item["archived_at"] for item in archived)


def test_workflows_and_runs_share_one_command(url: str, seeded: sync.Storage) -> None:
    first = asked(url, "workflow", "list")["workflows"][0]
    assert first["runs"] == 9
    assert (
        "collect (tool)" in shown(url, "workflow", "show", first["id"]) or first["name"] != "Nightly dependency review"
    )
    runs = asked(url, "workflow", "show", first["id"])["runs"]
    assert len(runs) == 9
    assert runs[0]["status"] == first["newest_status"]
    waiting = seeded.workflow_sessions.by_status("waiting_for_human_review", 1)[0]
    text = shown(url, "workflow", "show", seeded.workflow_sessions.short_id(waiting.id))
    for word in ("waits: review", "model calls", "pending", "APPROVAL"):
        assert word in text
    detail = asked(url, "workflow", "show", str(waiting.id))
    assert {item["status"] for item in detail["approvals"]} >= {"pending"}
    assert len(detail["state"]["nodes"]) == len(waiting.workflow_snapshot["nodes"])
    absent = storage("workflow", "show", "ffffffff", "--db", url)
    assert (absent.returncode, "neither a workflow nor a run" in absent.stderr) == (1, True)


def test_an_approval_is_decided_once(sync_storage: sync.Storage) -> None:
    seed_demo(sync_storage)
    database, requests = sync_storage.database.conninfo, sync_storage.approval_requests
    yes, no = requests.pending(limit=2)
    said = shown(
        database, "approval", "approve", requests.short_id(yes.id), "--by", "Ada", "--notes", "after the freeze"
    )
    assert said.startswith("approved")
    assert "by Ada" in said
    again = storage("approval", "reject", str(yes.id), "--db", database)
    assert again.returncode == 1
    assert "was approved by Ada at" in again.stderr
    decided = asked(database, "approval", "reject", str(no.id), "--reason", "too expensive")["approval"]
    assert (decided["status"], decided["resolution_notes"]) == ("rejected", "too expensive")
    assert decided["resolved_by"]
    left = {item["id"] for item in asked(database, "approval", "list")["approvals"]}
    assert not left & {str(yes.id), str(no.id)}
    assert {i["status"] for i in asked(database, "approval", "list", "--status", "rejected")["approvals"]} == {
        "rejected"
    }


def test_budgets_are_trees(url: str) -> None:
    pools = asked(url, "budget", "tree")["pools"]
    assert len(pools) == 10
    text = shown(url, "budget", "tree")
    assert "█" in text
    assert "exhausted" in text
    below = next(pool for pool in pools if pool["metadata"]["name"] == "Incident report")
    assert len(asked(url, "budget", "tree", below["id"])["pools"]) == 3


def test_an_ambiguous_or_wrong_id_is_one_sentence(url: str) -> None:
    for group, command in (
        ("session", "show"),
        ("session", "tree"),
        ("conversation", "show"),
        ("workflow", "show"),
        ("budget", "tree"),
    ):
        several = storage(group, command, "01a1", "--db", url)
        assert several.returncode == 1, (group, command)
        assert "01a1 fits several" in several.stderr
        wrong = storage(group, command, "x", "--db", url)
        assert (wrong.returncode, "is not an id" in wrong.stderr) == (1, True)


def test_a_wrong_filter_names_what_there_is(url: str) -> None:
    for group in ("session", "approval"):
        wrong = storage(group, "list", "--status", "bogus", "--db", url)
        assert wrong.returncode in (1, 2)
        assert "Traceback" not in wrong.stderr
        assert "status" in wrong.stderr


def test_stored_text_does_not_reach_the_terminal_as_commands(sync_storage: sync.Storage) -> None:
    evil = "\x1b[2Jgone\x07 [red]x[/red] \u202eabc"
    talk = sync_storage.conversations.create(NewConversation(title=evil))
    sync_storage.messages.create(NewMessage(conversation_id=talk.id, role="user", content=evil))
    sync_storage.sessions.create(NewSession(agent=evil, data={"title": evil}))  # pyright: ignore[reportArgumentType]
    session = sync_storage.sessions.find()[0]
    for command in (
        ("conversation", "list"),
        ("conversation", "show", str(talk.id)),
        ("session", "list"),
        ("session", "tree"),
        ("session", "show", str(session.id)),
    ):
        text = shown(sync_storage.database.conninfo, *command)
        assert "gone" in text
        assert "[red]x" in text
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert plain("a\tb\nc\x1b\ud800") == "a\tb\nc\\x1b\\ud800"


@pytest.mark.parametrize("command", ["session list -n 1000", "tables --json", "conversation list -n 1000 --json"])
def test_a_pipe_that_closes_is_no_error(url: str, command: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "agent_storage.cli", *command.split(), "--db", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(30), errors) == (0, b"")


def test_a_terminal_without_unicode_gets_question_marks_and_json_stays_whole(url: str) -> None:
    assert "? spawned" in shown(url, "session", "tree", PYTHONIOENCODING="ascii")
    done = storage("budget", "tree", "--json", "--db", url, PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout)["pools"]
