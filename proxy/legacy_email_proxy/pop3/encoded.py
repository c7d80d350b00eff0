"""Beginnings of messages, encoded once for all clients that fetch the same message in the same moments.

To look at every line of a small message takes longer than anything else that is done for a RETR. When fifty devices
fetch one mailbox, a maildrop that keeps messages for a while gives all sessions the same object. So the object itself
is the key: nobody can get another account's message here, since its session would have to hold that very object.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

__all__ = ("MAX_OCTETS", "MAX_PIECE_OCTETS", "Encoded", "EncodedMessages")

MAX_OCTETS = 8 << 20
"""How much is kept, before and after the encoding together."""

MAX_PIECE_OCTETS = 64 << 10
"""A larger piece comes from the backend anew each time. It would only push out what is asked for again."""


class Encoded(NamedTuple):
    """What became of ``piece``, and what the encoder has to know for the next one."""

    piece: bytes  # Kept, so that no other object can get its id() meanwhile.
    octets: bytes
    carriage_return: bytes
    line_start: bool

    @property
    def memory(self) -> int:
        """What it takes: twice the piece, and up to three times where each line got another end."""
        return len(self.piece) + len(self.octets)


class EncodedMessages:
    """Of one server: all is encoded in the same way. To be used only while it is :attr:`in_use`."""

    def __init__(self, max_octets: int = MAX_OCTETS) -> None:
        self._max_octets = max_octets
        self._octets = 0
        self._clients = 0
        self._kept: OrderedDict[int, Encoded] = OrderedDict()

    @contextmanager
    def client(self) -> Iterator[None]:
        """While a client is connected."""
        self._clients += 1
        try:
            yield
        finally:
            self._clients -= 1
            if not self.in_use:
                self._kept.clear()
                self._octets = 0

    @property
    def in_use(self) -> bool:
        """Whether several clients are there, so that something may be asked for again."""
        return self._clients > 1

    def get(self, piece: bytes) -> Encoded | None:
        """What became of this very object before."""
        return self._kept.get(id(piece))

    def keep(self, encoded: Encoded) -> None:
        """For the next client that gets this piece. The oldest are dropped."""
        if len(encoded.piece) > MAX_PIECE_OCTETS:
            return
        self._kept[id(encoded.piece)] = encoded
        self._octets += encoded.memory
        while self._octets > self._max_octets:
            self._octets -= self._kept.popitem(last=False)[1].memory
