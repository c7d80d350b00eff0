"""What is known of one account's tokens, and the octets in which it is stored: JSON, encrypted if a key is set."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from legacy_email_proxy.contracts import BearerToken, Failure, Secret

if TYPE_CHECKING:
    from .encryption import Cipher

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
        self._place = place
        self._look_at = look_at
        self._cipher: Cipher | None = None
        if key is not None:
            # Few set a key, and cryptography takes seven MiB.
            from .encryption import Cipher

            self._cipher = Cipher(account, key)

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
        if self._cipher is None:
            raise Damaged("the stored token is encrypted, and there is no key for it", look_at=_LOOK_AT_KEY)
        try:
            opened = self._cipher.opened(found)
        except (KeyError, ValueError, TypeError):
            raise _Unfit from None
        if opened is None:
            detail = "the stored token was encrypted with another key, or is damaged; with the token gone, remove"
            raise Damaged(f"{detail} {self._place} and authorize again", look_at=_LOOK_AT_KEY)
        return _object(opened)

    def _sealed(self, octets: bytes) -> bytes:
        return octets if self._cipher is None else json.dumps(self._cipher.sealed(octets)).encode()


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
