"""Where the database is: the order of the sources, and one clear sentence for what cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from agent_storage import InvalidSettings, Storage
from agent_storage.database.settings import Settings

URL = "postgresql://u:pa55@h:5433/db"


def test_the_argument_beats_the_variables_and_storage_beats_the_common_one() -> None:
    both = {"STORAGE_DATABASE_URL": "postgresql://h/a", "DATABASE_URL": "postgresql://h/b"}

    def chosen(url: str | None, environment: dict[str, str]) -> str:
        return str(conninfo_to_dict(Settings.load(url, environment=environment).conninfo())["dbname"])

    assert chosen("postgresql://h/c", both) == "c"
    assert chosen(None, both) == "a"
    assert chosen(None, {"DATABASE_URL": "postgresql://h/b"}) == "b"
    assert chosen("postgresql://h/c", {"DATABASE_URL": ""}) == "c"
    assert Settings.load(environment={}).embedded


@pytest.mark.parametrize("text", ["", "  "])
@pytest.mark.parametrize("name", ["STORAGE_DATABASE_URL", "DATABASE_URL", "the argument url"])
def test_an_empty_url_is_an_error_and_never_the_embedded_server(name: str, text: str) -> None:
    url, environment = (text, {}) if name.startswith("the") else (None, {name: text})
    with pytest.raises(InvalidSettings, match=f"{name} cannot be used: it is empty"):
        Settings.load(url, environment=environment)


def test_settings_come_from_keywords_then_variables_then_defaults() -> None:
    environment = {"STORAGE_POOL_MAX": "7", "STORAGE_POOLER": "1", "STORAGE_DATA_DIR": "/x y"}
    settings = Settings.load(environment=environment, pool_min=3)
    assert (settings.pool_max, settings.pool_min, settings.pooler) == (7, 3, True)
    assert settings.data_dir == Path("/x y")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://u:pa55@h/db", "not a PostgreSQL URL"),
        ("postgresql://u:pa55@h:notaport/db?bogus=1", "connection string"),
        ("pa55", "connection string"),
    ],
)
def test_a_wrong_url_is_one_sentence_that_names_its_source_and_no_password(url: str, reason: str) -> None:
    with pytest.raises(InvalidSettings, match=reason) as caught:
        Settings.load(environment={"STORAGE_DATABASE_URL": url})
    assert "STORAGE_DATABASE_URL" in str(caught.value)
    assert "pa55" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("pool_max", 0), ("pool_max", "many"), ("json_limit", -1), ("bogus", 1)])
def test_a_wrong_setting_is_named(name: str, value: Any) -> None:
    with pytest.raises(InvalidSettings, match=name):
        Settings.load(environment={}, **{name: value})


def test_sqlalchemy_urls_and_key_value_strings_are_understood() -> None:
    for url in ("postgresql+psycopg://u:p@h/db", "postgres://u:p@h/db", "host=h user=u password=p dbname=db"):
        assert conninfo_to_dict(Settings.load(url, environment={}).conninfo())["dbname"] == "db"


def test_the_network_and_session_defaults_are_sent_and_the_urls_own_win() -> None:
    parts = conninfo_to_dict(
        Settings.load(f"{URL}?connect_timeout=1&options=-c%20jit%3Doff", environment={}).conninfo()
    )
    assert (parts["connect_timeout"], parts["tcp_user_timeout"]) == ("1", "10000")
    assert parts["application_name"] == "agent-storage"
    assert "TimeZone=UTC" in str(parts["options"])
    assert "statement_timeout=60000ms" in str(parts["options"])
    assert "jit=off" in str(parts["options"])


def test_behind_a_pooler_no_session_state_is_sent() -> None:
    assert "options" not in conninfo_to_dict(Settings.load(URL, environment={}, pooler=True).conninfo())


def test_no_password_stands_in_a_repr() -> None:
    assert "pa55" not in repr(Settings.load(URL, environment={}))
    assert "pa55" not in repr(Storage(URL).database)
