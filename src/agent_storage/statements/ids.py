"""Row identities: UUIDv7 (RFC 9562, section 5.7) and the short ids that people type."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

from agent_storage.errors import InvalidValue

#: The fewest digits that are taken for a short id, and the fewest that `short_id` gives.
SHORTEST_PREFIX = 4
SHORTEST_ID = 8

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEX = re.compile(r"[0-9a-f]+")


def uuid7(at: datetime | None = None) -> UUID:
    """Return a new UUIDv7 of now, or of the moment `at`, for rows that are imported.

    48 bits of Unix milliseconds, 12 bits of their fraction, 62 random bits: the same layout as PostgreSQL 18's
    `uuidv7()` (RFC 9562, method 3 of section 6.2), so ids of both sort by time. A moment before 1970 counts as 1970.
    Raises `InvalidValue` for a moment without a time zone.
    """
    if at is None:
        now = time.time_ns()
    elif at.tzinfo is None:
        raise InvalidValue("uuid7: the moment must have a time zone, such as datetime.now(UTC)")
    else:
        now = max(0, (at - _EPOCH) // timedelta(microseconds=1)) * 1000
    milliseconds, nanoseconds = divmod(now, 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1)
    return UUID(int=(milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | random)


def prefix_range(short_id: str) -> tuple[UUID, UUID]:
    """Return the lowest and highest UUID that begin with `short_id`.

    `short_id` has 4 to 32 hexadecimal digits; dashes and case are ignored. Raises `InvalidValue` for anything else.
    """
    digits = short_id.strip().replace("-", "").lower()
    if not _HEX.fullmatch(digits) or not SHORTEST_PREFIX <= len(digits) <= 32:
        raise InvalidValue(
            f"{short_id[:60]!r} is not an id: give a UUID or its first {SHORTEST_PREFIX} to 32 hexadecimal digits"
        )
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))


def shortest_prefix(id_: UUID, *neighbours: UUID | None) -> str:
    """Return the shortest prefix of `id_`, of at least 8 digits, that none of its neighbours in key order shares."""
    digits = id_.hex
    longest = max((_common(digits, other.hex) for other in neighbours if other is not None), default=0)
    return digits[: max(SHORTEST_ID, longest + 1)]


def _common(first: str, second: str) -> int:
    return next((index for index, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1]), 31)
