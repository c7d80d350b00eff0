"""The leases of this process: which messages it may deliver, and until when, known without asking the database."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ("Leases",)


@dataclass(slots=True)
class _Lease:
    ends: float
    counted: bool


class Leases:
    """Leases by message number.

    A lease must not last longer here than in the database, or two proxies could deliver the same message. So its time
    counts from before the statement was sent, by a clock that also counts while the machine sleeps.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._leases: dict[int, _Lease] = {}

    @staticmethod
    def clock() -> float:
        """Seconds since the machine was started."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def add(self, number: int, asked: float, *, counted: bool) -> None:
        """Add a lease of a statement that was sent at ``asked``. ``counted``: the database has counted it as a try."""
        if counted or number not in self._leases:
            self._leases[number] = _Lease(asked + self.seconds, counted)

    def renewed(self, numbers: Iterable[int], asked: float) -> None:
        """These leases were renewed by a statement that was sent at ``asked``."""
        for number in numbers:
            if number in self._leases:
                self._leases[number].ends = asked + self.seconds

    def drop(self, number: int) -> bool:
        """Remove a lease. Returns whether there was one that was counted as a try."""
        lease = self._leases.pop(number, None)
        return lease is not None and lease.counted

    def lapsed(self, number: int) -> bool:
        """Whether the lease has ended, so that another proxy may deliver the message."""
        lease = self._leases.get(number)
        return lease is not None and self.clock() >= lease.ends

    @property
    def numbers(self) -> list[int]:
        """The numbers of all leased messages."""
        return list(self._leases)
