"""The places at a backend: how many connections may be in use at once, and whose turn it is for the next one.

No client address gets all of them: at least a quarter of the places, and at least one, stay for others. Otherwise one
device that opens transactions and leaves them open, or one reader that takes its mail by the octet, would lock
everybody out. Who has to wait is served in the order of coming, except that an address with all its share is passed
over. ``""`` is nobody's address and has no share: who asks for it sees to the turns of those behind it by itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter

__all__ = ("Places",)


class Places:
    """``most`` places; for one event loop. It may be changed; then :meth:`serve` is to be called."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._waiting: dict[asyncio.Future[None], str] = {}
        """Their addresses, in the order in which they came. Each stays in here until its task has noticed its turn."""
        self._taken: Counter[str] = Counter()
        """Places by address; one that was given to somebody who waits is taken from that moment on."""
        self.taken = 0
        """How many are taken, by all addresses together."""

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    def of(self, address: str) -> int:
        """How many this address has."""
        return self._taken[address]

    def has_room(self, address: str) -> bool:
        """Whether this address would get a place at once."""
        return self.taken < self.most and self.may_have_more(address)

    def may_have_more(self, address: str) -> bool:
        """Whether this address has less than its share."""
        return not address or self._taken[address] < max(1, self.most - max(1, -(-self.most // 4)))

    def words(self, address: str) -> str:
        """For a log: how many are in use, and by whom where that is why this address got none."""
        mine = self._taken[address]
        others = "" if self.may_have_more(address) else f", and {address} has {mine} of them, which is its share"
        return f"{self.taken} of {self.most} are in use{others}"

    async def take(self, address: str, deadline: float, *, first: bool = False) -> None:
        """Take a place, to be given back; ``first``: before all who wait.

        Raises :class:`TimeoutError` when none gets free until the loop's clock shows ``deadline``.
        """
        if self.has_room(address):
            self._take(address)
            return
        turn = asyncio.get_running_loop().create_future()
        if first:
            self._waiting = {turn: address, **self._waiting}
        else:
            self._waiting[turn] = address
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except TimeoutError:
            # Else its turn came in the very moment in which the time was up.
            if turn.cancelled():
                raise
        except BaseException:
            if not turn.cancelled():
                self.give(address)
            raise
        finally:
            del self._waiting[turn]

    def give(self, address: str) -> None:
        """Give a place of this address back."""
        self.taken -= 1
        self._taken[address] -= 1
        if not self._taken[address]:
            del self._taken[address]
        self.serve()

    def serve(self) -> None:
        """Give what is free to those who wait."""
        for turn, address in self._waiting.items():
            if self.taken >= self.most:
                break
            if not turn.done() and self.may_have_more(address):
                self._take(address)
                turn.set_result(None)

    def _take(self, address: str) -> None:
        self.taken += 1
        self._taken[address] += 1
