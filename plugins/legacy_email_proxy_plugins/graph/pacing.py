"""How fast a mailbox may be asked: Microsoft limits requests at once and octets sent, and names pauses (Retry-After).

The limits are for a mailbox and an application, so the relay and the maildrop of one mailbox share one :class:`Pace`,
also at a reload, when the former plugins still work.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakKeyDictionary, WeakValueDictionary

from legacy_email_proxy.contracts import Overloaded

from ..backoff import Throttle

__all__ = ("Pace", "pace_of")

WINDOW_SECONDS = 300.0
WINDOW_OCTETS = 150_000_000
"""150 MB of upload in five minutes (throttling-limits, Outlook service limits)."""
_TURN_SECONDS = 60.0
"""A session that waits longer for its turn is told to come back."""


class Pace:
    """Of one mailbox, in one event loop."""

    def __init__(self, max_requests: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.throttle = Throttle(clock)
        self._clock = clock
        self._turns = asyncio.Semaphore(max_requests)
        # One turn is left for what is short, so that large messages do not hold everybody up.
        self._large_turns = asyncio.Semaphore(max(1, max_requests - 1))
        self._uploads: deque[tuple[float, int]] = deque()

    @asynccontextmanager
    async def turn(self, *, large: bool = False) -> AsyncIterator[None]:
        """The context of one request. Raises :class:`Overloaded` in a pause that is long, and if no turn comes."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(_TURN_SECONDS):
                    if large:
                        await stack.enter_async_context(self._large_turns)
                    await stack.enter_async_context(self._turns)
            except TimeoutError:
                detail = f"all requests to the mailbox that may be made at once have been busy for {_TURN_SECONDS:g} s"
                raise Overloaded(detail, look_at="GRAPH_MAX_REQUESTS") from None
            await self.throttle.wait()
            yield

    def upload(self, octets: int) -> None:
        """Note that so much is about to be sent. Raises :class:`Overloaded` if Microsoft would not take it yet."""
        now = self._clock()
        while self._uploads and self._uploads[0][0] <= now - WINDOW_SECONDS:
            self._uploads.popleft()
        used = sum(each for _, each in self._uploads)
        if self._uploads and used + octets > WINDOW_OCTETS:
            left = self._uploads[0][0] + WINDOW_SECONDS - now
            raise Overloaded(f"Microsoft takes 150 MB in five minutes, and {used} octets were sent; wait {left:.0f} s")
        self._uploads.append((now, octets))


_PACES: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[tuple[str, str], Pace]] = WeakKeyDictionary()


def pace_of(url: str, mailbox: str, max_requests: int) -> Pace:
    """The one of this mailbox; the first that asks says how many requests may be made at once."""
    paces = _PACES.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    key = (url, mailbox.lower())
    pace = paces.get(key)
    if pace is None:
        pace = paces[key] = Pace(max_requests)
    return pace
