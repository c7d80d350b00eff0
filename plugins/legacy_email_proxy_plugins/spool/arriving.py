"""A message on its way into the SQLite store: small ones gather in memory, larger ones go to a file as they come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..threads import Threads
from .bodies import Bodies, BodyFile
from .message import SpooledMessage, Submission

__all__ = ("INLINE_OCTETS", "Arriving", "Put")

Put = Callable[[Submission, bytes | None, str | None, int], Awaitable[SpooledMessage]]
"""Writes the record: of the envelope, the content or the name of its body, and its octets."""

INLINE_OCTETS = 64 * 1024
"""Larger contents get a file. In the database every octet would be written twice: to the log, then to the table."""

_WRITE_OCTETS = 1024 * 1024


class Arriving:
    """See :class:`~.store.Incoming`."""

    def __init__(self, put: Put, bodies: Bodies, threads: Threads) -> None:
        self._put = put
        self._bodies = bodies
        self._threads = threads
        self._body: BodyFile | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self._octets = 0

    async def write(self, piece: bytes) -> None:
        """See :meth:`.store.Incoming.write`."""
        self._pieces.append(piece)
        self._held += len(piece)
        self._octets += len(piece)
        if self._held >= (_WRITE_OCTETS if self._body else INLINE_OCTETS):
            if self._body is None:
                self._body = self._bodies.create()
            pieces, self._pieces, self._held = self._pieces, [], 0
            await self._threads.run(self._body.write, pieces)

    async def commit(self, submission: Submission) -> SpooledMessage:
        """See :meth:`.store.Incoming.commit`."""
        if self._body is None:
            return await self._put(submission, b"".join(self._pieces), None, self._octets)
        await self._threads.run(self._body.finish, self._pieces)
        body, self._body = self._body, None
        try:
            return await self._put(submission, None, body.name, self._octets)
        except Exception:
            # Not committed, that is certain. When cancelled it is not: then the record may be there, and needs it.
            self._body = body
            raise

    async def discard(self) -> None:
        """See :meth:`.store.Incoming.discard`."""
        if self._body is not None:
            await self._threads.run(self._body.discard)
