"""Secrets are encrypted or absent, and bound to their row."""

from __future__ import annotations

import asyncio
import base64
import os
import traceback
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from agent_storage import InvalidValue, SecretUnavailable, Storage
from agent_storage.maintenance.rotation import rotate
from agent_storage.statements.encryption import Keyring
from agent_storage.types import NewProvider, NewToolConfig

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
    with pytest.raises(SecretUnavailable, match="does not decrypt"):
        await storage.providers.get_by(name="b")


async def test_rotation_rewraps_everything_and_the_old_key_can_go(migrated: str) -> None:
    old, new = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
    async with Storage(migrated, secret_key=old) as storage:
        await storage.providers.create_many([NewProvider(name=f"p{n}", kind="k", api_key=str(n)) for n in range(1200)])
        await storage.tool_configs.create(NewToolConfig(name="t", env={"A": SecretStr("b")}))
    both = Keyring.from_setting(SecretStr(f"{new},{old}"))
    with psycopg.connect(migrated, autocommit=True) as connection:
        assert rotate(connection, both) == {"providers.api_key": 1200, "tool_configs.env": 1}
        assert rotate(connection, both) == {"providers.api_key": 0, "tool_configs.env": 0}
    async with Storage(migrated, secret_key=lambda: new) as storage:
        assert (await storage.providers.get_by(name="p77")).api_key.get_secret_value() == "77"
    async with Storage(migrated, secret_key=old) as storage:
        with pytest.raises(SecretUnavailable, match="is not set"):
            await storage.providers.get_by(name="p77")


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
