"""A message on its way in: the content behind DATA or BDAT, decoded as it arrives, and how long a device is waited for.

A device keeps its connection to the backend only while it makes progress: there are few of them, and one held by each
paused printer would stop everybody's mail. The time in which we wait for the device counts, the time in which it waits
for the backend does not. How long it is (``SMTP_PROGRESS_SECONDS``) is a setting because there are scanners that pause
between two pages; the rate is fixed, because no device that works is slower.

What ends a message or a session at once is an :class:`Interruption`. It passes through the relay's ``send``, which was
reading the content. :class:`Measured` counts the octets, and refuses a message that has too many.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ..access import MIN_OCTETS_PER_SECOND
from ..contracts import Refused, normalised
from ..replies import SMTP, Reply, refusal
from .arguments import Chunk
from .buffer import Incoming
from .content import ChunkDecoder, DataDecoder, LFDataDecoder

__all__ = (
    "BARE_END_SECONDS",
    "MAX_PAUSES",
    "Abandoned",
    "ChunkedContent",
    "DataContent",
    "DeviceLost",
    "DeviceStalled",
    "Finished",
    "Interruption",
    "Measured",
    "Patience",
    "stalled",
)

MAX_PAUSES = 5
"""From MAIL to its content a device may take so many times the progress time in all. Otherwise, with a NOOP now and
then, it could hold a connection to the backend for hours."""

BARE_END_SECONDS = 10.0
"""A device that sends a line of "." with bare line ends, and then nothing for so long, thinks its message has ended."""


class Interruption(Exception):
    """The content ends before it is complete: whoever waits for a verdict on it gets none."""


class Abandoned(Interruption):
    """The device abandoned its message between two chunks by ``command``, a line that is still to be carried out."""

    def __init__(self, command: bytes) -> None:
        super().__init__("the device abandoned its message")
        self.command = command


class Finished(Interruption):
    """The session ends, with a last ``reply`` if there is anybody to read it; ``verdict`` is for the log."""

    def __init__(self, verdict: str, reply: Reply | str | None = None) -> None:
        super().__init__(verdict)
        self.verdict = verdict
        self.reply = reply


class DeviceLost(Finished):
    """The device vanished before its message ended."""

    def __init__(self) -> None:
        super().__init__("dropped: the device left in the middle of its message")


class DeviceStalled(Finished):
    """The device is still connected but said nothing for too long."""

    def __init__(self) -> None:
        super().__init__("the device made no progress in its message", SMTP.TIMEOUT)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a device is waited for: while it holds a connection to the backend, and otherwise."""

    progress_seconds: float
    idle_seconds: float


def stalled(what: str) -> Refused:
    """The refusal with which a device loses its connection to the backend; ``what`` says for the log what it did."""
    return refusal(SMTP.STALLED, f"the device {what} (see SMTP_PROGRESS_SECONDS)")


class _Content(ABC):
    """What DATA and BDAT have in common: waiting for octets, measuring the rate, discarding what nobody reads."""

    def __init__(self, incoming: Incoming, patience: Patience, on_end: Callable[[], None]) -> None:
        self._incoming = incoming
        self._patience = patience
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._discarding = False
        # The window over which the rate is measured: what is left of its seconds, and what came in it.
        self._seconds = patience.progress_seconds
        self._octets = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    @abstractmethod
    async def __anext__(self) -> bytes: ...

    async def _wait(self) -> None:
        began = self._loop.time()
        seconds = self._patience.idle_seconds
        if not self._discarding:
            seconds = min(seconds, self._seconds)
        bare_end = self._bare_end()
        try:
            more = await self._incoming.more(began + (min(seconds, BARE_END_SECONDS) if bare_end else seconds))
        except TimeoutError:
            if bare_end:
                raise self._ended_by_bare_line() from None
            if self._discarding or seconds == self._patience.idle_seconds:
                raise DeviceStalled from None
            more = True
        if not more:
            raise self._ended_by_bare_line() if bare_end else DeviceLost
        self._account(began)

    def _account(self, began: float) -> None:
        """Count the time since ``began``. Raises :class:`Refused` when the window is over and too little came in it."""
        self._seconds -= self._loop.time() - began
        if self._seconds <= 0 and not self._discarding:
            if self._octets < MIN_OCTETS_PER_SECOND * self._patience.progress_seconds:
                raise stalled(f"sent {self._octets} octets in {self._patience.progress_seconds:g} s")
            self._seconds, self._octets = self._patience.progress_seconds, 0

    def _bare_end(self) -> bool:
        return False

    @staticmethod
    def _ended_by_bare_line() -> Finished:
        return Finished("ended its message with bare LF (see SMTP_LF_END_NETWORKS)", SMTP.BARE_END)


