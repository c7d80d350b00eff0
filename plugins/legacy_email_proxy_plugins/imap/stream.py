"""A bounded pipe from a worker thread to the event loop: how a message of any size passes in a few pieces of memory."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from legacy_email_proxy.contracts import Disconnected

__all__ = ("Pipe",)


class Pipe:
    """Made in the event loop. :meth:`put` is for the thread, the iteration for one task; :meth:`close` is for both.

    Iterating ends after :meth:`end`, or raises what it was given, behind the pieces that were put before.
    """

    def __init__(self, depth: int = 4) -> None:
        self._depth = depth
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._ended = False
        self._closed = False
        self._failure: BaseException | None = None
        self.untouched = True
        """Whether nothing has been put yet: then another connection may still be tried."""

    def put(self, piece: bytes) -> None:
        """Hand on one piece; waits while ``depth`` pieces are not taken. Raises once nobody will take any."""
        with self._changed:
            while len(self._pieces) >= self._depth and not self._closed:
                self._changed.wait()
            if self._closed:
                raise Disconnected("the reader of this message has gone")
            self._pieces.append(piece)
            self.untouched = False
        self._loop.call_soon_threadsafe(self._arrived.set)

    def end(self, failure: BaseException | None = None) -> None:
        """No more will come; in the event loop."""
        self._ended = True
        self._failure = failure
        self._arrived.set()

    def close(self) -> None:
        """No more will be taken: a thread that waits in :meth:`put` is let go."""
        with self._changed:
            self._closed = True
            self._pieces.clear()
            self._changed.notify_all()

    def __aiter__(self) -> Pipe:
        return self

    async def __anext__(self) -> bytes:
        while True:
            with self._changed:
                if self._pieces:
                    piece = self._pieces.popleft()
                    self._changed.notify_all()
                    return piece
                self._arrived.clear()
            if self._ended:
                if self._failure is not None:
                    raise self._failure
                raise StopAsyncIteration
            await self._arrived.wait()
