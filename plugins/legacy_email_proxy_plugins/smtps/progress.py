"""How fast a device uses the connection to the backend that it holds, so that a slow one can make room for others.

An account has few connections. A device that opens a transaction and then only says NOOP, or that sends its message one
octet at a time, would keep one of them from everybody else for as long as its session may last.
"""

from __future__ import annotations

import asyncio

__all__ = ("Progress",)

_ENOUGH_OCTETS_PER_SECOND = 500
"""Half the speed of a modem of 9600 baud: a device that works is not slower. Whoever is as fast never has to go."""


class Progress:
    """Counts a device's octets of content, and the seconds in which we waited for it. What the backend needs is not
    counted: the device could not go on meanwhile.
    """

    def __init__(self) -> None:
        self.octets = 0
        self._seconds = 0.0
        self._waiting_since: float | None = None
        self._loop = asyncio.get_running_loop()

    def wait(self) -> None:
        """From now on it is the device's turn."""
        self._waiting_since = self._loop.time()

    def go_on(self) -> None:
        """The device has done something: it is our turn, or the backend's."""
        self._seconds = self.seconds
        self._waiting_since = None

    @property
    def seconds(self) -> float:
        """For how long we have waited for the device, in all."""
        now = self._loop.time()
        return self._seconds + (0.0 if self._waiting_since is None else now - self._waiting_since)

    @property
    def rate(self) -> float:
        """Octets per second."""
        return self.octets / max(self.seconds, 0.001)

    def is_slow(self, grace_seconds: float) -> bool:
        """Whether it is the device's turn, and it has been slow for longer than ``grace_seconds``."""
        if self._waiting_since is None or self.seconds <= grace_seconds:
            return False
        return self.rate < _ENOUGH_OCTETS_PER_SECOND
