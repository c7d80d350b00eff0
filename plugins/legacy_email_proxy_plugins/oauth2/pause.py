"""A pause that doubles each time: what keeps a refusal from becoming a hammer."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ("Pause",)


class Pause:
    """From ``first`` to ``longest`` seconds."""

    def __init__(self, first: float, longest: float, clock: Callable[[], float]) -> None:
        self._first = first
        self._longest = longest
        self._clock = clock
        self._seconds = 0.0
        self._until = 0.0

    @property
    def left(self) -> float:
        """Seconds that it still lasts. Never more than it was made for, whatever becomes of the clock."""
        return max(0.0, min(self._until - self._clock(), self._seconds))

    def lengthen(self) -> None:
        """Begin one, twice as long as the last."""
        self._seconds = min(max(self._seconds * 2, self._first), self._longest)
        self._until = self._clock() + self._seconds

    def end(self) -> None:
        """All is well; the next one is short again."""
        self._seconds = self._until = 0.0
