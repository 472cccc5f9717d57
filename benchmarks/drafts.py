"""How much of what changes in a schema drafts itself: every single-object change of the tests, drafted and judged.

Part of `benchmarks.migrations`. A draft was tested when it was written. Here its files are run again, and the resulting
schemas are compared by the package's snapshot and, independently, by the lines of pg_dump.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
from tests.migrations.test_catalog_changes import CHANGES, Change
from tests.migrations.test_catalog_schema import load

from agent_storage.catalog import compare, snapshot
from agent_storage.migrations.commands.draft import MigrationDraft, between
from agent_storage.migrations.errors import InvalidRequest
from agent_storage.migrations.verify.shadow import ShadowServer


@dataclass(frozen=True)
class Drafted:
    """The result of one change with its reason, or the lines that differ only for pg_dump.

    `complete` (exit 0), `to decide` or `todo` (exit 7), `none` if no schema.sql can say it (exit 2), or `wrong`
    although it said otherwise.
    """

    change: str
    outcome: str
    detail: str = ""


def drafts(server: ShadowServer, pg_dump: str | None) -> Iterator[Drafted]:
    """Draft every change of the tests in a rich schema, and run what was drafted."""
    with server.database() as base:
        load(base)
        with psycopg.connect(base) as connection:
            version = connection.info.server_version // 10000
        for change in (change for change in CHANGES if change.since <= version <= change.until):
            with server.database(base) as changed:
                with psycopg.connect(changed, autocommit=True) as connection:
                    connection.execute(change.does.encode())
                yield drafted(server, pg_dump, change, base, changed)


def drafted(server: ShadowServer, pg_dump: str | None, change: Change, base: str, changed: str) -> Drafted:
    what = re.sub(r"\s+", " ", change.does)[:100]
    with server.database(base) as migrated, server.database(changed) as declared:
        try:
            found = between(migrated, declared)
        except InvalidRequest as error:
            return Drafted(what, "none", error.message)
    if found.up.missing or found.down.missing:
        return Drafted(what, "todo", "; ".join([*found.up.missing, *found.down.missing]))
    try:
        seen = run_as_files(server, pg_dump, found, base, changed)
    except (Wrong, psycopg.Error) as error:
        return Drafted(what, "wrong", str(error))
    return Drafted(what, "complete" if found.complete else "to decide", "; ".join(sorted(seen)))


class Wrong(Exception):
    """A draft that says it is proved, and whose files lead somewhere else."""


def run_as_files(server: ShadowServer, pg_dump: str | None, found: MigrationDraft, base: str, changed: str) -> set[str]:
    """Run the drafted texts from where they start, with every decision taken; what a second judge, pg_dump, sees."""
    seen: set[str] = set()
    for start, text, target in (
        (base, found.up.text(guard=False), changed),
        (changed, found.down.text(guard=False), base),
    ):
        with server.database(start) as trial:
            with psycopg.connect(trial, autocommit=True) as connection:
                connection.execute(text.encode())
            with psycopg.connect(trial) as actual, psycopg.connect(target) as wanted:
                left = [one for one in compare(snapshot(wanted), snapshot(actual)) if one.severity == "drift"]
            if left:
                raise Wrong("; ".join(f"{one.object}, {one.property}" for one in left))
            seen |= dump(pg_dump, trial) ^ dump(pg_dump, target) if pg_dump else set()
    return seen


def dump(pg_dump: str, conninfo: str) -> set[str]:
    """The lines of pg_dump, which in another order are the same schema, as are the options of a table."""
    done = subprocess.run([pg_dump, "--schema-only", "-d", conninfo], stdout=subprocess.PIPE, text=True, check=True)
    lines = (line.strip().rstrip(",") for line in done.stdout.splitlines())
    return {
        "WITH " + ", ".join(sorted(line[6:-2].split(", "))) if line.startswith("WITH (") else line
        for line in lines
        if line and not line.startswith(("--", "\\"))
    }


def show_drafts(found: Sequence[Drafted]) -> None:
    count = Counter(one.outcome for one in found)
    proved = count["complete"] + count["to decide"]
    print(f"{len(found)} single-object changes, drafted")
    print(f"  {proved:>4}  {proved / len(found):.0%} proved in both directions, of these")
    print(f"  {count['complete']:>4}  ready to apply: exit 0")
    print(f"  {count['to decide']:>4}  left to a person, for they rename or throw data away: TODO, exit 7")
    print(f"  {count['todo']:>4}  not drafted to the end: TODO, exit 7")
    print(f"  {count['none']:>4}  nothing that a schema.sql could declare: exit 2")
    print(f"  {count['wrong']:>4}  silently wrong")
    for one in found:
        if one.detail:
            label = "pg_dump differs" if one.outcome in {"complete", "to decide"} else one.outcome
            print(f"{label}: {one.change}\n    {one.detail}")
