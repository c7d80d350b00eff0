"""Keeps a wrong password in the settings from being tried again and again: polling devices would lock the account."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from legacy_email_proxy.contracts import CredentialsRefused, NoCredentials

__all__ = ("Breaker",)


class Breaker:
    """After a refused login, none is tried for a pause that doubles with each refusal, from 5 s to 5 minutes.

    While it isn't known whether the password is right, one login goes ahead and the others wait for how it ends: else
    ten devices that start together would be ten wrong passwords.
    """

    FIRST_PAUSE_SECONDS = 5.0
    LONGEST_PAUSE_SECONDS = 300.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause = 0.0
        self._closed_until = 0.0
        self._proven = False
        self._look_at = ""
        self._trial: asyncio.Event | None = None

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """Wraps one login. Raises :class:`CredentialsRefused` by itself during a pause."""
        if self._trial is not None:
            await self._trial.wait()
        left = self._closed_until - self._clock()
        if left > 0:
            detail = f"the server refused this login before; it is not asked again for {left:.0f} s"
            raise CredentialsRefused(detail, look_at=self._look_at)
        trial = None
        # Those that waited for a trial which proved nothing (no connection, say) all go on, not one after the other.
        if not self._proven and self._trial is None:
            trial = self._trial = asyncio.Event()
        try:
            yield
            self._proven, self._pause = True, 0.0
        except NoCredentials:
            raise
        except CredentialsRefused as refused:
            self._proven, self._look_at = False, refused.look_at
            self._pause = min(max(self._pause * 2, self.FIRST_PAUSE_SECONDS), self.LONGEST_PAUSE_SECONDS)
            self._closed_until = self._clock() + self._pause
            raise
        finally:
            if trial is not None:
                self._trial = None
                trial.set()
