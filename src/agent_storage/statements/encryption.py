"""Secrets at rest: AES-256-GCM in envelopes, so that keys rotate without touching the ciphertext.

Each value is encrypted with a separate data key, and the data key with the key-encryption key from the setting
`secret_key`. The stored text is::

    v1:<key id>:<base64 nonce + wrapped data key>:<base64 nonce + ciphertext>

Table, row id and column are the associated data of both layers: a ciphertext that was copied to another row or column
does not decrypt. The wrapping also binds the key id, so `rewrap` replaces that part alone.
"""

from __future__ import annotations

import binascii
import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Never, Self
from uuid import UUID

from pydantic import SecretStr

from agent_storage.errors import SecretUnavailable

_VERSION = "v1"
_NONCE = 12
_HOW_TO = (
    "set STORAGE_SECRET_KEY to 32 random bytes in base64 "
    "(python -c 'import os, base64; print(base64.b64encode(os.urandom(32)).decode())')"
)


@dataclass(frozen=True)
class Place:
    """The place of a secret: the associated data of its encryption."""

    table: str
    id: UUID
    column: str

    def bytes(self) -> bytes:
        """Return an unambiguous encoding: names are identifiers and hold no NUL."""
        return b"\0".join((self.table.encode(), self.id.bytes.hex().encode(), self.column.encode()))

    def __str__(self) -> str:
        return f"{self.table}.{self.column} of row {self.id}"


class Keyring:
    """The key-encryption keys: the first encrypts, all decrypt. Without any, storing a secret is an error."""

    def __init__(self, keys: Mapping[str, bytes], current: str | None) -> None:
        self._keys = dict(keys)
        self.current = current

    @classmethod
    def from_setting(cls, setting: SecretStr | Callable[[], str] | None) -> Keyring:
        """Return a keyring from base64 keys separated by commas, the newest first.

        Raises `SecretUnavailable` for a key that is not 32 bytes of base64.
        """
        if setting is None:
            return cls({}, None)
        text = setting.get_secret_value() if isinstance(setting, SecretStr) else setting()
        keys = {_key_id(key): key for key in map(_decode_key, filter(None, (part.strip() for part in text.split(","))))}
        return cls(keys, next(iter(keys), None))

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._keys) or 'empty'})"

    def encrypt(self, secret: str, place: Place) -> str:
        """Return the text to store for `secret`. Raises `SecretUnavailable` without a key."""
        data_key = os.urandom(32)
        body = _seal(data_key, secret.encode("utf-8", "surrogatepass"), place.bytes())
        return self._envelope(data_key, body, place)

    def decrypt(self, stored: str, place: Place) -> str:
        """Return the secret in `stored`.

        Raises `SecretUnavailable` when its key is not in the ring, or when it was made for another row or column.
        """
        data_key, body = self._unwrap(stored, place)
        return _open(data_key, body, place.bytes(), place).decode("utf-8", "surrogatepass")

    def key_id(self, stored: str) -> str:
        """Return the id of the key that wraps `stored`."""
        return stored.split(":", 2)[1] if stored.count(":") == 3 else ""

    def rewrap(self, stored: str, place: Place) -> str:
        """Return `stored` with its data key wrapped by the current key; the ciphertext stays."""
        return self._envelope(*self._unwrap(stored, place), place)

    def _envelope(self, data_key: bytes, body: bytes, place: Place) -> str:
        if self.current is None:
            raise _unavailable(place, f"cannot be encrypted: no key; {_HOW_TO}")
        wrapped = _seal(self._keys[self.current], data_key, _wrap_data(place, self.current))
        return ":".join((_VERSION, self.current, b64encode(wrapped).decode(), b64encode(body).decode()))

    def _unwrap(self, stored: str, place: Place) -> tuple[bytes, bytes]:
        try:
            version, key_id, wrapped, body = stored.split(":")
            if version != _VERSION:
                raise ValueError
            parts = b64decode(wrapped, validate=True), b64decode(body, validate=True)
        except (ValueError, binascii.Error):
            raise _unavailable(place, "is not a ciphertext of this package") from None
        key = self._keys.get(key_id)
        if key is None:
            known = ", ".join(self._keys) or "none"
            raise _unavailable(place, f"is encrypted with key {key_id}, which is not set (known: {known}); {_HOW_TO}")
        return _open(key, parts[0], _wrap_data(place, key_id), place), parts[1]


