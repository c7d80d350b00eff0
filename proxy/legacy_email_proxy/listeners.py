"""Opens the listening sockets of both legs, says in one line why one can not be opened, and accepts on them.

The accept loop is our own. While the process is out of descriptors, asyncio's logs a traceback for each try, and
anyio's ends, with every session. A client that is refused gets one reply and no task, so it costs next to nothing.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import NoReturn

import anyio

from . import log
from .access import Network, canonical, within
from .contracts import SettingsMistake

__all__ = ("ACCEPT_PAUSE_SECONDS", "PLUGIN_OF", "accept", "bind", "shown")

ACCEPT_PAUSE_SECONDS = 0.2
"""How long to wait after accept() failed; most of its failures mean that the process or the system is full."""

_LOG_PAUSE_SECONDS = 10.0
"""A failing accept() is logged at most this often."""

_ACCEPTED_AT_ONCE = 16
"""After so many new connections in a row, those that are open already get their turn."""

_REFUSED_SECONDS = 1.0
"""How long the connection of a refused client stays open behind the reply."""
_REFUSED_AT_ONCE = 8
"""How many of them stay open, on one listener."""

PLUGIN_OF = {
    "POP3": "MAILDROP_PLUGIN",
    "POP3S": "MAILDROP_PLUGIN",
    "SMTP": "RELAY_PLUGIN",
    "SMTPS": "RELAY_PLUGIN",
}
"""Each listener, by the first word of its variables → the variable that names what is behind it."""


def bind(listener: str, addresses: Sequence[str], port: int) -> list[socket.socket]:
    """Listening sockets on every address. ``listener`` is the first word of its variables.

    With port 0 all its addresses get the same free port. Raises :class:`SettingsMistake`, one line per address.
    """
    sockets: list[socket.socket] = []
    mistakes: list[str] = []
    with ExitStack() as unwinding:
        for address in addresses:
            try:
                found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
                for family, kind, protocol, _, place in found:
                    sockets.append(unwinding.enter_context(socket.socket(family, kind, protocol)))
                    _listen(sockets[-1], (place[0], port, *place[2:]))
                    port = port or sockets[-1].getsockname()[1]
            except (socket.gaierror, UnicodeError):
                mistakes.append(f"{listener}_BIND_ADDR: {address!r} is no address of this machine")
            except OSError as error:
                mistakes.append(_explain(listener, address, port, error))
        if mistakes:
            raise SettingsMistake(*dict.fromkeys(mistakes))
        unwinding.pop_all()
    return sockets


def _listen(sock: socket.socket, place: tuple[object, ...]) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        # Otherwise `::` would take IPv4 too and collide with a `0.0.0.0` beside it.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(place)
    sock.listen(1024)
    sock.setblocking(False)


async def accept(
    listener: socket.socket,
    take: Callable[[socket.socket, str], bytes | None],
    logger: logging.Logger,
    leg: str,
    balancers: Sequence[Network] = (),
) -> NoReturn:
    """Accept until cancelled. ``take`` gets each connection and the device's address, and must not wait. It returns the
    reply for a client that is refused; it is sent, and the connection closed, here.

    The device's address is that at the other end, or the one that a balancer names there.
    """
    refused = _Refused()

    def give(accepted: socket.socket, device: str) -> None:
        try:
            reply = take(accepted, device)
        except Exception:
            # An exception that left the accept loop would end the listener.
            accepted.close()
            logger.exception("%s connection lost", leg)
            return
        if reply is not None:
            refused.add(accepted, reply)

    arriving = None
    if balancers:
        # Few have a balancer, and the library that reads its headers takes memory.
        from .proxy_protocol import Arriving

        arriving = Arriving(give, logger, leg)

    def came(accepted: socket.socket, peer: str) -> None:
        address = canonical(peer) if arriving else None
        if arriving and address is not None and within(address, balancers):
            arriving.add(accepted, peer)
        else:
            give(accepted, peer)

    try:
        await _accept(listener, came, logger, leg)
    finally:
        if arriving:
            arriving.close()
        refused.close()


async def _accept(
    listener: socket.socket, came: Callable[[socket.socket, str], None], logger: logging.Logger, leg: str
) -> NoReturn:
    listener.setblocking(False)
    logged = -_LOG_PAUSE_SECONDS
    while True:
        await anyio.wait_readable(listener)
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, peer = listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if anyio.current_time() - logged >= _LOG_PAUSE_SECONDS:
                    logged = anyio.current_time()
                    log.event(
                        logger, logging.ERROR, f"{leg} accept failed", cause=str(error),
                        retry_seconds=ACCEPT_PAUSE_SECONDS,
                    )  # fmt: skip
                await anyio.sleep(ACCEPT_PAUSE_SECONDS)
                break
            accepted.setblocking(False)
            came(accepted, str(peer[0]))


class _Refused:
    """The connections of refused clients. Closing one with unread octets would reset it, and the client could lose the
    reply; so the last few stay open for a moment.
    """

    def __init__(self) -> None:
        self._sockets: deque[socket.socket] = deque()

    def add(self, accepted: socket.socket, reply: bytes) -> None:
        """Send the reply without waiting; a fresh socket has room for it."""
        with suppress(OSError):
            accepted.send(reply)
            accepted.shutdown(socket.SHUT_WR)
        self._sockets.append(accepted)
        if len(self._sockets) > _REFUSED_AT_ONCE:
            self._sockets.popleft().close()
        asyncio.get_running_loop().call_later(_REFUSED_SECONDS, self._close, accepted)

    def _close(self, accepted: socket.socket) -> None:
        accepted.close()
        with suppress(ValueError):
            self._sockets.remove(accepted)

    def close(self) -> None:
        """Close them all."""
        while self._sockets:
            self._sockets.popleft().close()


def _explain(listener: str, address: str, port: int, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{listener}_BIND_PORT: {address} port {port} is in use by another program;"
                " stop it or take another port"
            )
        case errno.EACCES | errno.EPERM:
            return (
                f"{listener}_BIND_PORT: no right to open {address} port {port}: ports below 1024 need the capability"
                " NET_BIND_SERVICE (podman and docker: --cap-add NET_BIND_SERVICE; systemd: AmbientCapabilities=)"
                " or choose a higher port"
            )
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return f"{listener}_BIND_ADDR: {address!r} is no address of this machine"
        case _:
            return f"{listener}_BIND_ADDR: can not listen on {address} port {port}: {error.strerror}"


def shown(sock: socket.socket) -> str:
    """``10.0.0.1:25`` or ``[::1]:25``."""
    address, port = sock.getsockname()[:2]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
