"""The soak for ten seconds; `make soak MINUTES=10` runs it for longer."""

from __future__ import annotations

import logging
import random

import pytest

from .__main__ import soak


async def test_a_mixed_load_under_random_faults_keeps_every_promise(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    seed = random.SystemRandom().randrange(10**6)
    figures = await soak(10.0, seed)
    assert figures["contradictions"] == [], f"seed {seed}"
    assert figures["lost"] == 0
    assert figures["acknowledged"] > 50
    assert sum(figures["faults injected"].values()) > 1
