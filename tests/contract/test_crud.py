"""What every repository promises, on both faces."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import UUID, uuid4

import pytest

from agent_storage import AlreadyExists, AmbiguousId, InvalidValue, MissingReference, NotFound, Storage, StorageError
from agent_storage.statements.ids import uuid7
from agent_storage.types import NewBoard, NewConversation, NewModel, NewProvider


async def test_create_gives_back_what_was_given_and_what_the_database_added(face: Any) -> None:
    made = await face.conversations.create(NewConversation(title="Oslo", metadata={"a": [1, None, "x"]}))
    assert (made.title, made.metadata, made.message_count) == ("Oslo", {"a": [1, None, "x"]}, 0)
    assert made.id.version == 7
    assert await face.conversations.get(made.id) == made


async def test_an_id_of_the_callers_own_makes_a_retry_the_same_row_instead_of_a_second_one(face: Any) -> None:
    mine = uuid4()
    made = await face.conversations.create(NewConversation(id=mine, title="a"))
    assert await face.conversations.create(NewConversation(id=mine, title="a")) == made
    with pytest.raises(AlreadyExists, match="differs in title"):
        await face.conversations.create(NewConversation(id=mine, title="b"))
    assert await face.conversations.count() == 1


async def test_what_is_missing_is_none_for_get_and_not_found_for_require(face: Any) -> None:
    assert await face.conversations.get(uuid4()) is None
    assert not await face.conversations.exists(uuid4())
    with pytest.raises(NotFound):
        await face.conversations.require(uuid4())


async def test_create_many_keeps_the_order_and_is_all_or_nothing(face: Any) -> None:
    news = [NewConversation(title=f"n{number}\x00", metadata={"n": number}) for number in range(50)]
    made = await face.conversations.create_many(news)
    assert [item.title for item in made] == [item.title for item in news]
    with pytest.raises(AlreadyExists):
        await face.conversations.create_many([NewConversation(), NewConversation(id=made[0].id, title="other")])
    assert await face.conversations.count() == 50
    assert await face.conversations.create_many([]) == []


async def test_update_changes_the_named_fields_and_the_time_alone(face: Any) -> None:
    made = await face.conversations.create(NewConversation(title="before", metadata={"kept": True}))
    changed = await face.conversations.update(made.id, title="after")
    assert (changed.title, changed.metadata, changed.created_at) == ("after", {"kept": True}, made.created_at)
    assert changed.updated_at > made.updated_at
    assert (await face.conversations.update(made.id, title=None)).title is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "nothing to change"),
        ({"bogus": 1}, "cannot be changed"),
        ({"id": uuid4()}, "cannot be changed"),
        ({"created_at": None}, "cannot be changed"),
        ({"title": 5}, "valid string"),
        ({"message_count": 3}, "cannot be"),
    ],
)
async def test_update_refuses_what_the_new_record_refuses(face: Any, changes: Any, reason: str) -> None:
    made = await face.conversations.create(NewConversation(title="same"))
    with pytest.raises(InvalidValue, match=reason):
        await face.conversations.update(made.id, **changes)
    assert await face.conversations.require(made.id) == made


async def test_updating_or_patching_what_is_not_there_is_not_found(face: Any) -> None:
    with pytest.raises(NotFound):
        await face.conversations.update(uuid4(), title="x")
    with pytest.raises(NotFound):
        await face.conversations.patch(uuid4(), metadata={})


async def test_update_many_and_delete_many_say_how_many_rows_there_were(face: Any) -> None:
    made = await face.conversations.create_many([NewConversation() for _ in range(3)])
    ids = [item.id for item in made]
    assert await face.conversations.update_many([*ids[:2], uuid4()], {"title": "both"}) == 2
    assert await face.conversations.count({"title": "both"}) == 2
    assert await face.conversations.delete(ids[0]) is True
    assert await face.conversations.delete(ids[0]) is False
    assert await face.conversations.delete_many(ids) == 2


async def test_delete_where_refuses_to_empty_the_table(face: Any) -> None:
    await face.conversations.create(NewConversation(title="x"))
    with pytest.raises(InvalidValue, match="needs a filter"):
        await face.conversations.delete_where({})
    assert await face.conversations.delete_where({"title": "x"}) == 1


async def test_patch_merges_to_any_depth_and_leaves_the_rest(face: Any) -> None:
    made = await face.conversations.create(NewConversation(metadata={"a": {"b": {"c": 1}}, "list": [1, 2], "gone": 1}))
    patched = await face.conversations.patch(made.id, metadata={"a": {"b": {"d": 2}}, "list": [3], "gone": None})
    assert patched.metadata == {"a": {"b": {"c": 1, "d": 2}}, "list": [3], "gone": None}


async def test_two_patches_of_different_keys_at_the_same_time_both_survive(storage: Any) -> None:
    made = await storage.conversations.create(NewConversation())
    await asyncio.gather(*(storage.conversations.patch(made.id, metadata={f"k{n}": {"n": n}}) for n in range(50)))
    assert (await storage.conversations.require(made.id)).metadata == {f"k{n}": {"n": n} for n in range(50)}


async def test_upsert_by_the_natural_key_keeps_the_id(face: Any) -> None:
    provider = await face.providers.create(NewProvider(name="p", kind="openai"))
    first = await face.models.upsert(NewModel(provider_id=provider.id, name="m", context_window=10))
    again = await face.models.upsert(NewModel(provider_id=provider.id, name="m", context_window=20))
    assert (again.id, again.context_window, again.created_at) == (first.id, 20, first.created_at)
    with pytest.raises(StorageError, match="no natural key"):
        await face.conversations.upsert(NewConversation())


async def test_a_duplicate_key_names_the_constraint_and_its_fields_but_no_value(face: Any) -> None:
    await face.providers.create(NewProvider(name="hush-hush", kind="k"))
    with pytest.raises(AlreadyExists) as caught:
        await face.providers.create(NewProvider(name="hush-hush", kind="k"))
    assert caught.value.constraint == "providers_name_key"
    assert caught.value.table == "providers"
    assert "same name" in str(caught.value)
    assert "hush" not in str(caught.value)


async def test_a_foreign_key_that_points_nowhere_is_a_missing_reference(face: Any) -> None:
    with pytest.raises(MissingReference, match=r"models\.provider_id") as caught:
        await face.models.create(NewModel(provider_id=uuid4(), name="m"))
    assert caught.value.sqlstate == "23503"
    assert await face.models.count() == 0


async def test_an_input_of_another_table_is_refused(face: Any) -> None:
    with pytest.raises(InvalidValue, match="give a NewModel"):
        await face.models.create(NewConversation())


async def test_short_ids_resolve_in_every_spelling_and_say_when_they_are_ambiguous(face: Any) -> None:
    base = UUID("0199b73d-1111-7aaa-8000-000000000001")
    twin = UUID("0199b73d-1111-7aaa-8000-000000000002")
    other = UUID("0199b73e-1111-7aaa-8000-000000000003")
    await face.conversations.create_many([NewConversation(id=item) for item in (base, twin, other)])
    for text in ("0199b73e", "0199B73E", "0199b73e-11", "0199b73e11117", str(other), other.hex):
        assert (await face.conversations.resolve(text)).id == other
    with pytest.raises(AmbiguousId) as caught:
        await face.conversations.resolve("0199")
    assert caught.value.candidates == [base, twin, other]
    with pytest.raises(NotFound):
        await face.conversations.resolve("ffff")
    for text in ("019", "zzzz", "%___", "", "0" * 33, "0199 b73e"):
        with pytest.raises(InvalidValue):
            await face.conversations.resolve(text)
    assert await face.conversations.short_id(other) == "0199b73e"
    assert await face.conversations.short_id(base) == base.hex


async def test_stream_gives_every_row_and_leaves_the_pool_whole(storage: Any) -> None:
    await storage.conversations.create_many([NewConversation(title=str(n)) for n in range(2500)])
    async with storage.conversations.stream(order_by="id") as rows:
        titles = [row.title async for row in rows]
    assert len(titles) == 2500
    for _ in range(30):  # more than the pool has connections
        async with storage.conversations.stream({"title__ne": "5"}) as rows:
            async for _row in rows:
                break
    assert await storage.conversations.count() == 2500


def test_stream_on_the_sync_face(sync_storage: Any) -> None:
    sync_storage.conversations.create_many([NewConversation(title=str(n)) for n in range(1200)])
    with sync_storage.conversations.stream() as rows:
        assert sum(1 for _ in rows) == 1200


def test_client_made_ids_sort_by_time() -> None:
    ids = [uuid7() for _ in range(1000)]
    assert all(item.version == 7 for item in ids)
    assert len(set(ids)) == 1000
    assert [item.int >> 64 for item in ids] == sorted(item.int >> 64 for item in ids)


@pytest.mark.parametrize("number", [7, 1500])
async def test_rows_with_a_natural_key_have_results_and_ids_in_the_order_given(face: Any, number: int) -> None:
    """Although they are made in the order of their keys."""
    slugs = [f"b{n}" for n in range(number)]
    random.Random(number).shuffle(slugs)
    made = await face.boards.create_many([NewBoard(name="b", slug=slug) for slug in slugs])
    assert [row.slug for row in made] == slugs
    assert [row.id for row in made] == sorted(row.id for row in made)


async def test_rows_with_a_natural_key_have_results_in_the_order_given_in_a_batch_too(storage: Storage) -> None:
    async with storage.batch() as batch:
        later = batch.add(batch.boards.create_many, [NewBoard(name="b", slug=slug) for slug in "cab"])
    assert [row.slug for row in later.result] == list("cab")
