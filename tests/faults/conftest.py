"""Faults are injected between a storage and a migrated database of the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .proxy import Proxy


@pytest.fixture
def proxy(migrated: str) -> Iterator[Proxy]:
    with Proxy(migrated) as made:
        yield made
