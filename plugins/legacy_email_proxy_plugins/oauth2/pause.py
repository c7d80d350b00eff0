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
