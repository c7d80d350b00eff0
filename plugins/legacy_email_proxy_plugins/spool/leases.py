"""Which messages this process may try, and until when, as far as it can know without asking."""

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
    """By a clock that counts while the machine sleeps, from before the database was asked: so that a lease ends here no
    later than there.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._leases: dict[int, _Lease] = {}

    @staticmethod
    def clock() -> float:
        """In seconds, from some moment on."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def add(self, number: int, asked: float, *, counted: bool) -> None:
        """Leased by a statement that was begun at ``asked``; ``counted``: as a try that has not come to its end yet."""
        if counted or number not in self._leases:
            self._leases[number] = _Lease(asked + self.seconds, counted)

    def renewed(self, numbers: Iterable[int], asked: float) -> None:
        """These are ours for longer."""
        for number in numbers:
            if number in self._leases:
                self._leases[number].ends = asked + self.seconds

    def drop(self, number: int) -> bool:
        """It is no longer; returns whether it was, and was counted."""
        lease = self._leases.pop(number, None)
        return lease is not None and lease.counted

    def lapsed(self, number: int) -> bool:
        """Whether it was leased, and somebody else may have it by now."""
        lease = self._leases.get(number)
        return lease is not None and self.clock() >= lease.ends

    @property
    def numbers(self) -> list[int]:
        """Those that are leased."""
        return list(self._leases)
