"""What a device sends: command lines and message content out of one buffer, each with its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from .content import DataDecoder

__all__ = ("MAX_LINE_OCTETS", "DeviceLost", "DeviceStalled", "Incoming", "IncomingContent", "LineTooLong")

MAX_LINE_OCTETS = 2048
"""Longest command line taken, CRLF included. RFC 5321 §4.5.3.1.4 asks for 512 and more with each extension."""

_READ_OCTETS = 1 << 16
_BEGINNING_OCTETS = 16


class DeviceLost(ConnectionError):
    """The device vanished before its message ended."""


class DeviceStalled(DeviceLost):
    """The device is still connected but made no progress in time."""


class LineTooLong(ValueError):
    """A line was longer than it may be; all but its ``beginning`` has been thrown away."""

    def __init__(self, beginning: bytes) -> None:
        super().__init__(beginning)
        self.beginning = beginning


class Incoming:
    """The octets that have arrived and were not used yet. At most one of its methods runs at a time."""

    def __init__(self, reader: asyncio.StreamReader, idle_seconds: float) -> None:
        self._reader = reader
        self._idle_seconds = idle_seconds
        self._buffer = bytearray()
        self._waiting: asyncio.Timeout | None = None

    def interrupt(self) -> None:
        """Let a wait for a command end now, with :class:`TimeoutError`. Content is not interrupted."""
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(0)

    async def first_octet(self) -> int:
        """The first octet of the session, left in the buffer; 0 where the device said nothing and left."""
        try:
            async with asyncio.timeout(self._idle_seconds) as self._waiting:
                await self._more()
        finally:
            self._waiting = None
        return self._buffer[0] if self._buffer else 0

    async def line(self, max_octets: int = MAX_LINE_OCTETS) -> bytes | None:
        """The next line without its CRLF or LF; ``None`` when the device has left.

        Raises :class:`TimeoutError` when the line is not whole within the idle time, counted from its beginning: one
        octet now and then does not keep a session alive. Raises :class:`LineTooLong`.
        """
        searched, beginning = 0, b""
        try:
            async with asyncio.timeout(self._idle_seconds) as self._waiting:
                while (end := self._buffer.find(b"\n", searched)) < 0:
                    if len(self._buffer) >= max_octets:
                        # Thrown away as it comes, or an endless line would be held in memory.
                        beginning = beginning or bytes(self._buffer[:_BEGINNING_OCTETS])
                        self._buffer.clear()
                    searched = len(self._buffer)
                    if not await self._more():
                        return None
        finally:
            self._waiting = None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        if beginning or len(line) >= max_octets:
            raise LineTooLong(beginning or line[:_BEGINNING_OCTETS])
        return line.removesuffix(b"\r")

    async def chunk(self) -> bytes:
        """Whatever has arrived, at least one octet. Raises :class:`DeviceLost`."""
        if not self._buffer:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    await self._more()
            except TimeoutError:
                raise DeviceStalled("the device made no progress in DATA") from None
            if not self._buffer:
                raise DeviceLost("the device left in the middle of DATA")
        octets = bytes(self._buffer)
        self._buffer.clear()
        return octets

    def give_back(self, octets: bytes) -> None:
        """Put octets back in front: what came behind an end-of-data are commands."""
        self._buffer[:0] = octets

    async def ignore_rest(self) -> None:
        """Read until the device has closed its side."""
        self._buffer.clear()
        while await self._more():
            self._buffer.clear()

    async def _more(self) -> bool:
        try:
            octets = await self._reader.read(_READ_OCTETS)
        except OSError:
            return False
        self._buffer += octets
        return bool(octets)


class IncomingContent:
    """The content behind one DATA command, decoded as it arrives; ``on_end`` is called when its end was seen."""

    def __init__(self, incoming: Incoming, on_end: Callable[[], None]) -> None:
        self._incoming = incoming
        self._on_end = on_end
        self._decoder = DataDecoder()

    @property
    def ended(self) -> bool:
        """Whether the end-of-data was seen."""
        return self._decoder.ended

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._decoder.ended:
            content = self._decoder.feed(await self._incoming.chunk())
            if self._decoder.ended:
                self._incoming.give_back(self._decoder.rest)
                self._on_end()
            if content:
                return content
        raise StopAsyncIteration

    async def discard(self, limit: int) -> bool:
        """Read what is left of the message and forget it; false when it is not over after ``limit`` octets.

        Without this the rest of a refused message would be read as commands.
        """
        octets = 0
        async for content in self:
            octets += len(content)
            if octets > limit:
                return False
        return True
