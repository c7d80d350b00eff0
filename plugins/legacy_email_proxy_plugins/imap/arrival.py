"""Reads the whole answer to one command in the event loop.

It is for answers that come often and are limited, such as a batch of small messages. A thread that reads gives up
Python's lock and takes it again at every TLS record, and the event loop, which serves clients meanwhile, waits for it
as often. That took more time than the reading itself. Only what has the usual form is parsed here, as it comes. To
parse the rest of a hostile server's answer can take long, so it is left to a thread.
"""

from __future__ import annotations

import asyncio
import socket as sockets
import ssl
from collections.abc import Callable

__all__ = ("arrival",)


async def arrival(
    socket: sockets.socket,
    receive: Callable[[], bytes],
    take: Callable[[bytes], int],
    tag: bytes,
    octets: int,
    *,
    seconds: float,
    silent_seconds: float,
) -> bytes:
    """Read until a line that begins with ``tag`` has come, the connection has ended, or more than ``octets`` have come.

    ``receive`` is called whenever ``socket`` is readable, and must not wait; ``take`` with what has come, and returns
    how much of its beginning it took. What it did not take is returned.

    Raises what they raise, and :class:`TimeoutError` after ``seconds``, or when nothing came for ``silent_seconds``.
    """
    loop = asyncio.get_running_loop()
    answer = _Answer(take, tag, octets)
    complete: asyncio.Future[None] = loop.create_future()
    deadline = loop.time() + seconds
    last = loop.time()
    alarm: asyncio.TimerHandle | None = None

    def read() -> None:
        nonlocal last
        if complete.done():
            return
        try:
            done = answer.add(receive())
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            return
        except Exception as error:
            complete.set_exception(error)
            return
        last = loop.time()
        if done:
            complete.set_result(None)

    def look() -> None:
        # Set again when it comes too early: so one timer serves many pieces, instead of one for each.
        nonlocal alarm
        until = min(deadline, last + silent_seconds)
        if complete.done():
            return
        if loop.time() >= until:
            complete.set_exception(TimeoutError())
        else:
            alarm = loop.call_at(until, look)

    look()
    loop.add_reader(socket, read)
    try:
        await complete
    finally:
        if alarm is not None:
            alarm.cancel()
        loop.remove_reader(socket)
    return answer.rest


class _Answer:
    """What was not taken of the answer so far."""

    def __init__(self, take: Callable[[bytes], int], tag: bytes, octets: int) -> None:
        self._take = take
        self._tag = tag
        self._left = octets
        self.rest = b""

    def add(self, octets: bytes) -> bool:
        """Add a piece, ``b""`` for the end of the connection. Returns whether no other is needed."""
        self._left -= len(octets)
        come = self.rest + octets
        self.rest = rest = come[self._take(come) :]
        tagged = rest.startswith(self._tag) or b"\n" + self._tag in rest
        return not octets or self._left < 0 or (tagged and rest.endswith(b"\n"))
