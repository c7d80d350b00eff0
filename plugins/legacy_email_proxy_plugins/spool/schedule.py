"""When to try again: each message by its own tries, and all of them by how the backend is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from legacy_email_proxy.contracts import CredentialsRefused, Failure

__all__ = ("JITTER", "Gate", "retry_after", "steady_clock")

JITTER = 0.2
"""The most that chance adds to an interval, so that what failed together does not come back together."""


def steady_clock() -> Callable[[], float]:
    """Seconds since 1970, by a clock that does not jump: one that is set back a day would let everything wait."""
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset


def retry_after(tries: int, intervals: Sequence[float], chance: Callable[[], float]) -> float:
    """The seconds from the ``tries``-th try (from 1) to the next; ``chance`` gives numbers from 0 to 1."""
    return intervals[min(tries, len(intervals)) - 1] * (1 + JITTER * chance())


class Gate:
    """Closed while the backend is of no use, so that not every message has to find that out for itself.

    When it has been closed for a while, one message may try (a probe); the gate opens when the backend lets it try,
    whatever becomes of that message. Refused credentials close it for longer each time: tries in a row lock an account.
    """

    def __init__(self, intervals: Sequence[float], clock: Callable[[], float]) -> None:
        self._intervals = intervals
        self._clock = clock
        self._closed_until = -math.inf
        self._closed = False
        self._probe: int | None = None
        self._refusals = 0

    @property
    def closed(self) -> bool:
        """Whether nothing but a probe may pass."""
        return self._closed

    def wait_seconds(self) -> float:
        """How long until a message may pass; 0: now; infinite: while a probe is on its way."""
        if not self._closed:
            return 0.0
        return math.inf if self._probe is not None else max(0.0, self._closed_until - self._clock())

    def probe(self, number: int) -> None:
        """The message of this number, which passes now, is the probe."""
        self._probe = number

    def ended(self, number: int) -> None:
        """The message is not on its way any more. If it was the probe, and told nothing, the next one has to."""
        if self._probe == number:
            self._probe = None

    def judged(self) -> bool:
        """The backend is there, whatever it did with a message. Returns whether the gate was closed until now."""
        was_closed, self._closed, self._probe = self._closed, False, None
        self._refusals = 0
        return was_closed

    def failed(self, failure: Failure) -> float:
        """Something that would meet any message. Returns for how long the gate closes, 0 if it is closed already."""
        was_closed, self._probe = self._closed, None
        if was_closed and self._clock() < self._closed_until:
            # One of those that were on their way when the gate closed.
            return 0.0
        pause = self._intervals[0]
        if isinstance(failure, CredentialsRefused):
            self._refusals += 1
            pause = self._intervals[min(self._refusals, len(self._intervals)) - 1]
        self._closed, self._closed_until = True, self._clock() + pause
        return pause
