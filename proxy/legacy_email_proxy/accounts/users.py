"""Local users: names and passwords that exist only here, so that a device needs no provider's password.

A password is kept as ``$scrypt$ln=14,r=8,p=1$salt$key`` (base64 without padding), a form that other programs write too.
The costs are always the same, so that no login takes longer than another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import anyio
import anyio.to_thread

from ..contracts import Login, LoginRefused
from ..guessing import KnownPasswords, LoginLimit

__all__ = ("PasswordHash", "Users")

_FORM = re.compile(r"\$scrypt\$ln=14,r=8,p=1\$([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{43})")
_AT_ONCE = 2
"""How many passwords are checked at once. Each takes 16 MiB and a processor for 50 ms, and many wrong ones must not
take all there is. They can still make others wait for seconds, so a password that was proven once is not hashed again.
"""


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """The hash of a password, with its salt."""

    salt: bytes
    key: bytes

    @classmethod
    def of(cls, password: str) -> Self:
        """A fresh hash of this password."""
        salt = secrets.token_bytes(16)
        return cls(salt, _key(password, salt))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The hash that ``text`` holds. Raises :class:`ValueError`, without the text: it may be a password."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError("that is no hash of a password; `legacy-email-proxy password` makes one")
        salt, key = (base64.b64decode(part + "=" * (-len(part) % 4)) for part in found.groups())
        return cls(salt, key)

    def __str__(self) -> str:
        salt, key = (base64.b64encode(octets).decode().rstrip("=") for octets in (self.salt, self.key))
        return f"$scrypt$ln=14,r=8,p=1${salt}${key}"

    def __repr__(self) -> str:
        return "***"

    def fits(self, password: str) -> bool:
        """Whether it was made of this password; takes as long as :meth:`of`."""
        return hmac.compare_digest(self.key, _key(password, self.salt))


def _octets(password: str) -> bytes:
    # Octets of a client that are not UTF-8 arrive as surrogates.
    return password.encode("utf-8", "surrogateescape")


def _key(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(_octets(password), salt=salt, n=1 << 14, r=8, p=1, maxmem=1 << 26, dklen=32)


_HASH_FOR_UNKNOWN_USERS = PasswordHash(bytes(16), bytes(32))


class Users:
    """Name → hash. ``logins`` limits how many passwords may be tried."""

    def __init__(self, hashes: Mapping[str, PasswordHash], logins: LoginLimit | None = None) -> None:
        self._hashes = hashes
        self._logins = logins or LoginLimit()
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)
        self._proven = KnownPasswords()

    async def verify(self, login: Login) -> bool:
        """Whether there is this user with this password. An unknown user takes as long as a wrong password."""
        if login in self._proven:
            return True
        kept = self._hashes.get(login.user, _HASH_FOR_UNKNOWN_USERS)
        fits = await anyio.to_thread.run_sync(kept.fits, login.password.reveal(), limiter=self._limiter)
        if fits:
            self._proven.add(login)
        return fits

    async def prove(self, login: Login, address: str) -> None:
        """Raises :class:`LoginRefused` unless :meth:`verify` says yes, and :class:`LoginsLimited` where a client of
        this address may not try now.
        """
        async with self._logins.attempt("accounts", address, login):
            if not await self.verify(login):
                known = "wrong password" if login.user in self._hashes else "no such user"
                raise LoginRefused(f"{known} in the accounts file", look_at="ACCOUNTS_FILE")
