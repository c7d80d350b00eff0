"""A message that is being received: kept in memory if it is small, written to a body on disk if it is larger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol

import anyio

from legacy_email_proxy.contracts import Failure

from ..threads import Threads, given_up
from .message import SpooledMessage, Submission
from .store import LOOK_AT

__all__ = ("ANSWER_SECONDS", "INLINE_OCTETS", "Answering", "Bodies", "Body", "IncomingMessage", "Put")

Put = Callable[[Submission, bytes | None, str | None, int], Awaitable[SpooledMessage]]
"""Writes a record. Arguments: envelope, content or ``None``, the body's name or ``None``, size."""

INLINE_OCTETS = 64 * 1024
"""Larger contents get a body of their own. SQLite writes every octet of a record twice, to its log and to the table."""


ANSWER_SECONDS = 30.0
"""How long a device waits for the store, at MAIL and after its end-of-data, before it reads 451. Old devices hang up
after about 60 s and send again, without knowing whether the message was stored."""

BLOCK_SECONDS = 15.0
"""How long a device waits while its content is written. If the end-of-data comes meanwhile, both times add up."""

_DISCARD_SECONDS = 2.0


class Answering:
    """``async with`` this, :class:`Failure` is raised when the store has not answered within ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._timeout.__aexit__(*error)
        except TimeoutError:
            raise Failure(f"the spool has not answered within {self._seconds:g} s", look_at=LOOK_AT) from None


class Body(Protocol):
    """A body that is being written. All methods block."""

    name: str
    discarded: bool
    """When this is set, the thread that is writing the body, and may hang, removes it when it has finished."""

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append ``pieces``."""

    def finish(self, pieces: Sequence[bytes]) -> None:
        """Append ``pieces``. The body is durable at the latest when a record that names it is."""

    def discard(self) -> None:
        """Remove the body now, or leave that to the thread that is writing it."""


class Bodies(Protocol):
    """Where a store keeps the bodies that are too large for a record. A body without a record is not a message."""

    write_octets: int
    """Octets that are collected in memory before they are written."""

    def create(self) -> Body:
        """A new body. Nothing is written yet."""

    def read(self, name: str, octets: int) -> AsyncGenerator[bytes, None]:
        """The content of a body. Raises :class:`Unreadable` when it does not have exactly ``octets`` octets."""

    def remove(self, names: Collection[str]) -> None:
        """Remove the bodies of messages that are gone."""


class IncomingMessage:
    """See :class:`~.store.Incoming`."""

    def __init__(self, put: Put, bodies: Bodies, threads: Threads) -> None:
        self._put = put
        self._bodies = bodies
        self._threads = threads
        self._body: Body | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self._octets = 0
        self._writing: asyncio.Task[None] | None = None
        """The block that is being written, while the device sends the next one."""

    async def write(self, piece: bytes) -> None:
        """See :meth:`.store.Incoming.write`."""
        self._pieces.append(piece)
        self._held += len(piece)
        self._octets += len(piece)
        if self._held >= (self._bodies.write_octets if self._body else INLINE_OCTETS):
            if self._body is None:
                self._body = self._bodies.create()
            pieces, self._pieces, self._held = self._pieces, [], 0
            await self._written()
            self._writing = self._threads.begin(self._body.write, pieces)

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            async with Answering(BLOCK_SECONDS):
                await writing

    async def commit(self, submission: Submission) -> SpooledMessage:
        """See :meth:`.store.Incoming.commit`."""
        await self._written()
        async with Answering(ANSWER_SECONDS):
            if self._body is None:
                return await self._put(submission, b"".join(self._pieces), None, self._octets)
            await self._threads.run(self._body.finish, self._pieces)
            message = await self._put(submission, None, self._body.name, self._octets)
            self._body = None
            return message

    async def discard(self) -> None:
        """See :meth:`.store.Incoming.discard`."""
        if self._body is not None:
            self._body.discarded = True
            if self._writing is not None:
                await given_up(self._writing)
            with anyio.move_on_after(_DISCARD_SECONDS):
                await self._threads.run(self._body.discard)
