"""What a device sends: the octets that have arrived and were not used yet, and the waiting for more.

Commands and content come out of the one buffer. Nothing is copied where a piece is used as it came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ("MAX_LINE_OCTETS", "Incoming", "LineTooLong")

MAX_LINE_OCTETS = 2048
"""Longest command line taken, CRLF included. RFC 5321 §4.5.3.1.4 asks for 512 and more with each extension."""

_ENOUGH_OCTETS = 1 << 16
_BEGINNING_OCTETS = 16


class LineTooLong(ValueError):
    """A line was longer than it may be; all but its ``beginning`` has been thrown away."""

    def __init__(self, beginning: bytes) -> None:
        super().__init__(beginning)
        self.beginning = beginning


class Incoming:
    """Filled by the protocol, emptied by the session, of which at most one method waits at a time.

    ``before_waiting`` is called whenever the device has to speak next. From :data:`_ENOUGH_OCTETS` unused octets on the
    transport stops reading, which limits the memory of a session.
    """

    _transport: asyncio.ReadTransport | None

    def __init__(self, transport: asyncio.ReadTransport, before_waiting: Callable[[], None]) -> None:
        self._transport = transport
        self._before_waiting = before_waiting
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._start = 0
        self._paused = self._ended = self._ignoring = False
        self._waiter: asyncio.Future[None] | None = None
        # One timer, set anew when it goes off too early: one for each command would cost more than the command.
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------------------ for the protocol

    def feed(self, octets: bytes) -> None:
        """Take what has arrived."""
        if self._ignoring:
            return
        self._buffer = self._buffer[self._start :] + octets if self._start < len(self._buffer) else octets
        self._start = 0
        if len(self._buffer) >= _ENOUGH_OCTETS and not self._paused:
            self._paused = True
            if self._transport is not None:
                self._transport.pause_reading()
        self._wake()

    def end(self) -> None:
        """Nothing more will arrive."""
        self._ended = True
        self._wake()

    def leave(self) -> None:
        """Forget what has arrived; from now until :meth:`settle` what arrives comes from another transport."""
        self.take()
        self._paused = False
        self._transport = None

    def settle(self, transport: asyncio.ReadTransport) -> None:
        """From now on what arrives comes from ``transport``."""
        self._transport = transport
        if self._paused:
            transport.pause_reading()

    def interrupt(self) -> None:
        """End a wait for more octets now, with :class:`TimeoutError`."""
        if self._waiter is not None and not self._waiter.done() and not self._ignoring:
            self._waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ------------------------------------------------------------------------------------------------- for the session

    @property
    def first_octet(self) -> int:
        """The next octet that was not used yet; 0 if none has arrived."""
        return self._buffer[self._start] if len(self) else 0

    def __len__(self) -> int:
        """How many octets wait to be used."""
        return len(self._buffer) - self._start

    @property
    def ended(self) -> bool:
        """Whether nothing more will arrive."""
        return self._ended

    def take(self, limit: int | None = None) -> bytes:
        """What has arrived, at most ``limit`` octets of it."""
        start, end = self._start, len(self._buffer)
        if limit is not None and end - start > limit:
            self._start = start + limit
            return self._buffer[start : self._start]
        octets = self._buffer[start:]
        self._buffer, self._start = b"", 0
        return octets

    def give_back(self, octets: bytes) -> None:
        """Put octets back in front: what came behind an end-of-data are commands."""
        self._buffer, self._start = octets + self._buffer[self._start :], 0

    def peek(self) -> bytes | None:
        """The next command line if it has arrived and is not too long, left where it is."""
        end = self._buffer.find(b"\n", self._start, self._start + MAX_LINE_OCTETS)
        return None if end < 0 else self._buffer[self._start : end].removesuffix(b"\r")

    def skip(self) -> None:
        """Use up the line that was peeked at."""
        self._start = self._buffer.index(b"\n", self._start) + 1

    async def line(self, deadline: float, max_octets: int = MAX_LINE_OCTETS) -> bytes | None:
        """The next line without its CRLF or LF; ``None`` when the device has left.

        Raises :class:`TimeoutError` when the line is not whole at ``deadline``: one octet now and then does not keep a
        session alive. Raises :class:`LineTooLong`.
        """
        searched, beginning = 0, b""
        while (end := self._buffer.find(b"\n", self._start + searched)) < 0:
            searched = len(self._buffer) - self._start
            if searched >= max_octets:
                # Thrown away as it comes, or an endless line would be held in memory.
                beginning = beginning or self._buffer[self._start : self._start + _BEGINNING_OCTETS]
                searched, self._buffer, self._start = 0, b"", 0
            if self._ended:
                return None
            await self._arrival(deadline)
        line = self._buffer[self._start : end]
        self._start = end + 1
        if beginning or len(line) >= max_octets:
            raise LineTooLong(beginning or line[:_BEGINNING_OCTETS])
        return line.removesuffix(b"\r")

    async def more(self, deadline: float) -> bool:
        """Wait until something arrives; false when nothing will. Raises :class:`TimeoutError` at ``deadline``."""
        if self._ended:
            return False
        had = len(self._buffer) - self._start
        await self._arrival(deadline)
        return len(self._buffer) - self._start > had or not self._ended

    def _arrival(self, deadline: float) -> asyncio.Future[None]:
        """Done when something has arrived or nothing more will; it raises :class:`TimeoutError` at ``deadline``."""
        self._before_waiting()
        if self._paused:
            self._paused = False
            if self._transport is not None:
                self._transport.resume_reading()
        if self._start == len(self._buffer):
            self._buffer, self._start = b"", 0
        self._deadline = deadline
        if self._timer is None or self._timer.when() > deadline:
            self.stop_timer()
            self._timer = self._loop.call_at(deadline, self._expire)
        self._waiter = self._loop.create_future()
        return self._waiter

    async def ignore_rest(self, deadline: float) -> None:
        """Read until the device has closed its side, and forget what it says. Raises :class:`TimeoutError`."""
        self._ignoring = True
        self.take()
        while await self.more(deadline):
            pass

    def stop_timer(self) -> None:
        """Let go of the timer: it would keep the session in memory."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._expire)
        else:
            self._waiter.set_exception(TimeoutError())
