"""One message on its way from Graph to disk, read by the client at its own pace meanwhile.

Graph counts requests at once: a slow client must not keep one open. And Graph makes the MIME anew for each request, so
TOP and RETR of a session read one and the same download.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from legacy_email_proxy.contracts import Disconnected, Failure, MessageGone, MessageUnavailable

from .client import Graph, quoted
from .files import PIECE_OCTETS, Kept
from .verdicts import GraphRefusal, is_gone

__all__ = ("Download",)

_TRIES = 3


class Download:
    """Begins at once, in a task of its own."""

    def __init__(self, graph: Graph, identifier: str, kept: Kept) -> None:
        self._graph = graph
        self._path = f"/messages/{quoted(identifier)}/$value"
        self._kept = kept
        self._read = 0
        self._moved = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._ended)

    @property
    def octets(self) -> int:
        """How much of it is on disk."""
        return self._kept.octets

    @property
    def failed(self) -> bool:
        """Whether it ended too early."""
        return self._task.done() and (self._task.cancelled() or self._task.exception() is not None)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The message from its beginning. Raises :class:`MessageGone` and :class:`MessageUnavailable`."""
        place = 0
        while True:
            self._moved.clear()
            done = self._task.done()
            if done:
                self._task.result()
            if place < self._kept.written:
                piece = await self._kept.read(place, min(PIECE_OCTETS, self._kept.written - place))
                place += len(piece)
                self._read = max(self._read, place)
                yield piece
            elif done:
                return
            else:
                await self._moved.wait()

    async def aclose(self) -> None:
        """Stop, and let go of the file."""
        self._task.cancel()
        await asyncio.wait({self._task})
        await self._kept.aclose()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()
        self._moved.set()

    async def _run(self) -> None:
        for tries_left in reversed(range(_TRIES)):
            try:
                async with self._graph.download("a message", self._path) as pieces:
                    async for piece in pieces:
                        await self._kept.write(piece)
                        self._moved.set()
                await self._kept.flush()
                return
            except GraphRefusal as refusal:
                raise _told(refusal) from refusal
            except Disconnected:
                # Another download may differ from what the client has had already.
                if self._read or not tries_left:
                    raise
                await self._kept.clear()


def _told(refusal: GraphRefusal) -> Failure:
    if is_gone(refusal):
        return MessageGone(refusal.detail)
    if refusal.about_us:
        return refusal
    return MessageUnavailable(refusal.detail, look_at=refusal.look_at)
