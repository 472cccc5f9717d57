"""Copy the data of another major version of PostgreSQL into a cluster of the installed one.

    python -m agent_storage.embedded.upgrade DATA_DIR PROGRAMS

DATA_DIR is the data folder of the embedded server (STORAGE_DATA_DIR), PROGRAMS the folder of `postgres` of the version
that made it, for example /usr/lib/postgresql/15/bin. The old cluster remains in DATA_DIR as `cluster-15`: it is served
read-only and copied by pg_dump and pg_restore of the installed version. A copy that fails changes nothing. Stop the
programs that use the data folder before.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from agent_storage.embedded import EmbeddedServer, server_status
from agent_storage.embedded.account import Account, server_account
from agent_storage.embedded.binaries import program_folder
from agent_storage.embedded.postmaster import (
    UPGRADED,
    cluster_version,
    connection_string,
    program_version,
    sync_folder,
)
from agent_storage.errors import InvalidSettings, StorageError, Unavailable


def upgrade(data_dir: Path, programs: Path) -> Path:
    """Copy the cluster of `data_dir` into one of the installed version. Return where the old cluster is kept.

    Raises `InvalidSettings` if there is nothing to upgrade or the programs are of another version, `Unavailable` if the
    server runs or the copy fails. Then the old cluster is where it was.
    """
    data_dir = data_dir.expanduser().resolve()
    made_by, given = cluster_version(data_dir), program_version(programs)
    if made_by is None:
        raise InvalidSettings(f"{data_dir} is no data folder of the embedded PostgreSQL: it has no cluster/PG_VERSION")
    account = server_account(data_dir)
    installed = program_folder(account)
    if made_by == program_version(installed):
        raise InvalidSettings(f"{data_dir} is of PostgreSQL {made_by}, as installed: there is nothing to upgrade")
    if given != made_by:
        raise InvalidSettings(f"{data_dir} was made by PostgreSQL {made_by}, and {programs} has PostgreSQL {given}")
    kept = data_dir / f"cluster-{made_by}"
    if kept.exists():
        raise InvalidSettings(f"{kept} exists, from an upgrade before: move it away first")
    if server_status(data_dir).running:
        raise Unavailable(f"the server of {data_dir} runs: stop the programs that use it")
    temporary = Path(tempfile.mkdtemp(prefix=f"{data_dir.name}.upgrade-", dir=data_dir.parent))
    try:
        if account.switch:
            os.chown(temporary, account.uid, account.gid)
        with (
            EmbeddedServer(data_dir, programs=programs, settings={"default_transaction_read_only": "on"}) as old,
            EmbeddedServer(temporary) as new,
        ):
            _copy(old, new, installed, account)
        # The server that starts next makes the last of the three steps if this process is killed before it.
        shutil.rmtree(data_dir / UPGRADED, ignore_errors=True)
        (temporary / "cluster").rename(data_dir / UPGRADED)
        (data_dir / "cluster").rename(kept)
        (data_dir / UPGRADED).rename(data_dir / "cluster")
        sync_folder(data_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return kept


def _copy(old: EmbeddedServer, new: EmbeddedServer, programs: Path, account: Account) -> None:
    """Copy the roles, and each database with its settings."""
    import psycopg

    source, target = old.conninfo("postgres"), new.conninfo("postgres")
    roles = _run(account, programs / "pg_dumpall", "--globals-only", "-d", source)
    own = (b"CREATE ROLE postgres;", b"ALTER ROLE postgres WITH ")  # each cluster has it
    kept = b"\n".join(line for line in roles.splitlines() if not line.startswith(own))
    _run(account, programs / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", target, given=kept)
    with psycopg.connect(source) as connection:
        databases = connection.execute("SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate")
        names = [name for (name,) in databases]
    folder = Path(source_folder(source))
    for name in names:
        dump = _run(account, programs / "pg_dump", "-Fc", "-d", connection_string(folder, name))
        create = [] if name == "postgres" else ["--create"]
        _run(account, programs / "pg_restore", "--exit-on-error", *create, "-d", target, given=dump)


def source_folder(conninfo: str) -> str:
    """Return the folder of the socket in a connection string."""
    from psycopg.conninfo import conninfo_to_dict

    return str(conninfo_to_dict(conninfo)["host"])


def _run(account: Account, *command: Path | str, given: bytes = b"") -> bytes:
    """Return the output of a program that runs as the server's account. Raises `Unavailable` with its error."""
    done = subprocess.run(  # noqa: S603
        command,
        input=given,
        capture_output=True,
        cwd="/",
        user=account.user,
        group=account.group,
        extra_groups=account.extra_groups,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"{command[0]} failed, nothing was changed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def main() -> None:
    """Run the upgrade, and print where the old cluster is."""
    if len(sys.argv) != 3:
        sys.exit((__doc__ or "").strip())
    try:
        kept = upgrade(Path(sys.argv[1]), Path(sys.argv[2]))
    except StorageError as error:
        sys.exit(str(error))
    sys.stdout.write(f"the data is copied; the old cluster is kept in {kept}\n")


if __name__ == "__main__":
    main()
