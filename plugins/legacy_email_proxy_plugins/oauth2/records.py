"""What is known of one account's tokens, and the octets in which it is stored: JSON, encrypted if a key is set."""

from __future__ import annotations

import base64
import json
import secrets
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from legacy_email_proxy.contracts import BearerToken, Failure, Secret

__all__ = ("Damaged", "Record", "Seal", "TokenStore")

_LOOK_AT_KEY = "OAUTH2_STORE_KEY"


class Damaged(Failure):
    """The file exists but can't be read: it is damaged, or encrypted with another key."""


class _Unfit(Exception):
    """These octets hold no record."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one account's tokens. Times are seconds since 1970, 0 for never.

    ``seed`` is the SHA-256 of the ``OAUTH2_REFRESH_TOKEN`` that was set when the tokens were stored; ``basis`` that of
    the settings used to ask for them. ``kept`` is the time of the last renewal if that did not replace the refresh
    token, else 0. ``asked`` are the scopes that were requested together with the refresh token. ``consent_ends``: the
    refresh token works until then, as the provider says.
    """

    grant: str = ""
    access_token: BearerToken | None = None
    refresh_token: Secret | None = None
    scope: str = ""
    obtained: float = 0.0
    expires: float = 0.0
    seed: str = ""
    basis: str = ""
    error: str = ""
    error_at: float = 0.0
    kept: float = 0.0
    asked: str = ""
    consent_ends: float = 0.0


class TokenStore(Protocol):
    """Where the record of one account is kept. Several processes may use it at once (the service, ``check``,
    ``authorize``, the proxies on other machines), so one that wants to replace a token first takes the lock, and reads
    again.
    """

    async def load(self) -> Record:
        """What is stored now. Raises :class:`Damaged`.

        While the store does not answer, the record that was read or saved last is returned.
        """

    async def save(self, record: Record) -> None:
        """Store it, safe from a power cut on return. Raises :class:`StorageFull`, and keeps the old record then."""

    def room(self) -> AbstractAsyncContextManager[None]:
        """Make sure that a :meth:`save` inside the block will find room. Raises :class:`StorageFull`."""

    def locked(self, seconds: float | None = None) -> AbstractAsyncContextManager[None]:
        """Keep other processes from replacing the token; within this process the caller must prevent that.

        Raises :class:`Overloaded` if another process has the lock for too long, :class:`StorageFull` if locking fails.
        """


class Seal:
    """Makes octets of a record and a record of octets. It may take a moment, so call it in a thread."""

    def __init__(
        self, account: str, key: Secret | None, place: str = "the file in STATE_DIR", look_at: str = "STATE_DIR"
    ) -> None:
        """``place`` is what has to be removed if it can't be read."""
        self._account = account
        self._key = key
        self._place = place
        self._look_at = look_at
        self._derived: tuple[bytes, bytes] | None = None

    def record(self, octets: bytes) -> Record:
        """Raises :class:`Damaged`."""
        try:
            return _record(self._opened(octets))
        except _Unfit:
            detail = f"the stored token is damaged; run `legacy-email-proxy authorize` again, or remove {self._place}"
            raise Damaged(detail, look_at=self._look_at) from None

    def octets(self, record: Record) -> bytes:
        """What is to be stored."""
        return self._sealed(json.dumps(_fields(record)).encode())

    def _opened(self, octets: bytes) -> dict[str, Any]:
        found = _object(octets)
        if "sealed" not in found:
            return found
        if self._key is None:
            raise Damaged("the stored token is encrypted, and there is no key for it", look_at=_LOOK_AT_KEY)
        try:
            salt, nonce, sealed = (base64.b64decode(found[name]) for name in ("salt", "nonce", "sealed"))
            return _object(AESGCM(self._derive(salt)).decrypt(nonce, sealed, self._account.encode()))
        except InvalidTag:
            detail = "the stored token was encrypted with another key, or is damaged; with the token gone, remove"
            raise Damaged(f"{detail} {self._place} and authorize again", look_at=_LOOK_AT_KEY) from None
        except (KeyError, ValueError, TypeError):
            raise _Unfit from None

    def _sealed(self, octets: bytes) -> bytes:
        if self._key is None:
            return octets
        salt = self._derived[0] if self._derived else secrets.token_bytes(16)
        nonce = secrets.token_bytes(12)
        # The account's name is authenticated too, so that one account's file can't be used as another's.
        sealed = AESGCM(self._derive(salt)).encrypt(nonce, octets, self._account.encode())
        parts = {"salt": salt, "nonce": nonce, "sealed": sealed}
        return json.dumps({name: base64.b64encode(part).decode() for name, part in parts.items()}).encode()

    def _derive(self, salt: bytes) -> bytes:
        assert self._key is not None  # noqa: S101 (both callers have looked)
        if self._derived is None or self._derived[0] != salt:
            # Slow on purpose (some 50 ms and 32 MiB), against guessing; so the result is kept for each salt.
            derived = Scrypt(salt, length=32, n=2**15, r=8, p=1).derive(self._key.reveal().encode())
            self._derived = (salt, derived)
        return self._derived[1]


def _object(octets: bytes) -> dict[str, Any]:
    try:
        found = json.loads(octets)
    except (ValueError, RecursionError):
        raise _Unfit from None
    if not isinstance(found, dict):
        raise _Unfit
    return found


def _fields(record: Record) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in Record.__slots__}
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in fields.items()}


def _record(fields: dict[str, Any]) -> Record:
    """A record from the file's fields. Raises :class:`_Unfit` for a missing field or one of the wrong type."""
    kinds: dict[str, Any] = {"access_token": BearerToken, "refresh_token": Secret}
    found: dict[str, Any] = {}
    if not fields.keys() >= {"grant", "refresh_token", "obtained"}:
        raise _Unfit
    for name in Record.__slots__:
        value = fields.get(name)
        if value is None:
            continue
        numeric = name in ("obtained", "expires", "error_at", "kept", "consent_ends")
        if not isinstance(value, (int, float) if numeric else str):
            raise _Unfit
        found[name] = kinds.get(name, lambda value: value)(value)
    return Record(**found)
