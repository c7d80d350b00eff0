"""Pauses that double each time, so that what was refused is not asked again and again.

For logins that is :class:`Breaker`: polling devices would lock the account. :class:`Pause` is the pause alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from legacy_email_proxy.contracts import CredentialsRefused, Overloaded, Secret

__all__ = ("FIRST_PAUSE_SECONDS", "LAST_PAUSE_SECONDS", "Breaker", "Pause")

FIRST_PAUSE_SECONDS = 60.0
LAST_PAUSE_SECONDS = 3600.0
"""The pause doubles from the first to the last: four tries in the first ten minutes, then 24 a day. Providers lock an
account, or an address, after five to ten wrong passwords in ten minutes."""
_SECRETS_IN_A_PAUSE = 4
"""So many different secrets may be refused before a pause is one for any other as well."""


class Breaker:
    """Of one login name at one server. A secret that was refused is not tried for a while; another one is, at once:
    somebody may just have consented, or the token was renewed.

    Until a secret has been accepted, logins with it also go one by one: ten at once would be ten wrong passwords.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._pause = 0.0
        self._open_until = 0.0
        self._refused: dict[bytes, CredentialsRefused] = {}
        """In this pause, by the secrets' fingerprints."""
        self._proven = b""
        self._turn = asyncio.Lock()

    def check(self, secret: Secret) -> None:
        """Raises :class:`CredentialsRefused` if there is no use in connecting, as ``secret`` may not be tried."""
        left = self._open_until - self._clock()
        if left <= 0:
            return
        refused = self._refused.get(secret.fingerprint())
        if refused is None and len(self._refused) >= _SECRETS_IN_A_PAUSE:
            refused = list(self._refused.values())[-1]
        if refused is not None:
            detail = f"{refused.detail}; not tried again for {left:.0f} s"
            raise CredentialsRefused(detail, look_at=refused.look_at)

    @asynccontextmanager
    async def attempt(self, secret: Secret, seconds: float) -> AsyncIterator[None]:
        """Around one login. Raises :class:`CredentialsRefused` in a pause, and :class:`Overloaded` if another login,
        on which this one depends, has not ended after ``seconds``.
        """
        self.check(secret)
        turn = secret.fingerprint() != self._proven
        if turn:
            await self._wait_for_turn(secret, seconds)
        try:
            yield
        except CredentialsRefused as refused:
            self._open(secret, refused)
            raise
        else:
            self._proven, self._pause = secret.fingerprint(), 0.0
        finally:
            if turn:
                self._turn.release()

    async def _wait_for_turn(self, secret: Secret, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise Overloaded(f"another login at the backend has not ended within {seconds:g} s") from None
        try:
            self.check(secret)
        except CredentialsRefused:
            self._turn.release()
            raise

    def _open(self, secret: Secret, refused: CredentialsRefused) -> None:
        self._proven = b""
        if self._clock() < self._open_until:
            self._refused[secret.fingerprint()] = refused
            return
        self._pause = min(self._pause * 2 or FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS)
        self._open_until = self._clock() + self._pause
        self._refused = {secret.fingerprint(): refused}
        words = "%s: the same password or token is not tried again for %.0f s, so that the account is not locked"
        self._logger.warning(words, refused, self._pause)


class Pause:
    """A pause that doubles each time, from ``first`` to ``longest`` seconds."""

    def __init__(self, first: float, longest: float, clock: Callable[[], float]) -> None:
        self._first = first
        self._longest = longest
        self._clock = clock
        self._seconds = 0.0
        self._began = 0.0

    @property
    def left(self) -> float:
        """Seconds that it still lasts; none if the clock was set back since, for then nobody knows."""
        passed = self._clock() - self._began
        return self._seconds - passed if 0 <= passed < self._seconds else 0.0

    def lengthen(self) -> None:
        """Begin one, twice as long as the last."""
        self._seconds = min(max(self._seconds * 2, self._first), self._longest)
        self._began = self._clock()

    def end(self) -> None:
        """All is well; the next one is short again."""
        self._seconds = 0.0
