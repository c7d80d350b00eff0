"""Opens the listening sockets of both legs, and says in one line why one can not be opened."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from .contracts import SettingsMistake

__all__ = ("PLUGIN_OF", "bind", "shown")

PLUGIN_OF = {
    "POP3": "MAILDROP_PLUGIN",
    "POP3S": "MAILDROP_PLUGIN",
    "SMTP": "RELAY_PLUGIN",
    "SMTPS": "RELAY_PLUGIN",
}
"""Each listener, by the first word of its variables → the variable that names what is behind it."""


def bind(listener: str, addresses: Sequence[str], port: int) -> list[socket.socket]:
    """Listening sockets on every address. ``listener`` is one of :data:`PLUGIN_OF`.

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
