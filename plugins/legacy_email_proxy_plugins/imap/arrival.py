"""Reads the answer to one command in the event loop, as long as it has the usual form.

It is for answers that come often and are limited, such as a batch of small messages. A thread that reads gives up
Python's lock and takes it again at every TLS record, and the event loop, which serves clients meanwhile, waits for it
as often. That took more time than the reading itself. What has another form is left to a thread: to parse a hostile
server's answer can take long.
"""

from __future__ import annotations

import asyncio
import socket as sockets
import ssl
from collections.abc import Callable

from .responses import Fetched

__all__ = ("arrival",)


async def arrival(
    socket: sockets.socket,
    receive: Callable[[], bytes],
    fetched: Fetched,
    octets: int,
    *,
    seconds: float,
    silent_seconds: float,
) -> bytes:
    """Have ``fetched`` take what comes, until something comes that it does not take: the last line of the answer, or
    what has not the usual form. That is returned; also what there is at the end of the connection, or after ``octets``.

    ``receive`` is called whenever ``socket`` is readable, and must not wait.

    Raises what they raise, and :class:`TimeoutError` after ``seconds``, or when nothing came for ``silent_seconds``.
    """
    loop = asyncio.get_running_loop()
    rest, left, missing = b"", octets, 1
    pieces: list[bytes] = []
    complete: asyncio.Future[None] = loop.create_future()
    deadline = loop.time() + seconds
    last = loop.time()
    alarm: asyncio.TimerHandle | None = None

    def read() -> None:
        nonlocal last, rest, left, missing
        if complete.done():
            return
        # Before the octets are decrypted: a slow server may take long for one TLS record.
        last = loop.time()
        try:
            came = receive()
            pieces.append(came)
            left -= len(came)
            missing -= len(came)
            ended = not came or left < 0
            if missing > 0 and not ended:
                return  # Before a message is whole, nothing is done with its pieces: a server may send single octets.
            rest = b"".join((rest, *pieces))
            pieces.clear()
            rest = rest[fetched.take(rest) :]
            missing = fetched.missing(rest)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            return
        except Exception as error:
            complete.set_exception(error)
            return
        if ended or not missing:
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
    return rest
