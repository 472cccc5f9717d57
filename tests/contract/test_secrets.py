"""Secrets are encrypted or absent, and bound to their row."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import os
import pickle
import traceback
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from agent_storage import InvalidValue, SecretUnavailable, Storage
from agent_storage.maintenance.rotation import rotate
from agent_storage.statements.encryption import Keyring
from agent_storage.types import NewProvider, NewToolConfig

from ..conftest import SECRET_KEY

PLANTED = os.urandom(12).hex()
PLAIN = "sk-very-\x00secret-😀"


async def test_a_secret_is_ciphertext_in_the_table_and_itself_in_the_record(face: Any, migrated: str) -> None:
    provider = await face.providers.create(NewProvider(name="p", kind="k", api_key=PLAIN))
    tool = await face.tool_configs.create(NewToolConfig(name="t", env={"TOKEN": PLAIN}, args=["--x"]))
    assert provider.api_key.get_secret_value() == PLAIN
    assert (await face.tool_configs.require(tool.id)).env["TOKEN"].get_secret_value() == PLAIN
    with psycopg.connect(migrated) as connection:
        rows = connection.execute("SELECT api_key FROM providers UNION ALL SELECT env FROM tool_configs").fetchall()
    assert len(rows) == 2
    for (stored,) in rows:
        assert stored.startswith("v1:")
        assert "secret" not in stored
    for shown in (repr(provider), str(provider), provider.model_dump_json(), repr(tool)):
        assert "secret-" not in shown


async def test_secrets_survive_update_upsert_and_create_many(face: Any) -> None:
    made = await face.providers.create_many([NewProvider(name=f"p{n}", kind="k", api_key=f"key{n}") for n in range(3)])
    assert [item.api_key.get_secret_value() for item in made] == ["key0", "key1", "key2"]
    changed = await face.providers.update(made[0].id, api_key="new")
    assert changed.api_key.get_secret_value() == "new"
    again = await face.providers.upsert(NewProvider(name="p1", kind="k", api_key="upserted"))
    assert (again.id, again.api_key.get_secret_value()) == (made[1].id, "upserted")
    assert (await face.providers.upsert(NewProvider(name="fresh", kind="k", api_key="f"))).api_key is not None
    with pytest.raises(InvalidValue, match="row by row"):
        await face.providers.update_many([made[0].id], {"api_key": SecretStr("x")})


async def test_concurrent_upserts_of_a_new_secret_leave_one_row_that_decrypts(storage: Any) -> None:
    await asyncio.gather(
        *(storage.providers.upsert(NewProvider(name="p", kind="k", api_key=f"key{n}")) for n in range(20))
    )
    (only,) = await storage.providers.find()
    assert only.api_key.get_secret_value().startswith("key")


async def test_without_a_key_storing_a_secret_is_an_error_never_plain_text(migrated: str, monkeypatch: Any) -> None:
    monkeypatch.delenv("STORAGE_SECRET_KEY")
    async with Storage(migrated) as storage:
        with pytest.raises(SecretUnavailable, match="STORAGE_SECRET_KEY"):
            await storage.providers.create(NewProvider(name="p", kind="k", api_key=SecretStr("sk")))
        assert await storage.providers.count() == 0
        await storage.providers.create(NewProvider(name="open", kind="k"))
    with pytest.raises(SecretUnavailable, match="32 bytes"):
        Storage(migrated, secret_key="short")


async def test_a_ciphertext_moved_to_another_row_or_column_does_not_decrypt(storage: Any, migrated: str) -> None:
    await storage.providers.create_many([NewProvider(name=n, kind="k", api_key=f"key {n}") for n in ("a", "b")])
    with psycopg.connect(migrated) as connection:
        connection.execute("UPDATE providers SET api_key = (SELECT api_key FROM providers WHERE name = 'a')")
    assert (await storage.providers.get_by(name="a")).api_key.get_secret_value() == "key a"
    moved = await storage.providers.get_by(name="b")
    with pytest.raises(SecretUnavailable, match="does not decrypt"):
        moved.api_key.get_secret_value()


async def test_rotation_rewraps_everything_and_the_old_key_can_go(migrated: str) -> None:
    old, new = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
    async with Storage(migrated, secret_key=old) as storage:
        await storage.providers.create_many([NewProvider(name=f"p{n}", kind="k", api_key=str(n)) for n in range(1200)])
        await storage.tool_configs.create(NewToolConfig(name="t", env={"A": SecretStr("b")}))
    both = Keyring.from_setting(SecretStr(f"{new},{old}"))
    with psycopg.connect(migrated, autocommit=True) as connection:
        assert rotate(connection, both).rewrapped == {"providers.api_key": 1200, "tool_configs.env": 1}
        again = rotate(connection, both)
    assert (again.rewrapped, again.faults) == ({"providers.api_key": 0, "tool_configs.env": 0}, [])
    assert again.skipped == again.rewrapped
    async with Storage(migrated, secret_key=lambda: new) as storage:
        assert (await storage.providers.get_by(name="p77")).api_key.get_secret_value() == "77"
    async with Storage(migrated, secret_key=old) as storage:
        row = await storage.providers.get_by(name="p77")
        with pytest.raises(SecretUnavailable, match="is not set"):
            row.api_key.get_secret_value()


async def test_no_secret_stands_in_an_error(storage: Any) -> None:
    await storage.providers.create(NewProvider(name="p", kind="k", api_key=PLANTED))
    for attempt in (
        storage.providers.create(NewProvider(name="p", kind="k", api_key=PLANTED)),
        storage.providers.find({"api_key": PLANTED}),
        storage.providers.find(order_by="api_key"),
    ):
        with pytest.raises(Exception) as caught:
            await attempt
        assert PLANTED not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(InvalidValue) as invalid:
        NewProvider(name="p", kind="k", api_key=[PLANTED])  # type: ignore[arg-type]
    assert PLANTED not in "".join(traceback.format_exception(invalid.value))


# ---- one secret that cannot be read ----

FOREIGN = base64.b64encode(b"f" * 32).decode()


@pytest.fixture
async def foreign(migrated: str) -> None:
    """Rows whose secrets are encrypted with a key that the storages of the test do not have."""
    async with Storage(migrated, secret_key=FOREIGN) as other:
        await other.providers.create(NewProvider(name="foreign", kind="k", api_key=SecretStr(PLANTED)))
        await other.tool_configs.create(NewToolConfig(name="foreign", env={"A": SecretStr(PLANTED)}))


@pytest.mark.usefixtures("foreign")
async def test_a_secret_under_an_unknown_key_fails_no_list_and_no_unrelated_change(face: Any, migrated: str) -> None:
    await face.providers.create(NewProvider(name="own", kind="k", api_key="sk"))
    await face.tool_configs.create(NewToolConfig(name="own", env={"A": "b"}))
    for name, new in (("providers", NewProvider(name="foreign", kind="k", enabled=True)),
                      ("tool_configs", NewToolConfig(name="foreign", enabled=True))):  # fmt: skip
        table = getattr(face, name)
        found = await table.find(order_by="name", total=True)
        paged = await table.page(order_by="name", limit=1)
        assert [row.name for row in found] == ["foreign", "own"]
        assert paged.items == [found[0]]
        assert await table.require(found[0].id) == found[0]
        changed = await table.update(found[0].id, enabled=False)
        assert changed.enabled is False
        upserted = await table.upsert(new)
        assert upserted.enabled is True
        assert await table.update_many([row.id for row in found], {"enabled": True}) == 2
    stored = rows(migrated)
    provider, tool = await face.providers.get_by(name="foreign"), await face.tool_configs.get_by(name="foreign")
    for use in (
        provider.api_key.get_secret_value,
        lambda: len(provider.api_key),
        lambda: tool.env["A"],
        lambda: dict(tool.env),
        lambda: {**tool.env},
        lambda: tool.env | {},
        lambda: {} | tool.env,
        lambda: list(tool.env.items()),
        lambda: tool.env.get("A"),
        lambda: "A" in tool.env,
        lambda: len(tool.env),
    ):
        with pytest.raises(
            SecretUnavailable, match=r"(providers\.api_key|tool_configs\.env) of row .* is not set"
        ) as caught:
            use()
        assert caught.value.column in ("api_key", "env")
    with pytest.raises(SecretUnavailable):
        await face.providers.update(provider.id, api_key=provider.api_key)
    with pytest.raises(SecretUnavailable):
        await face.tool_configs.update(tool.id, env=tool.env)
    assert rows(migrated) == stored
    assert (await face.providers.update(provider.id, api_key="new")).api_key.get_secret_value() == "new"


def rows(conninfo: str) -> list[Any]:
    with psycopg.connect(conninfo) as connection:
        return connection.execute("SELECT api_key FROM providers UNION ALL SELECT env FROM tool_configs").fetchall()


@pytest.mark.usefixtures("foreign")
def test_a_stream_and_a_transaction_list_what_cannot_be_decrypted(sync_storage: Any) -> None:
    with sync_storage.providers.stream() as found:
        assert [row.name for row in found] == ["foreign"]
    with sync_storage.transaction() as tx, tx.providers.stream() as found:
        assert [bool(row.api_key) for row in found] == [True]
    with sync_storage.batch() as batch:
        later = batch.add(batch.tool_configs.enabled)
    assert [row.name for row in later.result] == ["foreign"]


@pytest.mark.usefixtures("foreign")
async def test_rotation_leaves_out_what_it_cannot_decrypt_and_reports_it(migrated: str) -> None:
    old, new = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
    async with Storage(migrated, secret_key=old) as storage:
        await storage.providers.create_many([NewProvider(name=f"p{n}", kind="k", api_key=str(n)) for n in range(1100)])
    async with Storage(migrated, secret_key=FOREIGN) as other:
        await other.providers.create_many([NewProvider(name=f"f{n}", kind="k", api_key="x") for n in range(700)])
    async with Storage(migrated, secret_key=old) as storage:
        await storage.providers.create_many([NewProvider(name=f"q{n}", kind="k", api_key=str(n)) for n in range(50)])
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("UPDATE providers SET api_key = 'plain' WHERE name = 'q3'")
        before = dict(connection.execute("SELECT id, api_key FROM providers WHERE name LIKE 'f%'").fetchall())
        done = rotate(connection, Keyring.from_setting(SecretStr(f"{new},{old}")))
        after = dict(connection.execute("SELECT id, api_key FROM providers WHERE name LIKE 'f%'").fetchall())
    assert done.rewrapped == {"providers.api_key": 1149, "tool_configs.env": 0}
    assert done.skipped == {"providers.api_key": 702, "tool_configs.env": 1}
    assert len(done.faults) == 20
    assert "is not set" in done.faults[0]
    assert before == after
    async with Storage(migrated, secret_key=new) as storage:
        assert (await storage.providers.get_by(name="q49")).api_key.get_secret_value() == "49"


async def test_a_stored_secret_is_compared_copied_and_dumped_as_any_other(face: Any) -> None:
    made = await face.providers.create(NewProvider(name="p", kind="k", api_key=PLANTED))
    read = await face.providers.require(made.id)
    assert read.api_key == SecretStr(PLANTED) == made.api_key
    assert SecretStr(PLANTED) == read.api_key != SecretStr("other")
    assert read.api_key != PLANTED
    assert hash(read.api_key) == hash(SecretStr(PLANTED))
    assert (len(read.api_key), bool(read.api_key)) == (24, True)
    assert isinstance(read.api_key, SecretStr)
    pickled = pickle.dumps(read)
    assert base64.b64decode(SECRET_KEY) not in pickled
    copies = [
        copy.copy(read), copy.deepcopy(read), read.model_copy(deep=True), pickle.loads(pickled),  # noqa: S301
        type(read).model_validate(read.model_dump()), type(read).model_validate(read),
    ]  # fmt: skip
    for one in copies:
        assert one == read == made
        assert one.api_key.get_secret_value() == PLANTED
        for shown in (repr(one), str(one), f"{one.api_key}", one.model_dump_json(), repr(one.model_dump()),
                      repr(one.model_dump(mode="json"))):  # fmt: skip
            assert PLANTED not in shown
    assert json.loads(read.model_dump_json())["api_key"] == "**********"
    assert "api_key" in type(read).model_json_schema()["properties"]
    empty = await face.providers.update(made.id, api_key="")
    assert (empty.api_key.get_secret_value(), bool(empty.api_key)) == ("", False)


@pytest.mark.usefixtures("foreign")
async def test_a_secret_that_cannot_be_decrypted_is_compared_copied_and_dumped_too(face: Any) -> None:
    provider, tool = await face.providers.get_by(name="foreign"), await face.tool_configs.get_by(name="foreign")
    assert provider == await face.providers.get_by(name="foreign")
    assert tool == await face.tool_configs.get_by(name="foreign")
    assert provider.api_key != SecretStr(PLANTED)
    assert tool.env != {"A": SecretStr(PLANTED)}
    for row in (provider, tool):
        for one in (copy.deepcopy(row), row.model_copy(), pickle.loads(pickle.dumps(row))):  # noqa: S301
            assert one == row
            assert hash(one.api_key if row is provider else one.env) is not None
            assert "**********" in repr(one)
            assert "**********" in one.model_dump_json()
            assert type(row).model_validate(row.model_dump()) == row


async def test_a_secret_is_taken_from_one_row_to_another(face: Any) -> None:
    first = await face.providers.create(NewProvider(name="a", kind="k", api_key="sk"))
    tool = await face.tool_configs.create(NewToolConfig(name="a", env={"KEY": first.api_key}))
    second = await face.providers.create(NewProvider(name="b", kind="k", api_key=tool.env["KEY"]))
    copied = await face.tool_configs.create(NewToolConfig(name="b", env=tool.env))
    assert second.api_key.get_secret_value() == copied.env["KEY"].get_secret_value() == "sk"
    assert (await face.providers.update(first.id, api_key=second.api_key)).api_key == SecretStr("sk")


async def test_a_row_without_any_key_is_listed_and_changed(migrated: str, monkeypatch: Any, storage: Any) -> None:
    made = await storage.providers.create(NewProvider(name="p", kind="k", api_key=SecretStr("sk")))
    monkeypatch.delenv("STORAGE_SECRET_KEY")
    async with Storage(migrated) as keyless:
        assert (await keyless.providers.update(made.id, enabled=False)).name == "p"
        (row,) = await keyless.providers.find({"enabled": False})
        with pytest.raises(SecretUnavailable, match="STORAGE_SECRET_KEY"):
            row.api_key.get_secret_value()
    assert (await storage.providers.require(made.id)).api_key == SecretStr("sk")
