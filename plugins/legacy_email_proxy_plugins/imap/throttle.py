"""Gives a server the pauses that it asks for, per user and password: asked again at once, it asks for longer ones.

As Dovecot's imapc does it for Gmail: the next command waits 50 ms, and twice as long each time the server still says
no, up to 16 s. A server that names a time ("Suggested Backoff Time: 299961 milliseconds") gets it, within reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from legacy_email_proxy.contracts import Overloaded

from .response_codes import Busy

__all__ = ("Throttle",)


class Throttle:
    """Of one account; used in one event loop."""

    FIRST_PAUSE_SECONDS = 0.05
    LONGEST_PAUSE_SECONDS = 16.0
    LONGEST_SUGGESTED_SECONDS = 300.0
    PATIENCE_SECONDS = 4.0
    """A device is kept waiting for this long at most, then it is told to come back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause = 0.0
        self._until = 0.0

    @property
    def left(self) -> float:
        """Seconds until the server may be asked again."""
        return max(0.0, self._until - self._clock())

    async def wait(self) -> None:
        """Returns when the server may be asked. Raises :class:`Overloaded` if that is too long to wait."""
        while left := self.left:
            if left > self.PATIENCE_SECONDS:
                raise Overloaded(f"the server asked for patience and is left alone for another {left:.0f} s")
            await asyncio.sleep(left)

    def told(self, busy: Busy) -> bool:
        """The server asked for patience; whether it is worth waiting to ask again, which only throttling is."""
        self._pause = min(max(self._pause * 2, self.FIRST_PAUSE_SECONDS), self.LONGEST_PAUSE_SECONDS)
        pause = max(self._pause, min(busy.suggested_seconds, self.LONGEST_SUGGESTED_SECONDS))
        self._until = max(self._until, self._clock() + pause)
        return busy.throttled and pause <= self.PATIENCE_SECONDS

    def went_well(self) -> None:
        """The server did what it was asked; the next pause is a short one again."""
        self._pause = 0.0
