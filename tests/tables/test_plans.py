"""The reads that an application's pages run use their indexes: no sequential scan of a big table, at 100,000 rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from agent_storage import any_of, sync
from agent_storage.migrations.migrator import Migrator
from agent_storage.types import NewApprovalRequest, NewBudgetPool, NewNodeExecutionState

from ..conftest import fresh_database
from ..recording import Recorded, nodes

#: 100,000 rows in every table that grows, linked 100 to 1; ids are the row's number, so every test knows them.
ID = "(lpad(to_hex({}), 16, '0') || '7000800000000000')::uuid"
BIG, SMALL = 100_000, 1_000


MEANT = {
    "@own": ID.format("n"),
    "@above": ID.format(f"1 + n % {SMALL}"),
    "@parent": f"CASE WHEN n > {SMALL} THEN {ID.format(f'1 + n % {SMALL}')} END",
    "@when": "now() - n * interval '1 minute'",
    "@later": "now() + n * interval '1 hour'",
    "@label": "ARRAY['label ' || n % 2000]",
    "@whose": "CASE WHEN n % 3 > 0 THEN 'owner ' || n % 5000 END",
}


def insert(table: str, columns: str, values: str, rows: int) -> str:
    for name, meant in MEANT.items():
        values = values.replace(name, meant)
    return f"INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(1, {rows}) AS n"


ROWS = [
    ("providers", "id, name, kind", "@own, 'provider ' || n, 'k'", 10),
    ("projects", "id, name, path, owner", "@own, 'project ' || n, '/p/' || n, @whose", SMALL),
    ("conversations", "id, project_id, last_message_at, archived_at, owner",
     "@own, @above, @when, CASE WHEN n % 9 = 0 THEN now() END, @whose", BIG),
    ("messages", "id, conversation_id, position, role, content, created_at",
     "@own, @above, n, 'user', to_jsonb('words ' || n), @when", BIG),
    ("tool_results", "id, conversation_id, tool_call_id, tool_name, created_at",
     "@own, @above, 'c', 'tool ' || n % 9, @when", BIG),
    ("checkpoints", "id, agent_id, session_id, agent_type, state, captured_at, owner",
     "@own, 'agent ' || n % 1000, 'session ' || n % 5000, 'type ' || n % 50, '1', @when, @whose", BIG),
    ("boards", "id, name, slug", "@own, 'b', 'board ' || n", SMALL),
    ("repos", "id, slug", "@own, 'repo ' || n", SMALL),
    ("sessions", "id, agent, status, board_id, repo_id, parent_session_id, owner",
     "@own, 'a', ('{idle,running,completed,failed}'::text[])[1 + n % 4], @above, @above, @parent, @whose", BIG),
    ("tasks", "id, session_id, status",
     "@own, @above, CASE WHEN n % 500 = 0 THEN 'running' ELSE 'completed' END", BIG),
    ("project_files", "id, project_id, path", "@own, @above, 'file ' || n", BIG),
    ("tickets", "id, project_id, title, status, assignee, labels",
     "@own, @above, 't', ('{open,done,closed}'::text[])[1 + n % 3], 'person ' || n % 500, @label", BIG),
    ("ticket_tasks", "id, ticket_id, content, position, depends_on",
     f"@own, @above, 'c', n, CASE WHEN n > {SMALL} THEN ARRAY[{ID.format(f'n - {SMALL}')}] ELSE '{{}}' END", BIG),
    ("ticket_comments", "id, ticket_id, author, body", "@own, @above, 'a', 'b'", BIG),
    ("workflows", "id, name, version, definition, owner", "@own, 'workflow ' || n % 5000, n::text, '{}', @whose", BIG),
    ("workflow_sessions", "id, workflow_id, workflow_snapshot, status, owner",
     "@own, @above, '{}', CASE WHEN n % 100 = 0 THEN 'running' ELSE 'completed' END, @whose", BIG),
    ("budget_pools", "id, parent_pool_id, total_budget, reserved_budget", "@own, @parent, 100, 1", BIG),
    ("budget_reservations", "id, pool_id, amount, status, settled_amount, session_id, expires_at",
     "@own, @above, 1, CASE WHEN n % 400 = 0 THEN 'held' ELSE 'settled' END, nullif(sign(n % 400), 0), @above, @later",
     BIG),
    ("budget_entries", "id, pool_id, kind, amount, to_pool_id, key, session_id",
     "@own, @above, CASE n % 9 WHEN 0 THEN 'transfer' ELSE 'spend' END, 1, CASE n % 9 WHEN 0 THEN @own END, n, @above",
     BIG),
    ("execution_states", "id, session_id", "@own, @own", BIG),
    ("node_execution_states", "id, session_id, node_id", "@own, @above, 'node ' || n", BIG),
    ("llm_executions", "id, session_id, node_id, created_at", "@own, @above, 'node ' || n % 7, @when", BIG),
    ("tool_call_logs", "id, execution_id, tool_call_id, tool_name", "@own, @own, 'c', 't'", BIG),
    ("approval_requests", "id, session_id, node_id, type, expires_at, status, resolved_at, resolved_by",
     ("@own, @above, 'n', 'human_review', @later, CASE WHEN n % 400 = 0 THEN 'pending' ELSE 'approved' END,"
      " CASE WHEN n % 400 <> 0 THEN now() END, CASE WHEN n % 400 <> 0 THEN 'ada' END"), BIG),
    ("event_streams", "stream_id, last_sequence", "'stream ' || n, 1000", SMALL),
    ("stream_events", "id, stream_id, sequence", f"@own, 'stream ' || 1 + n % {SMALL}, n", BIG),
]  # fmt: skip
GROWING = {table for table, _, _, rows in ROWS if rows == BIG}


@pytest.fixture(scope="module")
def big(server_conninfo: str) -> Iterator[sync.Storage]:
    """A database with 100,000 rows in every table that grows."""
    with fresh_database(server_conninfo) as conninfo:
        Migrator(conninfo).up()
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("SET session_replication_role = replica")  # references hold by construction
            for row in ROWS:
                connection.execute(insert(*row))
            connection.execute("VACUUM ANALYZE")
        with sync.Storage(conninfo) as storage:
            yield storage


def id_of(number: int) -> UUID:
    return UUID(f"{number:016x}7000800000000000")


ONE, FAR = id_of(77), id_of(90_077)
RECENTLY = datetime.now(UTC) - timedelta(hours=1)

#: Every read that a page runs, by name.
READS: dict[str, Callable[[Any], object]] = {
    "conversations.recent": lambda s: s.conversations.recent(),
    "conversations.recent archived": lambda s: s.conversations.recent(archived=True),
    "conversations.recent of a project": lambda s: s.conversations.recent(project_id=ONE),
    "conversations.forks": lambda s: s.conversations.forks(ONE),
    "conversations.recent of an owner": lambda s: s.conversations.recent(owner="owner 7"),
    "conversations.recent archived, of an owner": lambda s: s.conversations.recent(owner="owner 7", archived=True),
    "conversations of an owner": lambda s: s.conversations.page({"owner": "owner 7"}, "-last_message_at"),
    "conversations.usage": lambda s: s.conversations.usage(ONE),
    "messages.latest": lambda s: s.messages.latest(ONE),
    "messages.page": lambda s: s.messages.page(ONE, limit=20, after=5000),
    "messages.page before": lambda s: s.messages.page(ONE, limit=20, before=5000),
    "messages.thread": lambda s: s.messages.thread(ONE),
    "messages.search": lambda s: s.messages.search("12345"),
    "messages.search of first letters": lambda s: s.messages.search("word"),
    "messages.search in a conversation": lambda s: s.messages.search("12345", conversation_id=ONE),
    "messages.search of an owner": lambda s: s.messages.search("12345", owner="owner 7"),
    "messages.search in a project": lambda s: s.messages.search("12345", project_id=ONE, role="user", since=RECENTLY),
    "messages.usage_by": lambda s: s.messages.usage_by("day", "model", since=RECENTLY),
    "messages.usage_by of an owner": lambda s: s.messages.usage_by("day", owner="owner 7"),
    "messages.usage_by of an owner, lately": lambda s: s.messages.usage_by("day", owner="owner 7", since=RECENTLY),
    "messages.usage_by of a project": lambda s: s.messages.usage_by("day", project_id=ONE, since=RECENTLY),
    "tool_results.by_conversation": lambda s: s.tool_results.by_conversation(ONE),
    "tool_results.stats": lambda s: s.tool_results.stats(RECENTLY),
    "checkpoints.latest": lambda s: s.checkpoints.latest("agent 7"),
    "checkpoints.by_agent": lambda s: s.checkpoints.by_agent("agent 7"),
    "checkpoints.as_of": lambda s: s.checkpoints.as_of("session 7", RECENTLY),
    "checkpoints.statistics of an agent": lambda s: s.checkpoints.statistics("agent 7"),
    "checkpoints.summaries": lambda s: s.checkpoints.summaries(),
    "checkpoints.summaries of a session": lambda s: s.checkpoints.summaries(session_id="session 7"),
    "checkpoints.summaries of a type": lambda s: s.checkpoints.summaries(agent_type="type 7", before=RECENTLY),
    "checkpoints.latest of an owner": lambda s: s.checkpoints.latest("agent 7", owner="owner 7"),
    "checkpoints.summaries of an owner": lambda s: s.checkpoints.summaries(owner="owner 7"),
    "checkpoints.summaries of an owner, ascending": lambda s: s.checkpoints.summaries(
        owner="owner 7", order_by="captured_at"
    ),
    "checkpoints.prune of an owner": lambda s: s.checkpoints.prune(max_per_agent=1, owner="owner 11"),
    "boards.get_by": lambda s: s.boards.get_by(slug="board 7"),
    "sessions.by_status": lambda s: s.sessions.by_status("running"),
    "sessions.by_board": lambda s: s.sessions.by_board(ONE),
    "sessions.roots": lambda s: s.sessions.roots(),
    "sessions.by_status of an owner": lambda s: s.sessions.by_status("running", owner="owner 7"),
    "sessions.by_board of an owner": lambda s: s.sessions.by_board(ONE, owner="owner 7"),
    "sessions.roots of an owner": lambda s: s.sessions.roots(owner="owner 7"),
    "sessions of an owner": lambda s: s.sessions.page({"owner": "owner 7"}, "-id"),
    "sessions.children": lambda s: s.sessions.children(ONE),
    "sessions.descendants": lambda s: s.sessions.descendants(ONE),
    "sessions.ancestors": lambda s: s.sessions.ancestors(FAR),
    "sessions.resolve": lambda s: s.sessions.resolve(FAR.hex[:20]),
    "sessions.short_id": lambda s: s.sessions.short_id(FAR),
    "tasks.by_session": lambda s: s.tasks.by_session(ONE),
    "tasks.running": lambda s: s.tasks.running(),
    "projects.overview": lambda s: s.projects.overview(),
    "projects.overview of an owner": lambda s: s.projects.overview(owner="owner 7"),
    "tickets.with_tasks": lambda s: s.tickets.with_tasks(ONE),
    "tickets.details": lambda s: s.tickets.details(FAR),
    "tickets.statistics": lambda s: s.tickets.statistics(ONE),
    "projects.statistics": lambda s: s.projects.statistics(ONE),
    "tickets of a project": lambda s: s.tickets.page({"project_id": ONE, "status": "open"}),
    "tickets of a person": lambda s: s.tickets.page({"assignee": "person 7"}),
    "tickets with a label": lambda s: s.tickets.find({"labels__contains": ["label 7"]}),
    "tickets of a person or a project": lambda s: s.tickets.find(any_of({"assignee": "person 7"}, {"project_id": ONE})),
    "tickets.count_by": lambda s: s.tickets.count_by("status", {"project_id": ONE}),
    "tickets.update_where": lambda s: s.tickets.update_where({"project_id": ONE}, {"title": "x"}),
    "tickets.delete_where": lambda s: s.tickets.delete_where({"project_id": FAR}),
    "node_execution_states.upsert": lambda s: s.node_execution_states.upsert(
        NewNodeExecutionState(session_id=ONE, node_id="node 3")
    ),
    "ticket_tasks.by_ticket": lambda s: s.ticket_tasks.by_ticket(ONE),
    "ticket_tasks.available": lambda s: s.ticket_tasks.available(ONE),
    "ticket_tasks.blocked": lambda s: s.ticket_tasks.blocked(ONE),
    "ticket_tasks.delete": lambda s: s.ticket_tasks.delete(FAR),
    "ticket_comments.by_ticket": lambda s: s.ticket_comments.by_ticket(ONE),
    "a file by its path": lambda s: s.project_files.find({"project_id": id_of(78), "path": "file 77"}),
    "workflows.by_name": lambda s: s.workflows.by_name("workflow 7"),
    "workflows.by_name of an owner": lambda s: s.workflows.by_name("workflow 7", owner="owner 7"),
    "workflows of an owner": lambda s: s.workflows.page({"owner": "owner 7"}, "-id"),
    "workflow_sessions.by_workflow of an owner": lambda s: s.workflow_sessions.by_workflow(ONE, owner="owner 7"),
    "workflow_sessions.by_status of an owner": lambda s: s.workflow_sessions.by_status("completed", owner="owner 7"),
    "workflow_sessions of an owner": lambda s: s.workflow_sessions.page({"owner": "owner 7"}, "-id"),
    "workflow_sessions.by_workflow": lambda s: s.workflow_sessions.by_workflow(ONE),
    "workflow_sessions.by_status": lambda s: s.workflow_sessions.by_status("running"),
    "execution_states.get_by": lambda s: s.execution_states.get_by(session_id=ONE),
    "node_execution_states.by_session": lambda s: s.node_execution_states.by_session(ONE),
    "llm_executions.by_session": lambda s: s.llm_executions.by_session(ONE),
    "llm_executions.by_node": lambda s: s.llm_executions.by_node(ONE, "node 3"),
    "llm_executions.usage": lambda s: s.llm_executions.usage(ONE),
    "llm_executions.usage_by": lambda s: s.llm_executions.usage_by("day", "model", since=RECENTLY),
    "llm_executions.usage_by of an owner": lambda s: s.llm_executions.usage_by("day", owner="owner 7"),
    "llm_executions.usage_by a workflow": lambda s: s.llm_executions.usage_by("day", workflow_id=ONE, since=RECENTLY),
    "tool_call_logs.by_execution": lambda s: s.tool_call_logs.by_execution(ONE),
    "tool_call_logs.by_session": lambda s: s.tool_call_logs.by_session(ONE),
    "approval_requests.pending": lambda s: s.approval_requests.pending(),
    "approval_requests.pending of a run": lambda s: s.approval_requests.pending({"session_id": ONE}),
    "approval_requests.approve": lambda s: s.approval_requests.approve(id_of(400), "ada"),
    "approval_requests.expire": lambda s: s.approval_requests.expire(id_of(800)),
    "approval_requests.ask": lambda s: s.approval_requests.ask(
        NewApprovalRequest(session_id=id_of(100), node_id="n", type="human_review")
    ),
    "workflow_sessions.pause": lambda s: s.workflow_sessions.pause(id_of(200)),
    "workflow_sessions.resume": lambda s: s.workflow_sessions.resume(id_of(200)),
    "tool_call_logs of a run": lambda s: s.tool_call_logs.find({"session_id": ONE, "tool_name": "t"}, "-id"),
    "approval_requests.by_session": lambda s: s.approval_requests.by_session(ONE),
    "approval_requests.expire_overdue": lambda s: s.approval_requests.expire_overdue(),
    "budget_pools.children": lambda s: s.budget_pools.children(ONE),
    "budget_pools.subtree": lambda s: s.budget_pools.subtree(ONE),
    "budget_pools.spend": lambda s: s.budget_pools.spend(FAR, 1),
    "budget_pools.spend again": lambda s: s.budget_pools.spend(ONE, 1, key="new"),
    "budget_pools.reserve": lambda s: s.budget_pools.reserve(FAR, 1),
    "budget_pools.settle": lambda s: s.budget_pools.settle(id_of(400), 1),
    "budget_pools.release_overdue": lambda s: s.budget_pools.release_overdue(),
    "budget_entries.by_pool": lambda s: s.budget_entries.by_pool(ONE),
    "budget_entries.by_session": lambda s: s.budget_entries.by_session(ONE),
    "budget_reservations.by_pool": lambda s: s.budget_reservations.by_pool(ONE),
    "budget_reservations.by_session": lambda s: s.budget_reservations.by_session(ONE),
    "stream_events.read": lambda s: s.stream_events.read("stream 7", after=50_000),
    "stream_events.read of a generation": lambda s: s.stream_events.read("stream 7", after=50_000, generation=ONE),
    "stream_events.head": lambda s: s.stream_events.head("stream 7"),
    "get": lambda s: s.messages.get(FAR),
    "newest first": lambda s: s.workflow_sessions.page(order_by="-id"),
    "update_many": lambda s: s.tickets.update_many([ONE, FAR], {"title": "x"}),
    "delete_many": lambda s: s.ticket_comments.delete_many([ONE, FAR]),
    "update": lambda s: s.tickets.update(FAR, title="x"),
}


@pytest.mark.parametrize("read", READS)
def test_no_promised_read_scans_a_big_table(big: sync.Storage, read: str) -> None:
    recorded = Recorded(big, explain=True)
    READS[read](recorded)
    assert recorded.log.plans
    for name, plan in recorded.log.plans:
        scanned = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"} & GROWING
        assert not scanned, f"{name} scans {scanned}"


def test_no_statement_of_the_triggers_and_functions_of_the_budgets_scans_a_table(big: sync.Storage) -> None:
    scans = "SELECT relname FROM pg_stat_xact_user_tables WHERE relname LIKE 'budget%%' AND seq_scan > 0"
    calls: tuple[Callable[[Any], object], ...] = (
        lambda pools: pools.spend(FAR, 1, key="a"),
        lambda pools: pools.spend(FAR, 1, key="a"),
        lambda pools: pools.refund(FAR, 1),
        lambda pools: pools.transfer(ONE, FAR, 1),
        lambda pools: pools.settle(pools.reserve(FAR, 1).id, 2),
        lambda pools: pools.release(pools.reserve(FAR, 1).id),
        lambda pools: pools.create(NewBudgetPool(id=id_of(BIG + 1), parent_pool_id=FAR, total_budget=Decimal(1))),
    )
    with big.transaction() as tx:
        for call in calls:
            call(tx.budget_pools)
        connection: psycopg.Connection[Any] = cast(Any, tx.budget_pools.runner).connection
        assert connection.execute(scans).fetchall() == []


#: The lists of an owner with the index that has their order, so that the first page reads no more than a page.
BY_OWNER: dict[str, Callable[[Any], object]] = {
    "conversations_owner_idx": lambda s: s.conversations.page({"owner": "owner 7"}, "-last_message_at"),
    "projects_owner_idx": lambda s: s.projects.page({"owner": "owner 7"}, "-id"),
    "sessions_owner_idx": lambda s: s.sessions.page({"owner": "owner 7"}, "-id"),
    "workflows_owner_idx": lambda s: s.workflows.page({"owner": "owner 7"}, "-id"),
    "workflow_sessions_owner_idx": lambda s: s.workflow_sessions.page({"owner": "owner 7"}, "-id"),
    "checkpoints_owner_idx": lambda s: s.checkpoints.summaries(owner="owner 7"),
}


@pytest.mark.parametrize("index", BY_OWNER)
def test_the_list_of_an_owner_is_read_in_the_order_of_its_index(big: sync.Storage, index: str) -> None:
    # Few rows are sorted as quickly as they are read in order.
    with sync.Storage(make_conninfo(big.database.conninfo, options="-c enable_sort=off")) as unsorted:
        recorded = Recorded(unsorted, explain=True)
        BY_OWNER[index](recorded)
    ((_, plan),) = recorded.log.plans
    found = nodes(plan)
    assert [node["Index Name"] for node in found if "Index Name" in node] == [index]
    assert not [node for node in found if node["Node Type"] in ("Sort", "Incremental Sort")]


@pytest.mark.parametrize("read", ["sessions.by_status", "checkpoints.latest", "messages.usage_by"])
def test_the_generic_plan_of_a_list_uses_the_index_of_the_owner(big: sync.Storage, read: str) -> None:
    """A prepared statement may get one plan for every owner and for none."""
    repository, method = read.split(".")
    statement = getattr(big, repository).statements()[method if method != "usage_by" else "_usage_by"]
    text = statement.text
    types = ", ".join("unknown" for _ in statement.parameters)
    with big.database.connection() as connection:
        connection.execute("SET plan_cache_mode = force_generic_plan")
        connection.execute(f"PREPARE generic ({types}) AS {text}".encode())
        nulls = ", ".join("NULL" for _ in statement.parameters)
        ((plan,),) = connection.execute(f"EXPLAIN (FORMAT JSON) EXECUTE generic ({nulls})".encode()).fetchall()
        connection.execute("DEALLOCATE generic")
        connection.execute("RESET plan_cache_mode")
    found = nodes(plan[0]["Plan"])
    owner = {"messages": "conversations"}.get(repository, repository)
    assert f"{owner}_owner_idx" in {node.get("Index Name") for node in found}
    assert not [node for node in found if node["Node Type"] == "Seq Scan" and node["Relation Name"] in GROWING]


def test_a_short_id_is_one_range_scan_of_the_primary_key(big: sync.Storage) -> None:
    recorded = Recorded(big, explain=True)
    recorded.sessions.resolve(FAR.hex[:20])
    ((_, plan),) = recorded.log.plans
    (scan,) = [node for node in nodes(plan) if "Index Name" in node]
    assert scan["Index Name"] == "sessions_pkey"
    assert "id >=" in scan["Index Cond"]
    assert "id <=" in scan["Index Cond"]


def test_a_page_at_any_depth_starts_where_the_index_says(big: sync.Storage) -> None:
    recorded = Recorded(big, explain=True)
    first = recorded.workflow_sessions.page(order_by="id", limit=2)
    deep = recorded.workflow_sessions.page(order_by="id", limit=2, cursor=first.next_cursor)
    assert [item.id for item in deep.items] == [id_of(3), id_of(4)]
    (scan,) = [node for node in nodes(recorded.log.plans[1][1]) if "Index Name" in node]
    assert "Index Cond" in scan
    assert "Filter" not in scan


def test_every_foreign_key_has_an_index_that_begins_with_it(big: sync.Storage) -> None:
    query = """
        SELECT c.conrelid::regclass::text, a.attname
          FROM pg_constraint c
          JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
         WHERE c.contype = 'f'
           AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indkey[0] = c.conkey[1]
                                                    AND i.indpred IS NULL)
    """
    with big.database.connection() as connection:
        assert connection.execute(query).fetchall() == []
