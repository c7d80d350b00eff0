"""The places at a backend: how many connections may be in use at once, and which waiting client gets the next one.

No client address gets all places: at least a quarter of them, and at least one, stay for others. Otherwise one device
that leaves its transactions open, or one that reads its mail an octet at a time, would lock out all other clients.
Waiting clients are served in the order in which they came; an address that has its full share is passed over. The
address ``""`` has no limit: a caller that uses it (such as the spool) shares its places out among its clients itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter

__all__ = ("Places",)


class Places:
    """``most`` places, for one event loop. After a change of ``most``, call :meth:`serve`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._waiting: dict[asyncio.Future[None], str] = {}
        """The waiting addresses, in order of arrival. Each stays here until its task has noticed its turn."""
        self._taken: Counter[str] = Counter()
        """Taken places by address; a place counts as taken as soon as it is given to a waiting task."""
        self.taken = 0
        """How many places are taken, by all addresses together."""

    @property
    def waiting(self) -> int:
        """How many tasks wait for a place."""
        return len(self._waiting)

    def has_room(self, address: str) -> bool:
        """Whether this address would get a place at once."""
        return self.taken < self.most and self.may_have_more(address)

    def may_have_more(self, address: str) -> bool:
        """Whether this address has less than its share."""
        return not address or self._taken[address] < max(1, self.most - max(1, -(-self.most // 4)))

    def words(self, address: str) -> str:
        """For a log: how many places are in use, and this address's own number if it has its full share."""
        mine = self._taken[address]
        others = "" if self.may_have_more(address) else f", and {address} has {mine} of them, which is its share"
        return f"{self.taken} of {self.most} are in use{others}"

    async def take(self, address: str, deadline: float, *, first: bool = False) -> None:
        """Take a place; :meth:`give` gives it back. ``first``: before all that wait.

        Raises :class:`TimeoutError` if no place gets free before the loop's clock shows ``deadline``.
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
            # If it was not cancelled, the place was given at the very moment of the timeout, and is kept.
            if turn.cancelled():
                raise
        except BaseException:
            if not turn.cancelled():
                self.give(address)
            raise
        finally:
            del self._waiting[turn]

    def give(self, address: str) -> None:
        """Give back a place of this address."""
        self.taken -= 1
        self._taken[address] -= 1
        if not self._taken[address]:
            del self._taken[address]
        self.serve()

    def serve(self) -> None:
        """Give the free places to the waiting tasks."""
        for turn, address in self._waiting.items():
            if self.taken >= self.most:
                break
            if not turn.done() and self.may_have_more(address):
                self._take(address)
                turn.set_result(None)

    def _take(self, address: str) -> None:
        self.taken += 1
        self._taken[address] += 1
