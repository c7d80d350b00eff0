"""What systemd, or another service manager with its protocol, gives the process, and what it wants to hear.

It hands over listening sockets, so that ports below 1024 need no right and clients wait while the service restarts.
It is told when the service is ready, reloads and stops. And it hears regularly that the service lives: when that ends,
it restarts it. Without a service manager all of this does nothing.

See sd_notify(3) and sd_listen_fds(3). Their library for Python is a compiled one, and the protocol is a datagram.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, MutableMapping

import anyio

from . import log
from .contracts import SettingsMistake

__all__ = ("ServiceManager",)

_log = logging.getLogger("legacy_email_proxy.service")
_FIRST_DESCRIPTOR = 3
_BEATS = 3
"""Beats in the time after which the service manager gives up, so that two may be late."""


class ServiceManager:
    """The one that started this process, if any. The variables that speak of it are removed from ``environ``: they are
    not for the programs that this process starts.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        given = {name: environ.pop(name, "") for name in _VARIABLES}
        self._place = given["NOTIFY_SOCKET"].replace("@", "\0", 1) if given["NOTIFY_SOCKET"][:1] in ("/", "@") else ""
        self._watchdog = 0.0
        if given["WATCHDOG_PID"] in ("", str(os.getpid())) and given["WATCHDOG_USEC"].isdigit():
            self._watchdog = int(given["WATCHDOG_USEC"]) / 1e6
        self._sockets: dict[str, list[socket.socket]] = {}
        if given["LISTEN_PID"] == str(os.getpid()) and given["LISTEN_FDS"].isdigit():
            names = given["LISTEN_FDNAMES"].split(":") if given["LISTEN_FDNAMES"] else []
            for place in range(int(given["LISTEN_FDS"])):
                os.set_inheritable(_FIRST_DESCRIPTOR + place, False)
                sock = socket.socket(fileno=_FIRST_DESCRIPTOR + place)
                sock.setblocking(False)
                self._sockets.setdefault("".join(names[place : place + 1]).upper(), []).append(sock)

    def sockets(self, listener: str) -> list[socket.socket]:
        """The sockets for ``listener``, the first word of its variables; the service closes them."""
        return self._sockets.pop(listener, [])

    def check_all_taken(self, listeners: Iterable[str]) -> None:
        """Raises :class:`SettingsMistake` for sockets that nobody took: clients would wait there for ever."""
        mistakes = []
        for name, sockets in self._sockets.items():
            known = f"FileDescriptorName= must be one of {', '.join(listeners).lower()}"
            closed = f"there are sockets of that name, but the settings leave {name} closed: disable its .socket unit"
            mistakes.append(f"LISTEN_FDNAMES: {name.lower() or '(none)'}: {closed if name in listeners else known}")
            for sock in sockets:
                sock.close()
        self._sockets.clear()
        if mistakes:
            raise SettingsMistake(*mistakes)

    def ready(self, status: str = "") -> None:
        """The service serves; after :meth:`reloading`: it does so again. ``status`` is for people."""
        self._tell("READY=1", *([f"STATUS={status}"] if status else []))

    def reloading(self) -> None:
        """The settings are being read anew."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The service drains."""
        self._tell("STOPPING=1", "STATUS=stopping: sessions in a transaction may finish")

    async def beat(self, alive: Callable[[], bool]) -> None:
        """Tell regularly that the service lives, as long as the event loop turns and ``alive`` says so."""
        while self._watchdog:
            if not alive():
                log.event(_log, logging.ERROR, "a listener has failed", advice="the service manager will restart all")
                return
            self._tell("WATCHDOG=1")
            await anyio.sleep(self._watchdog / _BEATS)

    def _tell(self, *facts: str) -> None:
        if not self._place:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
                # Its queue may be full, and mail is not to wait for that.
                there.setblocking(False)
                there.connect(self._place)
                there.send("\n".join(facts).encode())
        except OSError as error:
            log.event(_log, logging.WARNING, "the service manager can not be told", told=facts[0], cause=str(error))


_VARIABLES = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"),
)
