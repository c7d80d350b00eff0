"""What a backend says on every connection: asking on another one is of no use, and would cost a login each time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from .protocol import Reply

__all__ = ("Refrain",)

_SECONDS = 60.0
_KEPT = 64
_OF_THE_MESSAGE = re.compile(r"<[^>]*>|\S*[@0-9]\S*")


class Refrain:
    """The 4yz that a new connection brought again, each for a minute. They are known by their words, without addresses
    and without what has a digit in it, be it a number or an identifier.

    Greylisting, a sender's limit or a backend that is overloaded say the same to anybody who comes back at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def __contains__(self, reply: Reply) -> bool:
        return self._until.get(_words(reply), 0.0) > self._clock()

    def compare(self, first: Reply, second: Reply) -> None:
        """What was said on one connection, and then on a new one."""
        words = _words(second)
        if words != _words(first):
            return
        self._until.pop(words, None)
        self._until[words] = self._clock() + _SECONDS
        while len(self._until) > _KEPT:
            del self._until[next(iter(self._until))]


def _words(reply: Reply) -> str:
    return f"{reply.code} {_OF_THE_MESSAGE.sub('', reply.text[:400])}"
