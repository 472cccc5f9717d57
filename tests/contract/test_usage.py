"""Usage by day, model, owner and project: exact, complete, in the days of a time zone."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from agent_storage import InvalidValue, NotFound, sync
from agent_storage.types import (
    NewConversation,
    NewLlmExecution,
    NewMessage,
    NewModel,
    NewProject,
    NewProvider,
    NewWorkflow,
)

START = datetime(2026, 3, 28, tzinfo=UTC)  # Oslo changes to summer time in the second of these nights
KEYS = ("day", "model", "owner", "project")


@pytest.fixture(autouse=True)
def _exact_decimals() -> Iterator[None]:
    with localcontext(prec=60):  # Python's default rounds the expected values
        yield


@pytest.fixture
def with_times(migrated: str) -> None:
    """Let UPDATE set created_at, as an import by COPY does."""
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("ALTER TABLE messages DISABLE TRIGGER USER")


@pytest.fixture
def spent(sync_storage: sync.Storage, migrated: str, with_times: None) -> list[dict[str, Any]]:
    """300 messages of three owners and models, one every 23 minutes: the keys and amounts that each counts for."""
    dice, storage = Random(7), sync_storage
    provider = storage.providers.create(NewProvider(name="p", kind="k"))
    models = [
        storage.models.create(
            NewModel(provider_id=provider.id, name=f"model {n}", input_price=price, output_price=price)
        )
        for n, price in enumerate([Decimal("0.000001"), Decimal("99999999999999.999999"), None])
    ]
    projects = [storage.projects.create(NewProject(name="p", path=f"/{n}")).id for n in range(2)] + [None]
    talks = [
        storage.conversations.create(NewConversation(owner=owner, project_id=project, model_id=model and model.id))
        for owner in ("ann", "bob", None)
        for project in projects
        for model in (models[0], None)
    ]
    rows: list[dict[str, Any]] = []
    news: list[NewMessage] = []
    for number in range(300):
        talk, model = dice.choice(talks), dice.choice([*models, None])
        tokens = (dice.choice([None, 0, 1, 2**31 - 1]), dice.choice([None, 3, 2**31 - 1]))
        news.append(
            NewMessage(
                conversation_id=talk.id, role="assistant", content="x", model_id=model and model.id,
                input_tokens=tokens[0], output_tokens=tokens[1],
            )
        )  # fmt: skip
        charged = model or next((one for one in models if one.id == talk.model_id), None)
        prices = [getattr(charged, f"{way}_price", None) or Decimal(0) for way in ("input", "output")]
        cost = sum((n or 0) * price for n, price in zip(tokens, prices, strict=True)) * Decimal("0.000001")
        rows.append(
            {
                "at": START + timedelta(minutes=23 * number), "model": charged and charged.name, "owner": talk.owner,
                "model_id": charged and charged.id, "project": talk.project_id, "amounts": (*tokens, cost),
            }
        )  # fmt: skip
    made = storage.messages.create_many(news)
    with psycopg.connect(migrated, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE messages SET created_at = %s WHERE id = %s",  # what an import does
            [(row["at"], message.id) for row, message in zip(rows, made, strict=True)],
        )
    return rows


def counted(rows: list[dict[str, Any]], keys: tuple[str, ...], zone: str = "UTC") -> dict[Any, Any]:
    """The usage of `rows` by the keys, as plain Python counts it."""
    found: defaultdict[Any, list[Any]] = defaultdict(lambda: [0, 0, 0, Decimal(0)])
    for row in rows:
        values = {**row, "day": row["at"].astimezone(ZoneInfo(zone)).date()}
        total = found[tuple(values[key] for key in keys)]
        tokens_in, tokens_out, cost = row["amounts"]
        total[:] = [total[0] + 1, total[1] + (tokens_in or 0), total[2] + (tokens_out or 0), total[3] + cost]
    return {key: tuple(value) for key, value in found.items()}


def keyed(usage: Any, keys: tuple[str, ...]) -> dict[Any, Any]:
    names = {"project": "project_id"}
    return {
        tuple(getattr(row, names.get(key, key)) for key in keys): (
            row.messages,
            row.input_tokens,
            row.output_tokens,
            row.cost,
        )
        for row in usage
    }


def test_every_grouping_equals_a_plain_count(sync_storage: sync.Storage, spent: Any) -> None:
    messages = sync_storage.messages
    for chosen in range(2 ** len(KEYS)):
        keys = tuple(key for place, key in enumerate(KEYS) if chosen & 1 << place)
        usage = messages.usage_by(*keys)  # pyright: ignore
        assert keyed(usage, keys) == counted(spent, keys), keys
        assert len(usage) == len(keyed(usage, keys)) and not usage.more
        for unasked in {"day", "model", "model_id", "owner", "project_id"} - {
            *keys, *(["model_id"] if "model" in keys else []), *(["project_id"] if "project" in keys else [])
        }:  # fmt: skip
            assert {getattr(row, unasked) for row in usage} == {None}


def test_filters_of_owner_project_and_time(sync_storage: sync.Storage, spent: Any) -> None:
    project = next(row["project"] for row in spent if row["project"])
    since, until = spent[40]["at"], spent[200]["at"]
    for asked, kept in (
        ({"owner": "ann"}, lambda row: row["owner"] == "ann"),
        ({"project_id": project}, lambda row: row["project"] == project),
        (
            {"owner": "bob", "project_id": project},
            lambda row: (row["owner"], row["project"]) == ("bob", project),
        ),
        ({"since": since, "until": until}, lambda row: since <= row["at"] < until),
        ({"owner": "bob", "since": since}, lambda row: row["owner"] == "bob" and since <= row["at"]),
        ({"owner": "nobody"}, lambda _: False),
    ):
        usage = sync_storage.messages.usage_by("day", "model", **asked)
        assert keyed(usage, ("day", "model")) == counted([row for row in spent if kept(row)], ("day", "model"))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Oslo", "Pacific/Auckland", "America/St_Johns"])
def test_days_are_those_of_the_time_zone(sync_storage: sync.Storage, spent: Any, zone: str) -> None:
    usage = sync_storage.messages.usage_by("day", time_zone=zone)
    assert keyed(usage, ("day",)) == counted(spent, ("day",), zone)
    days = [row.day for row in usage]
    assert days == sorted(days, reverse=True) and isinstance(days[0], date)  # type: ignore[type-var]


def test_the_last_day_comes_first_and_within_it_the_highest_cost(sync_storage: sync.Storage, spent: Any) -> None:
    usage = sync_storage.messages.usage_by("day", "model")
    order = [(row.day, row.cost) for row in usage]
    assert order == sorted(order, reverse=True)  # type: ignore[type-var]
    first = sync_storage.messages.usage_by("day", "model", limit=3)
    assert (first, first.more) == (usage[:3], True)


def test_a_wrong_key_time_or_zone_is_refused_before_any_sql(sync_storage: sync.Storage) -> None:
    messages: Any = sync_storage.messages
    with pytest.raises(InvalidValue, match="'week'; keys are: day, model, owner, project"):
        messages.usage_by("week")
    for zone in ("UTC+2", "Oslo", "../UTC", "", "Europe", "\x00", 5):
        with pytest.raises(InvalidValue, match="time_zone"):
            messages.usage_by("day", time_zone=zone)
    with pytest.raises(InvalidValue, match="since"):
        messages.usage_by(since=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(InvalidValue, match="limit"):
        messages.usage_by(limit=-1)


def test_the_cost_of_a_conversation_is_exact(sync_storage: sync.Storage) -> None:
    storage = sync_storage
    provider = storage.providers.create(NewProvider(name="p", kind="k"))
    price = Decimal("12345678901234.567891")
    model = storage.models.create(NewModel(provider_id=provider.id, name="m", input_price=price, output_price=None))
    talk = storage.conversations.create(NewConversation(model_id=model.id))
    storage.messages.append(talk.id, "assistant", "x", input_tokens=2**31 - 1, output_tokens=5)
    exact = (2**31 - 1) * price * Decimal("0.000001")
    assert storage.conversations.usage(talk.id).cost == exact
    (by_model,) = storage.messages.usage_by("model", "owner")
    assert (by_model.cost, by_model.model, by_model.model_id) == (exact, "m", model.id)


async def test_usage_of_nothing_and_of_a_deleted_model(face: Any) -> None:
    assert await face.messages.usage_by("day") == await face.messages.usage_by() == []
    provider = await face.providers.create(NewProvider(name="p", kind="k"))
    model = await face.models.create(NewModel(provider_id=provider.id, name="m", input_price=Decimal(1)))
    talk = await face.conversations.create(NewConversation(owner="ann"))
    await face.messages.append(talk.id, "assistant", "x", input_tokens=5, model_id=model.id)
    await face.models.delete(model.id)
    (used,) = await face.messages.usage_by("model", "owner")
    assert (used.model, used.owner, used.input_tokens, used.cost) == (None, "ann", 5, 0)
    with pytest.raises(NotFound):
        await face.conversations.usage(model.id)


async def test_usage_in_one_statement_is_one_snapshot_while_others_append(storage: Any) -> None:
    """Each message has one token in and one out: a snapshot never shows different sums."""
    talks = [await storage.conversations.create(NewConversation(owner=f"o{n % 3}")) for n in range(9)]

    async def append(number: int) -> None:
        await storage.messages.append(talks[number % 9].id, "user", "x", input_tokens=1, output_tokens=1)

    async def look() -> None:
        for row in await storage.messages.usage_by("day", "owner"):
            assert row.messages == row.input_tokens == row.output_tokens

    await asyncio.gather(*(append(number) for number in range(200)), *(look() for _ in range(50)))
    assert sum(row.messages for row in await storage.messages.usage_by("owner")) == 200


async def test_usage_of_calls_by_day_model_owner_and_workflow(face: Any) -> None:
    flows = [await face.workflows.create(NewWorkflow(name="w", definition={}, owner=owner)) for owner in ("ann", None)]
    runs = [await face.workflow_sessions.create_from(flow.id) for flow in flows]
    await face.llm_executions.create_many(
        [
            NewLlmExecution(
                session_id=run.id, node_id="n", success=number != 1, input_tokens=number, output_tokens=None,
                cost=Decimal("0.1234567890123456789"), metadata={"model": f"m{number % 2}"} if number else {},
            )
            for run in runs
            for number in range(3)
        ]
    )  # fmt: skip
    today = datetime.now(UTC).date()
    usage = await face.llm_executions.usage_by("day", "model", "owner", "workflow")
    cost = Decimal("0.1234567890123456789")
    assert {(row.model, row.owner, row.workflow_id): (row.calls, row.failures, row.input_tokens) for row in usage} == {
        (model, owner, flow.id): (1, int(model == "m1"), tokens)
        for owner, flow in zip(("ann", None), flows, strict=True)
        for model, tokens in ((None, 0), ("m1", 1), ("m0", 2))
    }
    assert {row.cost for row in usage} == {cost}
    assert {row.day for row in usage} <= {today, today + timedelta(days=1)}
    (all_,) = await face.llm_executions.usage_by()
    assert (all_.calls, all_.failures, all_.input_tokens, all_.output_tokens, all_.cost) == (6, 2, 6, 0, 6 * cost)
    assert (all_.day, all_.model, all_.owner, all_.workflow_id) == (None, None, None, None)
    for asked in ({"owner": "ann"}, {"workflow_id": flows[0].id}, {"owner": "ann", "workflow_id": flows[0].id}):
        (of,) = await face.llm_executions.usage_by("owner", **asked)
        assert (of.owner, of.calls, of.cost) == ("ann", 3, 3 * cost)
    assert await face.llm_executions.usage_by("day", owner="ann", workflow_id=flows[1].id) == []
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert await face.llm_executions.usage_by("day", since=soon) == []
    assert len(await face.llm_executions.usage_by(until=soon)) == 1
    with pytest.raises(InvalidValue, match="keys are: day, model, owner, workflow"):
        await face.llm_executions.usage_by("project")
