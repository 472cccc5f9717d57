"""Sources are read from pyproject.toml, found upwards, and from the environment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agent_storage.errors import InvalidSettings
from agent_storage.sources import GROUP, SHIPPED, at, configured, shipped

NO_ENVIRONMENT: dict[str, str] = {}


def _product(folder: Path, *lines: str, package: str = "src/shop/storage") -> Path:
    """Make a product with a package, and return the folder of its source."""
    source = folder / package
    (source / "migrations").mkdir(parents=True)
    (source / "tables").mkdir()
    (source / "__init__.py").touch()
    (source.parent / "__init__.py").touch()
    (folder / "pyproject.toml").write_text("\n".join(["[tool.agent-storage]", *lines]), "utf-8")
    return source


def test_without_a_configuration_there_is_the_shipped_source_alone(tmp_path: Path) -> None:
    found = configured(tmp_path, environment=NO_ENVIRONMENT)
    assert [one.name for one in found.sources] == [SHIPPED]
    assert found.own.shipped
    assert (found.own.migrations / "migrations.lock").is_file()
    assert (found.own.tables / "_shared.sql").is_file()
    assert (found.schema, found.ignore, found.path) == (None, (), None)


def test_a_source_comes_after_the_shipped_one_and_is_named_after_its_package(tmp_path: Path) -> None:
    folder = _product(tmp_path, 'sources = ["src/shop/storage"]', 'schema = "agent"', 'ignore = ["public.legacy_*"]')
    below = folder / "tables"
    found = configured(below, environment=NO_ENVIRONMENT)
    assert [one.name for one in found.sources] == [SHIPPED, "shop"]
    assert found.own == at(folder)
    assert (found.own.package, found.own.root) == ("shop.storage", tmp_path / "src")
    assert (found.own.tables, found.own.migrations) == (folder / "tables", folder / "migrations")
    assert (found.schema, found.ignore, found.path) == ("agent", ("public.legacy_*",), tmp_path / "pyproject.toml")


def test_a_folder_that_is_no_package_gives_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "billing" / "migrations").mkdir(parents=True)
    assert at(tmp_path / "billing").name == "billing"
    assert at(tmp_path / "billing").package is None


def test_a_product_can_do_without_the_shipped_source(tmp_path: Path) -> None:
    _product(tmp_path, 'sources = ["src/shop/storage"]', "include = []")
    assert [one.name for one in configured(tmp_path, environment=NO_ENVIRONMENT).sources] == ["shop"]


def test_the_folder_of_the_package_is_the_shipped_source() -> None:
    assert at(shipped().tables.parent) == shipped()


def test_the_nearest_section_counts_and_files_without_one_are_passed_over(tmp_path: Path) -> None:
    _product(tmp_path, 'sources = ["src/shop/storage"]')
    inner = tmp_path / "docs" / "site"
    inner.mkdir(parents=True)
    (inner / "pyproject.toml").write_text('[project]\nname = "site"\n', "utf-8")
    assert configured(inner, environment=NO_ENVIRONMENT).path == tmp_path / "pyproject.toml"


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    folder = _product(tmp_path, 'sources = ["nowhere"]', 'schema = "agent"', 'ignore = ["public.x"]')
    environment = {
        "STORAGE_SOURCES": f"first={folder}, second={folder}",
        "STORAGE_SCHEMA": "other",
        "STORAGE_IGNORE": "",
        "STORAGE_INCLUDE": "",
    }
    found = configured(tmp_path, environment=environment)
    assert [one.name for one in found.sources] == ["first", "second"]
    assert (found.schema, found.ignore) == ("other", ())


def test_an_installed_package_offers_its_source_by_an_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _product(tmp_path / "site", package="offered/storage")
    info = tmp_path / "site" / "offered-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\noffered = offered.storage\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "offered", raising=False)
    found = configured(tmp_path, environment={"STORAGE_SOURCES": "offered"})
    assert found.own.name == "offered"
    assert found.own.package == "offered.storage"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('sources = ["src/sohp/storage"]', "there is no source 'src/sohp/storage'"),
        ('sources = "src/shop/storage"', "sources has to be a list of texts"),
        ("sources = [1]", "sources has to be a list of texts"),
        ('sources = ["src/shop/storage", "src/shop/storage"]', "two sources are called 'shop'"),
        ('sources = ["a b=src/shop/storage"]', "'a b' cannot name a source"),
        ('surces = ["src/shop/storage"]', "unknown key 'surces'; known are: sources, schema, ignore, include"),
        ('include = ["shop"]', "only 'agent_storage' can be included"),
        ("include = []", "include is empty, so sources has to name one"),
        ("schema = 5", "schema has to be the name of a PostgreSQL schema"),
        ("sources = [", "is not valid TOML"),
    ],
)
def test_a_wrong_line_is_refused_with_its_file(tmp_path: Path, line: str, message: str) -> None:
    _product(tmp_path, line)
    with pytest.raises(InvalidSettings) as caught:
        configured(tmp_path, environment=NO_ENVIRONMENT)
    assert message in str(caught.value)
    assert "pyproject.toml" in str(caught.value) or "cannot name" in str(caught.value)


def test_a_schema_that_is_set_to_nothing_is_as_if_it_were_not_set(tmp_path: Path) -> None:
    _product(tmp_path, 'schema = "agent"')
    assert configured(tmp_path, environment={"STORAGE_SCHEMA": ""}).schema == "agent"


def test_an_unknown_source_is_refused_with_the_known_names(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"there is no source 'shop'; configured are: agent_storage"):
        configured(tmp_path, environment=NO_ENVIRONMENT).source("shop")
