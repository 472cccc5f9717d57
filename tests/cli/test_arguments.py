"""How the command line reads its arguments: common options, choices, typos, help, completion."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from agent_storage import cli
from agent_storage.cli.context import EXIT_CODES
from agent_storage.types import ApprovalStatus, PoolStatus, RunStatus, SessionStatus

from .conftest import asked, storage


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its full name."""
    for name in cli.COMMANDS:
        command = cli.load(name)
        if isinstance(command, TyperGroup):
            yield from ((f"{name} {inner}", found) for inner, found in command.commands.items())
        else:
            yield name, command


ALL = dict(commands())
EXAMPLES = [
    line[2:] for command in ALL.values() for line in (command.epilog or "").split("\n\n") if line.startswith("$ ")
]
READS = (
    "tables",
    "status",
    "sql",
    "session",
    "checkpoint list",
    "checkpoint show",
    "conversation",
    "workflow list",
    "workflow show",
    "approval list",
    "budget",
    "secrets",
)


def parse(words: list[str]) -> None:
    """Parse a command line as far as its last argument, and run nothing."""
    command: Any = typer.main.get_command(cli.app)
    context = command.make_context("storage", words)
    while isinstance(command, TyperGroup):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


def test_main_obeys_its_arguments_and_returns_the_exit_code(
    seeded_database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest", "secrets", "--bogus"])
    assert cli.main(["session", "list", "-n", "1", "--json", "--db", seeded_database]) == 0
    assert len(json.loads(capsys.readouterr().out)["sessions"]) == 1
    assert cli.main(["--version"]) == 0
    assert cli.main(["session", "show", "ffffffff", "--db", seeded_database]) == 1
    assert cli.main(["session", "--bogus"]) == 2
    assert cli.main(["tables", "--help"]) == 0
    assert cli.main([]) == 2


def test_importing_the_command_line_loads_no_driver() -> None:
    probe = "import sys, agent_storage.cli; sys.exit(bool({'psycopg', 'yoyo', 'pydantic'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


@pytest.mark.parametrize("before", [[], ["--json"], ["--json", "session"], ["session", "--json"]], ids=str)
def test_common_options_are_taken_before_and_after_the_command(seeded_database: str, before: list[str]) -> None:
    words = [*before, *(["session"] if "session" not in before else []), "list", "-n", "2"]
    for line in (["--db", seeded_database, *words, "--json"], [*words, "--db", seeded_database, "--json"]):
        assert len(json.loads(storage(*line).stdout)["sessions"]) == 2
    if before:
        assert len(json.loads(storage("--db", seeded_database, *words).stdout)["sessions"]) == 2


def test_the_option_after_the_command_wins(seeded_database: str) -> None:
    done = storage("--db", "postgresql://127.0.0.1:1/none", "tables", "--db", seeded_database)
    assert done.returncode == 0, done.stderr


def test_a_folder_may_be_given_to_the_group_of_migrations(database: str, tmp_path: Path) -> None:
    (tmp_path / "20260101000000_a.sql").write_text("CREATE TABLE a ();")
    (tmp_path / "20260101000000_a.rollback.sql").write_text("DROP TABLE a;")
    done = storage("--db", database, "--json", "migrate", "--folder", str(tmp_path), "status")
    assert [one["id"] for one in json.loads(done.stdout)["migrations"]] == ["20260101000000_a"]


CHOICES = {
    "session list --status": get_args(SessionStatus),
    "workflow list --status": get_args(RunStatus),
    "approval list --status": (*get_args(ApprovalStatus), "all"),
    "budget tree --status": get_args(PoolStatus),
    "migrate check --only": ("lint", "history", "test", "schema", "drift"),
    "migrate diff": ("schema", "migrations", "applied", "db"),
}


@pytest.mark.parametrize("line", CHOICES)
def test_a_wrong_choice_is_a_usage_error_that_lists_the_values(line: str) -> None:
    refused = storage(*line.split(), "bogus")
    assert refused.returncode == 2
    said = " ".join(refused.stderr.replace("│", " ").split())
    for value in CHOICES[line]:
        assert f"'{value}'" in said


@pytest.mark.parametrize("line", CHOICES)
def test_the_shell_completes_choices(line: str) -> None:
    assert completed(f"{line} ").split() == list(CHOICES[line])


def completed(line: str) -> str:
    words = f"storage {line}"
    environment = {
        "_STORAGE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    return CliRunner().invoke(cli.app, [], env=environment, prog_name="storage").stdout


def test_the_shell_completes_commands_options_and_statements() -> None:
    assert completed("se").split() == ["seed", "session", "secrets"]
    assert completed("migrate re").split() == ["redo", "resolve", "repair", "rebase"]
    assert completed("session list --st").split() == ["--status"]
    assert "messages.latest" in completed("sql messages.").split()
    assert "--install-completion" in storage("--help").stdout
    assert "--install-completion" not in storage("tables", "--help").stdout


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("chekc", "Did you mean check?"),
        ("up", "Did you mean migrate up?"),
        ("squash", "Did you mean migrate squash?"),
        ("migrate statsu", "Did you mean status?"),
        ("session lst", "Did you mean list?"),
        ("seed dem", "Did you mean demo?"),
        ("budget tre", "Did you mean tree?"),
        ("session list --jsn", "Did you mean '--json'?"),
        ("migrate up --dry-rum", "Did you mean '--dry-run'?"),
    ],
)
def test_a_typo_is_answered_with_the_right_name_and_exit_code_two(line: str, meant: str) -> None:
    refused = storage(*line.split())
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.count("Did you mean") == 1
    assert meant in refused.stderr


def test_a_wrong_name_without_a_near_one_is_a_usage_error() -> None:
    refused = storage("xyzzy")
    assert (refused.returncode, "No such command 'xyzzy'." in refused.stderr) == (2, True)
    assert "did you mean messages?" in storage("sql", "mesages").stderr


def test_the_list_of_commands_is_that_of_the_modules() -> None:
    helped = storage("--help").stdout
    for name in cli.COMMANDS:
        assert f"│ {name} " in helped
    for code in EXIT_CODES:
        assert f"\n {code} " in helped


def test_the_commands_under_migrate_are_in_three_panels() -> None:
    panels: dict[str, list[str]] = {}
    for name, command in cli.load("migrate").commands.items():
        panels.setdefault(command.rich_help_panel, []).append(name)
    assert panels == {
        "Everyday": ["new", "up", "down", "redo", "sync", "seed", "status", "history", "show"],
        "Checks": ["check", "diff", "doctor", "locks"],
        "Repair": ["resolve", "repair", "rebase", "baseline", "squash"],
    }


@pytest.mark.parametrize("name", ALL)
def test_every_command_teaches_examples_and_exit_codes(name: str) -> None:
    helped = storage(*name.split(), "--help")
    assert helped.returncode == 0
    assert f"$ storage {name}" in helped.stdout
    assert "Exit codes: 0 done" in helped.stdout


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_of_the_help_is_a_command_line(line: str) -> None:
    parse(shlex.split(line.partition(" > ")[0])[1:])


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line.removeprefix("storage ").startswith(READS)])
def test_the_examples_of_commands_that_read_run(line: str, seeded_database: str, ids: dict[str, str]) -> None:
    words = shlex.split(line)[1:]
    done = storage(
        *(ids[words[0]] if word == "019f7a3e" else word for word in words), STORAGE_DATABASE_URL=seeded_database
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_key_is_printed_as_json(seeded_database: str) -> None:
    assert len(asked(seeded_database, "tables")["tables"]) > 20
    assert len(json.loads(storage("secrets", "new-key", "--json").stdout)["key"]) == 44
