"""A data folder that another major version of PostgreSQL made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from agent_storage.embedded import EmbeddedServer
from agent_storage.embedded.account import server_account
from agent_storage.embedded.upgrade import upgrade
from agent_storage.errors import InvalidSettings, Unavailable

from .test_embedded import base, quick  # noqa: F401  # a fixture

OLD = next(
    (path for path in sorted(Path("/usr/lib/postgresql").glob("1[567]/bin")) if (path / "initdb").exists()), None
)
needs_another = pytest.mark.skipif(OLD is None, reason="no PostgreSQL 15, 16 or 17 in /usr/lib/postgresql")


def test_a_data_folder_of_another_version_is_named_with_both_versions_and_not_changed(base: Path) -> None:  # noqa: F811
    folder = base / "data"
    with quick(folder) as server:
        server.conninfo()
    version = folder / "cluster" / "PG_VERSION"
    version.write_text("15\n")
    before = sorted(path for path in (folder / "cluster").rglob("*"))
    for _ in range(2):
        with pytest.raises(InvalidSettings) as refused:
            EmbeddedServer(folder).start()
        assert f"the data folder {folder} was made by PostgreSQL 15, and PostgreSQL 18 is installed" in str(
            refused.value
        )
        assert "nothing was changed" in str(refused.value)
    assert sorted(path for path in (folder / "cluster").rglob("*")) == before
    version.write_text("18\n")
    with quick(folder) as server, psycopg.connect(server.conninfo()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def old_folder(base: Path) -> Path:  # noqa: F811
    """A data folder that an older release with an older PostgreSQL left, with a database, a role and rows."""
    assert OLD is not None
    folder = base / "data"
    with quick(folder):
        pass
    account = server_account(folder)
    (folder / "cluster").rename(base / "unused")
    command = [OLD / "initdb", "-D", folder / "cluster", "--username=postgres", "--encoding=UTF8", "--locale=C"]
    run = {"user": account.user, "group": account.group, "extra_groups": account.extra_groups, "cwd": "/"}
    subprocess.run(command, check=True, capture_output=True, **run)  # type: ignore[call-overload]
    with EmbeddedServer(folder, programs=OLD) as server:
        with psycopg.connect(server.conninfo("storage"), autocommit=True) as connection:
            connection.execute("CREATE ROLE reader")
            connection.execute("CREATE TABLE kept (id int PRIMARY KEY, words text)")
            connection.execute("INSERT INTO kept SELECT n, 'word ' || n FROM generate_series(1, 5000) AS n")
            connection.execute("GRANT SELECT ON kept TO reader")
            connection.execute("ALTER DATABASE storage SET statement_timeout = '77s'")
        with psycopg.connect(server.conninfo("a 'second' one"), autocommit=True) as connection:
            connection.execute("CREATE TABLE other AS SELECT 1 AS one")
    return folder


@needs_another
def test_the_data_of_another_version_is_copied_and_the_old_cluster_kept(base: Path) -> None:  # noqa: F811
    assert OLD is not None
    folder = old_folder(base)
    made_by = OLD.parent.name
    with pytest.raises(InvalidSettings, match=f"was made by PostgreSQL {made_by}"):
        EmbeddedServer(folder).start()
    command = [sys.executable, "-m", "agent_storage.embedded.upgrade", str(folder), str(OLD)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"kept in {folder}/cluster-{made_by}" in done.stdout
    assert (folder / f"cluster-{made_by}" / "PG_VERSION").read_text().strip() == made_by
    assert [path.name for path in base.iterdir() if "upgrade" in path.name] == []
    with EmbeddedServer(folder) as server:
        with psycopg.connect(server.conninfo("storage")) as connection:
            assert connection.info.server_version >= 180000
            counted = connection.execute("SELECT count(*), min(words), max(id) FROM kept").fetchone()
            assert counted == (5000, "word 1", 5000)
            granted = "SELECT has_table_privilege('reader', 'kept', 'SELECT'), current_setting('statement_timeout')"
            assert connection.execute(granted).fetchone() == (True, "77s")
            connection.execute("INSERT INTO kept VALUES (5001, 'written')")
        with psycopg.connect(server.conninfo("a 'second' one")) as connection:
            assert connection.execute("SELECT one FROM other").fetchone() == (1,)
    with pytest.raises(InvalidSettings, match="nothing to upgrade"):
        upgrade(folder, OLD)


@needs_another
def test_an_upgrade_that_fails_changes_nothing_and_can_be_repeated(base: Path) -> None:  # noqa: F811
    assert OLD is not None
    folder = old_folder(base)
    with EmbeddedServer(folder, programs=OLD) as server:
        with pytest.raises(Unavailable, match="runs: stop the programs"):
            upgrade(folder, OLD)
        with psycopg.connect(server.conninfo("storage"), autocommit=True) as connection:
            connection.execute("CREATE FUNCTION f() RETURNS int LANGUAGE c STRICT AS 'plpgsql', 'plpgsql_call_handler'")
            connection.execute("UPDATE pg_proc SET probin = '$libdir/is_not_installed' WHERE proname = 'f'")
    with pytest.raises(Unavailable, match="pg_restore failed, nothing was changed"):
        upgrade(folder, OLD)
    assert [path.name for path in base.iterdir() if "upgrade" in path.name] == []
    with (
        EmbeddedServer(folder, programs=OLD) as server,
        psycopg.connect(server.conninfo("storage"), autocommit=True) as connection,
    ):
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (5000,)
        connection.execute("DROP FUNCTION f()")
    assert upgrade(folder, OLD) == folder / f"cluster-{OLD.parent.name}"


def test_an_upgrade_that_is_killed_between_its_renames_is_finished_by_the_next_start(base: Path) -> None:  # noqa: F811
    folder = base / "data"
    with quick(folder) as server, psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    (folder / "cluster").rename(folder / "cluster.upgraded")
    (folder / "cluster-15").mkdir()
    with quick(folder) as server, psycopg.connect(server.conninfo()) as connection:
        assert connection.execute("SELECT to_regclass('kept') IS NOT NULL").fetchone() == (True,)
    assert not (folder / "cluster.upgraded").exists()


def test_what_cannot_be_upgraded_is_refused(base: Path) -> None:  # noqa: F811
    with pytest.raises(InvalidSettings, match="no program `postgres`"):
        upgrade(base, base)
    if OLD is not None:
        with pytest.raises(InvalidSettings, match="is no data folder"):
            upgrade(base, OLD)
        (base / "cluster").mkdir()
        (base / "cluster" / "PG_VERSION").write_text("9\n")
        with pytest.raises(InvalidSettings, match="was made by PostgreSQL 9, and"):
            upgrade(base, OLD)