class DataContent(_Content):
    """The content behind one DATA; ``on_end`` is called when its end was seen."""

    def __init__(
        self, incoming: Incoming, patience: Patience, on_end: Callable[[], None], *, lf_ends: bool = False
    ) -> None:
        super().__init__(incoming, patience, on_end)
        self._decoder = LFDataDecoder() if lf_ends else DataDecoder()

    async def __anext__(self) -> bytes:
        while not self._decoder.ended:
            while not (octets := self._incoming.take()):
                await self._wait()
            self._octets += len(octets)
            content = self._decoder.feed(octets)
            if self._decoder.ended:
                self._incoming.give_back(self._decoder.rest)
                self._on_end()
            if content:
                return content
        raise StopAsyncIteration

    @property
    def ended(self) -> bool:
        """Whether its end was seen."""
        return self._decoder.ended

    def _bare_end(self) -> bool:
        return self._decoder.stopped_at_bare_end

    async def discard(self, limit: int) -> bool:
        """Read what is left of the message and forget it; false when it is not over after ``limit`` octets.

        Without this the rest of a refused message would be read as commands.
        """
        self._discarding = True
        octets = 0
        async for content in self:
            octets += len(content)
            if octets > limit:
                return False
        return True


class ChunkedContent(_Content):
    """The content of all chunks of one message (RFC 3030); ``on_end`` is called when the last has arrived.

    The relay reads one message while the device sends several commands: so at the end of a chunk this asks
    ``next_chunk``, which answers the chunk and reads the commands up to the next one, in the session's one task.
    """

    def __init__(
        self,
        incoming: Incoming,
        patience: Patience,
        on_end: Callable[[], None],
        first: Chunk,
        next_chunk: Callable[[], Awaitable[Chunk]],
    ) -> None:
        super().__init__(incoming, patience, on_end)
        self._chunk = first
        self.left = first.octets
        """Octets of the present chunk that have not arrived."""
        self._next_chunk = next_chunk
        self._decoder = ChunkDecoder()
        self._ended = False

    @property
    def last(self) -> bool:
        """Whether the chunk that was announced most recently is the last one."""
        return self._chunk.last

    async def __anext__(self) -> bytes:
        while not self._ended:
            if not self.left and not self._chunk.last:
                began = self._loop.time()
                self._chunk = await self._next_chunk()
                # Before anything is raised: what was announced has to be skipped, or it would be read as commands.
                self.left = self._chunk.octets
                self._account(began)
            octets = b""
            if self.left:
                octets = await self._arrived(self.left)
                self.left -= len(octets)
            self._ended = self._chunk.last and not self.left
            if self._ended:
                self._on_end()
            if content := self._decoder.feed(octets, last=self._ended):
                return content
        raise StopAsyncIteration

    async def _arrived(self, limit: int) -> bytes:
        """Some octets, at least one and at most ``limit``."""
        while not (octets := self._incoming.take(limit)):
            await self._wait()
        self._octets += len(octets)
        return octets

    async def discard(self) -> None:
        """Read what is left of the present chunk and forget it."""
        self._discarding = True
        while self.left:
            self.left -= len(await self._arrived(self.left))


class Measured:
    """``content`` in pieces, until there are more than ``limit`` octets: then iterating raises :class:`Refused`.

    Our own session gives an asynchronous iterator; a stock aiosmtpd one gives bytes, or ``str`` if it was told so.
    """

    def __init__(self, content: Any, limit: int) -> None:
        self._pieces = _pieces(content)
        self._limit = limit
        self.octets = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await anext(self._pieces)
        self.octets += len(piece)
        if self.octets > self._limit:
            raise refusal(SMTP.TOO_BIG, f"over {self._limit} octets")
        return piece


def _pieces(content: Any) -> AsyncIterator[bytes]:
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    if isinstance(content, bytes):
        return _whole(content)
    pieces: AsyncIterator[bytes] = content
    return pieces


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield normalised(content)
