"""The commands that show stored rows, on demo data."""

from __future__ import annotations

import inspect

import psycopg
import pytest

from agent_storage import sync
from agent_storage.cli.context import plain
from agent_storage.demo import seed_demo
from agent_storage.tables import REPOSITORIES
from agent_storage.types import NewConversation, NewMessage, NewSession

from .conftest import asked, shown, storage

COMMANDS = {
    "tables": "tables",
    "session list": "sessions",
    "session tree": "sessions",
    "conversation list": "conversations",
    "workflow list": "workflows",
    "approval list": "approvals",
    "budget tree": "pools",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_lists_are_text_and_json_and_fit_the_terminal(seeded_database: str, command: str) -> None:
    for width in (80, 120):
        lines = shown(seeded_database, *command.split(), COLUMNS=str(width)).splitlines()
        assert len(lines) > 3
        assert max(map(len, lines)) <= width
    assert len(asked(seeded_database, *command.split())[COMMANDS[command]]) > 0


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_database_is_met_with_what_to_do(migrated: str, command: str) -> None:
    assert "`storage seed demo` makes some" in shown(migrated, *command.split())
    assert isinstance(asked(migrated, *command.split())[COMMANDS[command]], list)


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
    assert (inspect.getdoc(REPOSITORIES["providers"]) or "").partition("\n")[0].rstrip(".") in text
    again = storage("seed", "demo", "--seed", "7", "--db", migrated)
    assert (again.returncode, again.stderr) == (1, "error: seed 7 is already there; choose another --seed\n")


def test_a_large_table_is_estimated(migrated: str) -> None:
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("INSERT INTO boards (name, slug) SELECT 'b', n::text FROM generate_series(1, 120000) AS n")
        for _ in range(2):
            boards = next(item for item in asked(migrated, "tables")["tables"] if item["table"] == "boards")
            assert boards["estimated"]
            assert 100_000 <= boards["rows"] <= 130_000
            connection.execute("ANALYZE boards")
    assert "~120,000" in shown(migrated, "tables")


def test_sessions_by_short_id_filter_and_genealogy(seeded_database: str, seeded: sync.Storage) -> None:
    running = asked(seeded_database, "session", "list", "--status", "running", "--limit", "3")["sessions"]
    assert {item["status"] for item in running} == {"running"}
    assert "no session matches" in shown(seeded_database, "session", "list", "--agent", "nobody")
    child = seeded.sessions.find({"parent_session_id__is_null": False}, limit=1)[0]
    parent = seeded.sessions.require(child.parent_session_id)  # pyright: ignore[reportArgumentType]
    short = seeded.sessions.short_id(child.id)
    text = shown(seeded_database, "session", "show", short)
    assert str(child.id) in text
    assert "spawned by" in text
    detail = asked(seeded_database, "session", "show", short)
    assert detail["ancestors"][0]["id"] == str(parent.id)
    assert detail["tasks"]
    tree = shown(seeded_database, "session", "tree", str(parent.id))
    assert "└─ " in tree
    assert "↳" in tree
    made = asked(seeded_database, "session", "tree", str(parent.id))["sessions"][0]
    assert str(child.id) in [item["id"] for item in made["children"]]


def test_a_session_that_was_both_spawned_and_forked_stands_at_one_place(sync_storage: sync.Storage) -> None:
    first, second = (sync_storage.sessions.create(NewSession(agent=name)) for name in ("a", "b"))
    both = NewSession(agent="c", parent_session_id=first.id, forked_from_session_id=second.id)
    made = sync_storage.sessions.create(both)
    found = asked(sync_storage.database.conninfo, "session", "tree")["sessions"]
    places = [child["id"] for root in found for child in root["children"]]
    assert places == [str(made.id)]


def test_conversations_are_listed_and_read(seeded_database: str, seeded: sync.Storage) -> None:
    talk = seeded.conversations.recent(1).items[0]
    text = shown(seeded_database, "conversation", "show", seeded.conversations.short_id(talk.id))
    assert "You help the" in text
    assert "→ " in text
    assert "tokens in" in text
    some = asked(seeded_database, "conversation", "show", str(talk.id), "-n", "2")
    assert [item["position"] for item in some["messages"]] == [talk.message_count - 1, talk.message_count]
    assert "earlier messages" in shown(seeded_database, "conversation", "show", str(talk.id), "-n", "2")
    archived = asked(seeded_database, "conversation", "list", "--archived")["conversations"]
    assert archived
    assert all(item["archived_at"] for item in archived)


def test_workflows_and_runs_share_one_command(seeded_database: str, seeded: sync.Storage) -> None:
    first = asked(seeded_database, "workflow", "list")["workflows"][0]
    assert first["runs"] == 9
    assert (
        "collect (tool)" in shown(seeded_database, "workflow", "show", first["id"])
        or first["name"] != "Nightly dependency review"
    )
    runs = asked(seeded_database, "workflow", "show", first["id"])["runs"]
    assert len(runs) == 9
    assert runs[0]["status"] == first["newest_status"]
    waiting = seeded.workflow_sessions.by_status("waiting_for_human_review", 1)[0]
    text = shown(seeded_database, "workflow", "show", seeded.workflow_sessions.short_id(waiting.id))
    for word in ("waits: review", "model calls", "pending", "APPROVAL"):
        assert word in text
    detail = asked(seeded_database, "workflow", "show", str(waiting.id))
    assert {item["status"] for item in detail["approvals"]} >= {"pending"}
    assert len(detail["state"]["nodes"]) == len(waiting.workflow_snapshot["nodes"])
    absent = storage("workflow", "show", "ffffffff", "--db", seeded_database)
    assert (absent.returncode, "neither a workflow nor a run" in absent.stderr) == (1, True)


def test_the_lists_of_an_owner_show_no_others(seeded_database: str, seeded: sync.Storage) -> None:
    talk = seeded.conversations.recent(1).items[0]
    assert talk.owner
    mine = asked(seeded_database, "conversation", "list", "--owner", talk.owner, "-n", "1000")["conversations"]
    kept = {"owner": talk.owner, "archived_at": None}
    assert {one["owner"] for one in mine} == {talk.owner} and len(mine) == seeded.conversations.count(kept)
    assert talk.owner in shown(seeded_database, "conversation", "show", str(talk.id))

    root = seeded.sessions.roots(1)[0]
    assert root.owner
    listed = asked(seeded_database, "session", "list", "--owner", root.owner, "-n", "1000")["sessions"]
    assert {one["owner"] for one in listed} == {root.owner}
    assert len(listed) == seeded.sessions.count({"owner": root.owner})
    trees = asked(seeded_database, "session", "tree", "--owner", root.owner, "-n", "1000")["sessions"]
    assert {tree["owner"] for tree in trees} == {root.owner}
    for tree in trees:  # what came from it inherited its owner
        assert {child["owner"] for child in tree["children"]} <= {root.owner}
    assert root.owner in shown(seeded_database, "session", "show", str(root.id))

    run = seeded.workflow_sessions.find(order_by="-id", limit=1)[0]
    assert run.owner and run.workflow_id
    flows = asked(seeded_database, "workflow", "list", "--owner", run.owner)["workflows"]
    assert sum(flow["runs"] for flow in flows) == seeded.workflow_sessions.count({"owner": run.owner})
    runs = asked(seeded_database, "workflow", "show", str(run.workflow_id), "--owner", run.owner)["runs"]
    assert {one["owner"] for one in runs} == {run.owner}
    assert run.owner in shown(seeded_database, "workflow", "show", str(run.id))
    for command in (["conversation", "list"], ["session", "list"], ["session", "tree"], ["workflow", "list"]):
        assert "matches" in shown(seeded_database, *command, "--owner", "Nobody")


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


def test_a_run_is_paused_and_resumed_and_its_failed_node_retried(sync_storage: sync.Storage) -> None:
    seed_demo(sync_storage)
    database, runs = sync_storage.database.conninfo, sync_storage.workflow_sessions
    running, failed = runs.by_status("running", 1)[0], runs.by_status("failed", 1)[0]
    assert shown(database, "workflow", "pause", runs.short_id(running.id)) == f"paused {running.id}\n"
    assert asked(database, "workflow", "resume", str(running.id))["run"]["status"] == "running"
    again = storage("workflow", "resume", str(running.id), "--db", database)
    assert (again.returncode, "cannot resume: its status is running" in again.stderr) == (1, True)
    node = next(n for n in sync_storage.node_execution_states.by_session(failed.id) if n.status == "failed")
    said = shown(database, "workflow", "retry", str(failed.id), node.node_id)
    assert said == f"pending {node.node_id} of run {failed.id}, retry {node.retry_count + 1}\n"
    assert runs.require(failed.id).status == "running"


def test_budgets_are_trees(seeded_database: str) -> None:
    pools = asked(seeded_database, "budget", "tree")["pools"]
    assert len(pools) == 10
    text = shown(seeded_database, "budget", "tree")
    assert "█" in text
    assert "exhausted" in text
    below = next(pool for pool in pools if pool["metadata"]["name"] == "Incident report")
    assert len(asked(seeded_database, "budget", "tree", below["id"])["pools"]) == 3


def test_an_ambiguous_or_wrong_id_is_one_sentence(seeded_database: str) -> None:
    for group, command in (
        ("session", "show"),
        ("session", "tree"),
        ("conversation", "show"),
        ("workflow", "show"),
        ("budget", "tree"),
    ):
        several = storage(group, command, "01a1", "--db", seeded_database)
        assert several.returncode == 1, (group, command)
        assert "01a1 fits several" in several.stderr
        wrong = storage(group, command, "x", "--db", seeded_database)
        assert (wrong.returncode, "is not an id" in wrong.stderr) == (1, True)


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
