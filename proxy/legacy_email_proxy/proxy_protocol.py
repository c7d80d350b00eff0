"""Reads the line or block with which a balancer names the device behind it: PROXY protocol, versions 1 and 2.

It comes before everything else, TLS too. Not an octet more than the header is taken from the socket, because what
follows belongs to the session. Only balancers are asked for it (``PROXY_PROTOCOL_NETWORKS``): from anybody else it
would be a way to get around ``ALLOWED_NETWORKS``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable

import anyio
from proxyprotocol import ProxyProtocolIncompleteError
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6

from . import log

__all__ = ("HEADER_SECONDS", "MOST_WAITING", "Arriving", "NoHeader", "device_behind")

HEADER_SECONDS = 5.0
"""A balancer sends the header as soon as it is connected. A packet that was lost comes again within three seconds."""

MOST_WAITING = 256
"""Connections of a listener that may wait for their header. With one more, the one that waits longest is closed."""

_MOST_OCTETS_1 = 107
_MOST_OCTETS_2 = 4096
"""Of version 2, with what balancers add: names, identifiers, certificates' subjects."""

_NO_HEADER = "no PROXY header"
_PARSER = ProxyProtocolDetect()


class NoHeader(Exception):
    """What came is no header. ``silent``: nothing came, and the other side has left."""

    def __init__(self, reason: str, *, silent: bool = False) -> None:
        super().__init__(reason)
        self.silent = silent


class Arriving:
    """Connections of one listener from balancers, until their header has come; then ``take`` gets each, with the
    device's address. A balancer that speaks for itself, to see whether we live, is its own device.
    """

    def __init__(self, take: Callable[[socket.socket, str], None], logger: logging.Logger, leg: str) -> None:
        self._take = take
        self._logger = logger
        self._leg = leg
        self._tasks: dict[asyncio.Task[None], None] = {}
        """In the order in which they came."""

    def add(self, accepted: socket.socket, balancer: str) -> None:
        """Wait for the header of this connection, without waiting here."""
        task = asyncio.get_running_loop().create_task(self._read(accepted, balancer))
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._ended(task, accepted))
        if len(self._tasks) > MOST_WAITING:
            next(iter(self._tasks)).cancel()

    async def _read(self, accepted: socket.socket, balancer: str) -> None:
        try:
            device = await device_behind(accepted)
        except NoHeader as failure:
            accepted.close()
            # A balancer may look whether the port is open, and leave.
            level = logging.DEBUG if failure.silent else logging.WARNING
            log.event(
                self._logger, level, f"{self._leg} connection refused", client=balancer, reason=str(failure),
                see="PROXY_PROTOCOL_NETWORKS",
            )  # fmt: skip
        else:
            self._take(accepted, device or balancer)

    def _ended(self, task: asyncio.Task[None], accepted: socket.socket) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            # Here and not in the task: one that was cancelled at once has never run.
            accepted.close()

    def close(self) -> None:
        """Close those that still wait."""
        for task in tuple(self._tasks):
            task.cancel()


async def device_behind(connection: socket.socket) -> str | None:
    """The address that the header names; ``None`` where it names none, as in a balancer's own checks.

    Raises :class:`NoHeader`.
    """
    try:
        with anyio.fail_after(HEADER_SECONDS):
            found = await _header(connection)
    except TimeoutError:
        raise NoHeader(f"{_NO_HEADER} within {HEADER_SECONDS:g} s") from None
    except OSError as error:
        raise NoHeader(f"{_NO_HEADER}: {error.strerror}", silent=True) from None
    if isinstance(found, ProxyResultIPv4 | ProxyResultIPv6):
        return str(found.source[0])
    return None


async def _header(connection: socket.socket) -> ProxyResult:
    octets = b""
    while True:
        try:
            return _PARSER.unpack(octets)
        except ProxyProtocolIncompleteError as incomplete:
            wanted = incomplete.want_read.want_bytes
        except (ValueError, struct.error):
            raise NoHeader(f"{_NO_HEADER}: other octets came first") from None
        most = _MOST_OCTETS_1 if wanted is None else _MOST_OCTETS_2
        if len(octets) + (wanted or 1) > most:
            raise NoHeader(f"its PROXY header is longer than {most} octets")
        more = await (_rest_of_line(connection, most - len(octets)) if wanted is None else _some(connection, wanted))
        if not more:
            raise NoHeader(f"{_NO_HEADER}: it has left", silent=not octets)
        octets += more


async def _rest_of_line(connection: socket.socket, most: int) -> bytes:
    seen = await _some(connection, most, socket.MSG_PEEK)
    return await _some(connection, seen.find(b"\n") + 1 or len(seen)) if seen else b""


async def _some(connection: socket.socket, most: int, flags: int = 0) -> bytes:
    """At least one octet, or none when the other side has left."""
    while True:
        try:
            return connection.recv(most, flags)
        except (BlockingIOError, InterruptedError):
            await anyio.wait_readable(connection)
