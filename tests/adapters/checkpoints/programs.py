"""Programs of the tests: `python -m tests.adapters.checkpoints.programs NAME …`."""

from __future__ import annotations

import asyncio
import sys

from agent_storage.adapters.checkpoints import checkpoint_provider
from agent_storage.types import NewCheckpoint


def initialize(url: str) -> None:
    """Apply the migrations, as soon as the parent says so."""

    async def work() -> None:
        provider = checkpoint_provider(url)
        print("ready", flush=True)  # noqa: T201
        sys.stdin.readline()
        async with provider:
            print(await provider.store_checkpoint(NewCheckpoint(agent_id="a", state=1)), flush=True)  # noqa: T201

    asyncio.run(work())


def store(url: str) -> None:
    """Store checkpoints for ever, eight at a time; print the id of each that was acknowledged."""

    async def work() -> None:
        async with checkpoint_provider(url) as provider:

            async def writer(number: int) -> None:
                n = 0
                while True:
                    n += 1
                    new = NewCheckpoint(agent_id=f"agent {number}", state={"n": n, "text": "x" * 2000})
                    print(await provider.store_checkpoint(new), flush=True)  # noqa: T201

            await asyncio.gather(*(writer(number) for number in range(8)))

    asyncio.run(work())


if __name__ == "__main__":
    {"initialize": initialize, "store": store}[sys.argv[1]](*sys.argv[2:])
