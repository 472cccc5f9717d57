"""Node.js's database libraries, in a process of Node.js that measures its own time: `benchmarks/node`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from ..workloads import New, Work
from .base import ALONE, Contender, environment

FOLDER = Path(__file__).resolve().parent.parent / "node"


class Node(Contender):
    """One process of `serve.mjs`, a line to it and one back for each round."""

    methods = ALONE | {"mixed"}
    elsewhere = True
    #: The module of `benchmarks/node`, and what npm and Prisma put there for it.
    module: ClassVar[str]
    built: ClassVar[tuple[tuple[str, str], ...]] = (("node_modules", "npm install"),)

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which("node") is None:
            return "node"
        absent = [(name, by) for name, by in cls.built if not (FOLDER / name).exists()]
        return next((f"benchmarks/node/{name} ({by})" for name, by in absent), None)

    def open(self) -> None:
        command = ["node", "--expose-gc", "serve.mjs", self.module]
        self.process = subprocess.Popen(
            command,
            cwd=FOLDER,
            env=environment(self.conninfo),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self.process.communicate()

    def time(self, work: Work, arguments: Sequence[tuple[Any, ...]]) -> float:
        assert self.process.stdin and self.process.stdout
        asked = {"method": work.method, "arguments": arguments, "tasks": work.tasks}
        self.process.stdin.write(json.dumps(asked, default=plain) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name}: node ended with {self.process.wait()}")
        took: dict[str, float | None] = json.loads(answer)
        self.p99, self.cpu = took["p99"], took["cpu"]
        return took["seconds"] or 0.0


def plain(value: object) -> object:
    """Encode a value that JSON does not have."""
    if isinstance(value, New):
        return asdict(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value).__name__)


class Drizzle(Node):
    """Drizzle over postgres.js, its queries prepared."""

    name: ClassVar[str] = "Drizzle"
    module = "drizzle"


class Prisma(Node):
    """Prisma over node-postgres."""

    name: ClassVar[str] = "Prisma"
    module = "prisma"
    built = (*Node.built, ("generated", "prisma generate"))
