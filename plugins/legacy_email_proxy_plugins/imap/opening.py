"""One opening of the folder for all the sessions that log in before it begins: fifty clients at once need one SELECT.

Only with the settings' password: a client's own is proven by a login of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .listing import Index

__all__ = ("Opening", "Openings")

Open = Callable[["Opening"], Awaitable[Index]]


class Opening:
    """One that others may join until it has :meth:`begun`."""

    def __init__(self, work: Open) -> None:
        self.joinable = True
        self._waiting = 0
        self._task = asyncio.ensure_future(work(self))
        # Whoever waited may have gone; then nobody else looks at how it failed.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def begun(self) -> None:
        """To be called, in any thread, before the server is asked: who comes later may know of a later message."""
        self.joinable = False

    async def result(self) -> Index:
        """What it gave. When nobody waits for it any more, it is given up."""
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.joinable = False
                self._task.cancel()


class Openings:
    """Those of one account; for the event loop."""

    def __init__(self) -> None:
        self._latest: Opening | None = None

    async def join(self, work: Open) -> Index:
        """The result of one that has not begun, or of ``work``, which is given its :class:`Opening`."""
        opening = self._latest
        if opening is None or not opening.joinable:
            opening = self._latest = Opening(work)
        try:
            return await opening.result()
        finally:
            if self._latest is opening and not opening.joinable:
                self._latest = None
