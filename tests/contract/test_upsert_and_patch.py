"""`upsert` changes what is given; `patch` merges, and removes the keys that are marked."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_storage import REMOVE, Document, Input, InvalidValue, Jsonb, Record, Repository, Storage, sync
from agent_storage.types import (
    NewBoard,
    NewConversation,
    NewEventStream,
    NewModel,
    NewProject,
    NewProjectFile,
    NewProvider,
    NewSession,
    NewToolConfig,
)

# ---- upsert ----


async def test_upsert_changes_the_given_fields_alone(face: Any) -> None:
    first = await face.providers.upsert(
        NewProvider(name="p", kind="openai", base_url="https://p", api_key="sk-1", settings={"a": 1}, enabled=False)
    )
    again = await face.providers.upsert(NewProvider(name="p", kind="custom"))
    assert again.kind == "custom"
    assert (again.id, again.base_url, again.enabled, again.settings) == (first.id, "https://p", False, {"a": 1})
    assert again.api_key.get_secret_value() == "sk-1"
    assert again.created_at == first.created_at
    assert again.updated_at > first.updated_at


async def test_upsert_writes_a_default_or_none_that_is_given(face: Any) -> None:
    made = await face.providers.upsert(
        NewProvider(name="p", kind="k", base_url="https://p", api_key="sk", enabled=False, settings={"a": 1})
    )
    again = await face.providers.upsert(
        NewProvider(name="p", kind="k", base_url=None, api_key=None, enabled=True, settings={})
    )
    assert (again.id, again.base_url, again.api_key, again.enabled, again.settings) == (made.id, None, None, True, {})


async def test_upsert_of_the_key_alone_gives_the_row(face: Any) -> None:
    project = await face.projects.create(NewProject(name="n", path="p"))
    first = await face.project_files.upsert(NewProjectFile(project_id=project.id, path="a", checksum="1", size_bytes=3))
    again = await face.project_files.upsert(NewProjectFile(project_id=project.id, path="a"))
    assert (again.id, again.checksum, again.size_bytes) == (first.id, "1", 3)
    made = await face.project_files.upsert(NewProjectFile(project_id=project.id, path="b"))
    assert (made.checksum, made.size_bytes, made.imports) == (None, 0, [])


async def test_upsert_of_a_stream_leaves_its_counter(face: Any) -> None:
    await face.stream_events.publish("s", data={"n": 1})
    assert (await face.event_streams.upsert(NewEventStream(stream_id="s"))).last_sequence == 1
    assert (await face.stream_events.publish("s", data={"n": 2})).sequence == 2


async def test_upsert_of_a_row_that_was_read_writes_all_of_it(face: Any) -> None:
    made = await face.providers.create(NewProvider(name="p", kind="k", api_key="sk", settings={"a": 1}))
    await face.providers.update(made.id, kind="other", settings={})
    again = await face.providers.upsert(made)
    assert (again.id, again.kind, again.settings) == (made.id, "k", {"a": 1})
    assert again.api_key.get_secret_value() == "sk"


async def test_upsert_refuses_what_is_no_row_of_the_table(face: Any) -> None:
    for wrong in (NewConversation(), {"name": "p"}, None):
        with pytest.raises(InvalidValue, match="give a NewProvider"):
            await face.providers.upsert(wrong)


async def test_concurrent_upserts_of_different_fields_all_survive(storage: Storage) -> None:
    provider = await storage.providers.create(NewProvider(name="p", kind="k"))
    fields: list[dict[str, Any]] = [
        {"display_name": "d"}, {"context_window": 7}, {"input_price": 1}, {"output_price": 2},
        {"capabilities": {"a": 1}},
    ]  # fmt: skip
    for round_ in range(5):
        news = [NewModel(provider_id=provider.id, name=f"m{round_}", **fields[n % 5]) for n in range(100)]
        made = await asyncio.gather(*map(storage.models.upsert, news))
        assert len({row.id for row in made}) == 1
        (row,) = await storage.models.find({"name": f"m{round_}"})
        assert (row.display_name, row.context_window, row.capabilities) == ("d", 7, {"a": 1})
        assert (row.input_price, row.output_price) == (1, 2)


async def test_concurrent_upserts_with_secrets_and_deletes_leave_secrets_that_decrypt(storage: Storage) -> None:
    async def upsert(number: int) -> None:
        made = await storage.tool_configs.upsert(NewToolConfig(name="t", env={"N": str(number)}))  # type: ignore[dict-item]
        assert made.env is not None
        assert made.env["N"].get_secret_value() == str(number)
        if number % 7 == 0:
            await storage.tool_configs.delete(made.id)

    await asyncio.gather(*map(upsert, range(100)))
    for row in await storage.tool_configs.find():
        assert row.env is not None
        assert row.env["N"].get_secret_value().isdigit()


async def test_an_upsert_of_a_secret_in_a_transaction_is_a_part_of_it(face: Any, storage: Storage) -> None:
    await storage.providers.create(NewProvider(name="p", kind="k", api_key="before"))
    with pytest.raises(ZeroDivisionError):
        async with storage.transaction() as tx:
            made = await tx.providers.upsert(NewProvider(name="p", kind="k", api_key="after"))
            assert made.api_key is not None
            assert made.api_key.get_secret_value() == "after"
            await tx.providers.upsert(NewProvider(name="q", kind="k", api_key="new"))
            raise ZeroDivisionError
    (row,) = await storage.providers.find()
    assert row.api_key is not None
    assert row.api_key.get_secret_value() == "before"


async def test_an_upsert_without_its_secret_can_be_batched(storage: Storage) -> None:
    made = await storage.providers.create(NewProvider(name="p", kind="k", api_key="sk"))
    async with storage.batch() as batch:
        later = batch.add(batch.providers.upsert, NewProvider(name="p", kind="other"))
    assert (later.result.id, later.result.kind) == (made.id, "other")
    assert later.result.api_key.get_secret_value() == "sk"


# ---- patch ----


async def test_patch_removes_marked_keys_at_any_depth(face: Any) -> None:
    document = {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": [1], "g": None, "0": {"0": 1}}
    made = await face.conversations.create(NewConversation(metadata=document))
    patch = {"a": {"b": {"c": REMOVE}, "new": 1}, "f": REMOVE, "g": REMOVE, "missing": REMOVE, "0": {"0": REMOVE}}
    changed = await face.conversations.patch(made.id, metadata=patch)
    assert changed.metadata == {"a": {"b": {"d": 2}, "e": 3, "new": 1}, "0": {}}
    again = await face.conversations.patch(made.id, metadata={"a": {"b": REMOVE}, "x": {"y": REMOVE}, "z": None})
    assert again.metadata == {"a": {"e": 3, "new": 1}, "0": {}, "x": {}, "z": None}
    assert (await face.conversations.patch(made.id, metadata={"a": REMOVE})).metadata == {"0": {}, "x": {}, "z": None}


async def test_removing_in_what_is_no_object_makes_an_object(face: Any) -> None:
    made = await face.conversations.create(NewConversation(metadata={"list": [1, 2], "text": "t"}))
    changed = await face.conversations.patch(made.id, metadata={"list": {"0": REMOVE}, "text": {"x": REMOVE}})
    assert changed.metadata == {"list": {}, "text": {}}


async def test_a_key_that_is_hard_to_write_is_removed_exactly(face: Any) -> None:
    keys = ["a__b", "a.b", "", " ", "\x00", "\x1a", "\ud800", '"', "{a,b}", "-1", "REMOVE", "💥"]
    made = await face.conversations.create(NewConversation(metadata=dict.fromkeys(keys, 1) | {"kept": 1}))
    for number, key in enumerate(keys):
        changed = await face.conversations.patch(made.id, metadata={key: REMOVE})
        assert changed.metadata == dict.fromkeys(keys[number + 1 :], 1) | {"kept": 1}


async def test_the_marker_is_refused_where_no_key_can_be_removed(face: Any) -> None:
    made = await face.conversations.create(NewConversation(metadata={"list": [1]}))
    for wrong in ({"list": [REMOVE]}, {"list": [{"a": REMOVE}]}, REMOVE):
        with pytest.raises(InvalidValue):
            await face.conversations.patch(made.id, metadata=wrong)
    with pytest.raises(InvalidValue):
        await face.conversations.update(made.id, metadata={"list": REMOVE})
    with pytest.raises(InvalidValue):
        await face.conversations.create(NewConversation(metadata={"list": REMOVE}))
    assert (await face.conversations.require(made.id)).metadata == {"list": [1]}


def test_the_marker_is_one_object() -> None:
    assert repr(REMOVE) == "REMOVE"
    assert copy.deepcopy(REMOVE) is copy.copy(REMOVE) is pickle.loads(pickle.dumps(REMOVE)) is REMOVE  # noqa: S301


async def test_a_typed_document_loses_optional_fields_and_those_that_a_platform_added(face: Any) -> None:
    made = await face.boards.create(NewBoard(name="n", slug="s", data={"color": "red", "columns": [1], "icon": "x"}))
    changed = await face.boards.patch(made.id, data={"color": REMOVE, "columns": REMOVE})
    assert changed.data.color is None
    assert changed.data.model_dump() == {"icon": "x"}
    session = await face.sessions.create(NewSession(agent="a", data={"git_state": {"ref": "main", "base_sha": "1"}}))
    patched = await face.sessions.patch(session.id, data={"git_state": {"ref": REMOVE}})
    assert patched.data.git_state.model_dump() == {"base_sha": "1"}


class Address(Document):
    city: str
    street: str | None = None


class Place(Document):
    address: Address | None = None


class NewCustomer(Input):
    data: Jsonb[Place] = Place()


class Customer(Record, NewCustomer):
    pass


async def test_a_field_that_a_document_requires_is_not_removed(storage: Storage, migrated: str) -> None:
    class Customers(Repository[Customer, NewCustomer]):
        """Customers."""

        table = "customers"

    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE customers (id uuid PRIMARY KEY, data jsonb NOT NULL,"
            " created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now())"
        )
    customers = Customers(storage)
    made = await customers.create(NewCustomer(data=Place(address=Address(city="Oslo", street="Storgata"))))
    with pytest.raises(InvalidValue, match=r"customers\.data\.address\.city"):
        await customers.patch(made.id, data={"address": {"city": REMOVE}})
    assert (await customers.patch(made.id, data={"address": REMOVE})).data == Place()


async def test_patches_that_add_and_remove_different_keys_at_the_same_time_all_survive(storage: Storage) -> None:
    made = await storage.conversations.create(NewConversation(metadata={f"old{n}": n for n in range(50)}))
    patches: list[dict[str, Any]] = [{f"old{n}": REMOVE} for n in range(50)]
    patches += [{"in": {f"new{n}": n}} for n in range(50)]
    await asyncio.gather(*(storage.conversations.patch(made.id, metadata=patch) for patch in patches))
    row = await storage.conversations.require(made.id)
    assert row.metadata == {"in": {f"new{n}": n for n in range(50)}}


KEYS = st.sampled_from(["a", "b", "a__b", "", "0", "\x00"])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(["", "x", "\x1a"]), st.just([1, {}]))
DOCUMENTS = st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=6)
PATCHES = st.recursive(LEAVES | st.just(REMOVE), lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=6)


def merged(target: Any, patch: Any) -> Any:
    """The same in Python: RFC 7396, with the marker in place of null."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is REMOVE:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def test_patch_is_what_python_says(sync_storage: sync.Storage) -> None:
    row = sync_storage.conversations.create(NewConversation())

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(KEYS, DOCUMENTS, max_size=4), st.dictionaries(KEYS, PATCHES, max_size=4))
    def compare(document: dict[str, Any], patch: dict[str, Any]) -> None:
        sync_storage.conversations.update(row.id, metadata=document)
        assert sync_storage.conversations.patch(row.id, metadata=patch).metadata == merged(document, patch)

    compare()
