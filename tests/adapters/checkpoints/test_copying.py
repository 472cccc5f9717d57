"""Copying between databases: ids and times are kept, it can be repeated, and interrupted."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from agent_storage import AlreadyExists
from agent_storage.adapters.checkpoints import Copied, checkpoint_provider, copy_checkpoints
from agent_storage.types import NewCheckpoint

from ...cli.conftest import storage as command
from .conftest import ENGINES
from .test_contract import NOW, checkpoint

STATES = [{"text": "nul \x00 lone \ud800"}, [2**64 - 1, 1e16, 0.1], None, 0, "x" * 1_000_000]
PAIRS = [(one, other) for one in ENGINES for other in ENGINES if one != other]


@pytest.mark.parametrize(("source", "target"), PAIRS)
async def test_a_copy_has_the_same_ids_times_and_states_and_can_be_repeated(
    source: str, target: str, url_of: Any
) -> None:
    async with checkpoint_provider(url_of(source)) as one, checkpoint_provider(url_of(target)) as other:
        ids = [uuid4() for _ in range(130)]
        rows = [
            checkpoint(f"agent {n % 7}", n, id=ids[n], name=f"\x00{n}", state=STATES[n % 5] if n < 20 else n)
            for n in range(130)
        ]
        await one.store_checkpoints(rows)
        # A child that was captured before its parent, by a clock that is wrong.
        await one.store_checkpoint(checkpoint(minutes=-9, id=(child := uuid4()), parent_id=ids[129], state="child"))
        assert (await copy_checkpoints(one, other)).copied >= 131
        for id_ in [*ids, child]:
            there, here = await one.retrieve_checkpoint(str(id_)), await other.retrieve_checkpoint(str(id_))
            assert there and here
            assert there.model_dump(exclude={"size_bytes"}) == here.model_dump(exclude={"size_bytes"})
        assert await copy_checkpoints(one, other) == Copied(0, 131, 0)
        assert (await other.list_checkpoints(total=True)).total == 131
        await one.store_checkpoint(checkpoint("new", minutes=500))
        assert (await copy_checkpoints(one, other, agent_id="new")).copied == 1
        assert (await copy_checkpoints(other, one)).copied == 0


async def test_a_checkpoint_that_differs_in_the_target_is_not_overwritten(tmp_path: Path) -> None:
    async with (
        checkpoint_provider(f"sqlite:///{tmp_path / 'one.db'}") as one,
        checkpoint_provider(f"sqlite:///{tmp_path / 'other.db'}") as other,
    ):
        mine = uuid4()
        await one.store_checkpoint(checkpoint(id=mine, name="here"))
        await other.store_checkpoint(checkpoint(id=mine, name="there"))
        with pytest.raises(AlreadyExists, match=str(mine)):
            await copy_checkpoints(one, other)
        found = await other.retrieve_checkpoint(str(mine))
        assert found and found.name == "there"


async def test_a_long_line_of_parents_that_were_captured_later_is_copied(tmp_path: Path) -> None:
    async with (
        checkpoint_provider(f"sqlite:///{tmp_path / 'one.db'}") as one,
        checkpoint_provider(f"sqlite:///{tmp_path / 'other.db'}") as other,
    ):
        ids = [uuid4() for _ in range(250)]
        rows = [
            checkpoint(minutes=-n, id=ids[n], parent_id=ids[n - 1] if n else None, state=n) for n in range(len(ids))
        ]
        await one.store_checkpoints(rows)
        await copy_checkpoints(one, other)
        listed = (await other.list_checkpoints(limit=1000)).items
        assert [row.id for row in listed] == ids and [row.parent_id for row in listed[1:]] == ids[:-1]


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def configured(url_of: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    configuration = {"main": url_of("postgres"), "laptop": url_of("sqlite"), "legacy": {"url": url_of("mysql")}}
    monkeypatch.setenv("STORAGE_CHECKPOINTS", json.dumps({**configuration, "default": "main"}))
    async with checkpoint_provider(configuration["main"]) as provider:
        for n in range(3):
            await provider.store_checkpoint(
                NewCheckpoint(
                    id=UUID(int=(n + 1) << 96 | 7 << 76 | 0b10 << 62),
                    agent_id=f"agent {n % 2}",
                    name="\x1b[31m",
                    state={"step": n},
                    captured_at=NOW + timedelta(minutes=n),
                )
            )
    return configuration


async def test_the_command_copies_lists_and_shows(configured: dict[str, Any], tmp_path: Path) -> None:
    def answered(*arguments: str) -> Any:
        done = command("checkpoint", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert answered("copy", "--from", "main", "--to", "laptop", "--agent", "agent 0")["copied"] == 2
    assert answered("copy", "--from", "main", "--to", "laptop") | {"bytes": 0} == {
        "copied": 1,
        "present": 2,
        "bytes": 0,
    }
    assert answered("copy", "--from", "laptop", "--to", "legacy")["copied"] == 3
    file = f"sqlite:///{tmp_path / 'further.db'}"
    assert answered("copy", "--from", "legacy", "--to", file)["copied"] == 3
    lists = [answered("list", "--provider", name)["checkpoints"] for name in ("main", "laptop", "legacy", file)]
    assert [one["id"] for one in lists[0]] == [one["id"] for one in lists[1]] == [one["id"] for one in lists[3]]
    assert [one["captured_at"] for one in lists[0]] == [one["captured_at"] for one in lists[2]]
    assert [one["agent_id"] for one in answered("list", "--agent", "agent 1")["checkpoints"]] == ["agent 1"]
    shown = command("checkpoint", "show", "00000003", "--provider", "legacy")
    assert shown.returncode == 0 and '"step": 2' in shown.stdout and "\x1b[31m" not in shown.stdout
    assert answered("show", "00000002", "--provider", "laptop")["checkpoint"]["state"] == {"step": 1}
    assert "agent 1" in command("checkpoint", "list", "--provider", file).stdout
    assert "copied 0 checkpoints" in command("checkpoint", "copy", "--from", "main", "--to", "laptop").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("list", "--provider", "bogus"), 2, "known are: main, laptop, legacy (STORAGE_CHECKPOINTS)"),
        (("list", "--provider", "default"), 2, "known are: main, laptop, legacy"),
        (("show", "ffffffff"), 1, "there is no checkpoint ffffffff"),
        (("show", "0000"), 1, "fits several checkpoints"),
        (("list", "--provider", "laptop"), 1, "initialize()"),
        (("copy", "--from", "main", "--to", "sqlite:////not/there/x.db"), 8, "unable to open database file"),
        (("copy", "--from", "main"), 2, "--to"),
    ],
)
async def test_the_command_says_what_is_wrong(
    configured: dict[str, Any], arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = command("checkpoint", *arguments)
    assert done.returncode == code and said in " ".join(done.stderr.split())


@pytest.mark.parametrize("text", ["[1]", "{", "no such file"])
def test_a_configuration_that_cannot_be_read_is_refused(text: str) -> None:
    done = command("checkpoint", "list", STORAGE_CHECKPOINTS=text)
    assert done.returncode == 2 and "STORAGE_CHECKPOINTS" in done.stderr