#: How a secret is shown.
MASK = "**********"


class Stored:
    """A secret as it is stored: listing rows needs no key. `repr` and JSON show a mask."""

    def __init__(self, stored: str, place: Place, keyring: Keyring) -> None:
        self._stored = stored
        self._place = place
        self._keyring = keyring

    def __repr__(self) -> str:
        return f"SecretStr({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __bool__(self) -> bool:
        return True

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def same(self, other: object) -> bool:
        """Return whether `other` is the same ciphertext in the same place."""
        return isinstance(other, Stored) and (self._stored, self._place) == (other._stored, other._place)


class StoredSecret(Stored, SecretStr):
    """A stored `SecretStr`, decrypted each time that its value is read."""

    def get_secret_value(self) -> str:
        """Return the secret. Raises `SecretUnavailable`."""
        return self._keyring.decrypt(self._stored, self._place)

    @property
    def _secret_value(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]  # what SecretStr reads
        return self.get_secret_value()

    def __eq__(self, other: object) -> bool:
        """Compare the values. One that cannot be decrypted equals itself alone."""
        if not isinstance(other, SecretStr):
            return NotImplemented
        try:
            return self.same(other) or self.get_secret_value() == other.get_secret_value()
        except SecretUnavailable:
            return False

    def __hash__(self) -> int:
        try:
            return hash(self.get_secret_value())
        except SecretUnavailable:
            return hash(self._stored)

    def __bool__(self) -> bool:
        try:
            return bool(self.get_secret_value())
        except SecretUnavailable:
            return True

    def __reduce__(self) -> Any:
        """Return the value, as `SecretStr` does, or the ciphertext; never the keys."""
        try:
            return SecretStr, (self.get_secret_value(),)
        except SecretUnavailable:
            return StoredSecret, (self._stored, self._place, Keyring({}, None))


class LockedSecret(Stored):
    """In place of a value with secrets (`dict[str, SecretStr]`) that cannot be decrypted, or does not fit its type.

    Any use but a comparison with itself raises `SecretUnavailable`.
    """

    def __init__(self, stored: str, place: Place, why: str) -> None:
        super().__init__(stored, place, Keyring({}, None))
        self._why = why

    def refuse(self, *_: object, **__: object) -> Never:
        """Raise `SecretUnavailable`."""
        raise SecretUnavailable(self._why, table=self._place.table, column=self._place.column)

    __getitem__ = __iter__ = __len__ = __contains__ = __or__ = __ror__ = refuse

    def __getattr__(self, name: str) -> Never:
        if name.startswith("_"):
            raise AttributeError(name)
        self.refuse()

    def __eq__(self, other: object) -> bool:
        return self.same(other)

    def __hash__(self) -> int:
        return hash(self._stored)


def _unavailable(place: Place, why: str) -> SecretUnavailable:
    return SecretUnavailable(f"{place} {why}", table=place.table, column=place.column)


def _decode_key(text: str) -> bytes:
    try:
        key = b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != 32:
        raise SecretUnavailable(f"a secret key must be 32 bytes in base64; {_HOW_TO}")
    return key


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"agent-storage key id\0" + key).hexdigest()[:8]


def _wrap_data(place: Place, key_id: str) -> bytes:
    return place.bytes() + b"\0" + key_id.encode()


def _seal(key: bytes, plain: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, data)


def _open(key: bytes, sealed: bytes, data: bytes, place: Place) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], data)
    except (InvalidTag, ValueError):
        raise _unavailable(place, "does not decrypt: it was changed, or made for another row or column") from None
