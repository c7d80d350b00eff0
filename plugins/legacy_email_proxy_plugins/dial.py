"""Connects to a backend, for both legs: looks up its name, then tries its addresses as in RFC 8305 (Happy Eyeballs).

Each name is looked up in a thread of its own. The event loop's pool has only a few threads for look-ups, and one name
server that does not answer would take all of them, so that no other backend could be reached. A name is looked up only
once at a time, so there are never more such threads than names. When a look-up has failed or takes too long, whoever
asks next fails at once: otherwise those who wait for their turn at a dead backend would each wait as long again.

After a quarter of a second without an answer the next address is tried beside the first. The address that worked last
is tried first.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from aiohappyeyeballs import start_connection

from legacy_email_proxy.contracts import Unreachable, in_container

__all__ = ("connect", "dial", "host_mistake", "look_up")

_Found = list[Any]
"""The list that ``getaddrinfo`` returns."""

_ATTEMPT_DELAY_SECONDS = 0.25
"""RFC 8305 §5: after this time without an answer, the next address is tried as well."""

_LOOK_UP_SECONDS = 15.0
"""How long a look-up may take: long enough to ask another name server when the first one is dead."""
_FAILED_SECONDS = 2.0
"""For how long a name is not looked up again after that has failed."""

_NO_NAME = re.compile(r"""[ "'/@,;\[\]]""")


@dataclass(slots=True)
class _LookUp:
    began: float
    answer: Future[_Found] = field(default_factory=Future)
    failed: float | None = None
    """When it failed."""


_lock = threading.Lock()
_asked: dict[tuple[str, int], _LookUp] = {}
"""The look-ups that are under way, and those that have failed."""
_worked: dict[tuple[str, int], Any] = {}
"""The address of the last connection, by name; the names come from the settings, so there are few."""


def host_mistake(backend: str, host: str) -> str | None:
    """What is wrong with the host setting, if anything. A name server would only say "unknown", not why."""
    if not _NO_NAME.search(host) and (":" not in host or _is_ipv6(host)):
        return None
    if host[0] in "\"'":
        how = "without quotes: in an env file of podman or docker they are a part of the value"
    elif scheme := re.match(r"[a-zA-Z0-9+.-]+://", host):
        how = f"without {scheme[0]} and without a path"
    elif port := re.search(r":([0-9]+)\Z", host):
        how = f"without the port, which is set with {backend}_PORT={port[1]}"
    elif "@" in host:
        how = "as your provider gives it for mail programs; a mail address is none"
    else:
        how = "without quotes or blanks, one name only"
    return f"{backend}_HOST: that is no name of a server; write it alone, like mail.firm.example, {how}"


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


async def dial(host: str, port: int, seconds: float, backend: str) -> socket.socket:
    """A non-blocking socket that is connected to the first address of ``host`` that answers.

    Raises :class:`Unreachable`. ``backend`` is the beginning of the names of the settings to look at then.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    look_at = f"{backend}_HOST"
    try:
        async with asyncio.timeout_at(deadline):
            found = await look_up(host, port)
    except TimeoutError:
        waited = min(seconds, _LOOK_UP_SECONDS)
        raise Unreachable(f"the name {host} was not resolved within {waited:.3g} s", look_at=look_at) from None
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"the name {host} can not be resolved: {error}", look_at=look_at) from None
    if not found:
        raise Unreachable(f"the name {host} can not be resolved: it has no address", look_at=look_at)
    worked = _worked.get((host, port))
    found.sort(key=lambda each: each[4] != worked)
    try:
        async with asyncio.timeout_at(deadline):
            connected = await connect(found)
    except TimeoutError:
        reason = "no answer"
    except OSError as error:
        reason = str(error)
    else:
        with suppress(OSError):
            _worked[host, port] = connected.getpeername()
        return connected
    tried = ", ".join(str(address[0]) for *_, address in found)
    detail, advice = f"{host} port {port} does not answer ({tried}: {reason})", ""
    if in_container() and all(ipaddress.ip_address(address[0].partition("%")[0]).is_loopback for *_, address in found):
        detail += f"; inside a container {host} is the container itself, not the machine on which it runs"
        advice = (
            f"set {look_at}=host.containers.internal (podman) or host.docker.internal, or run the container with"
            " --network host; see proxy/docs/containers.md"
        )
    raise Unreachable(detail, look_at=f"{look_at}, {backend}_PORT", advice=advice)


async def connect(found: _Found) -> socket.socket:
    """A non-blocking socket that is connected to the first of these addresses that answers, tried as in RFC 8305.

    ``found`` is what :func:`look_up` returned, and not empty. Raises :class:`OSError`, whose text is the reason.
    """
    try:
        return await start_connection(found, happy_eyeballs_delay=_ATTEMPT_DELAY_SECONDS)
    except TimeoutError:
        raise
    except (OSError, RuntimeError) as error:  # uvloop's is no OSError where there is no way to an address
        raise OSError(os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)) from error


async def look_up(host: str, port: int) -> _Found:
    """What ``getaddrinfo`` returns. Raises what it raises, and :class:`TimeoutError`."""
    asked = _looking_up((host, port))
    async with asyncio.timeout(asked.began + _LOOK_UP_SECONDS - monotonic()):
        found = await asyncio.wrap_future(asked.answer)
    return list(found)


def _looking_up(name: tuple[str, int]) -> _LookUp:
    with _lock:
        asked = _asked.get(name)
        if asked is not None and (asked.failed is None or monotonic() < asked.failed + _FAILED_SECONDS):
            return asked
        asked = _asked[name] = _LookUp(monotonic())
        # One caller that gives up must not cancel the look-up for the other callers.
        asked.answer.set_running_or_notify_cancel()
        # A daemon thread, because a look-up that hangs must not delay the end of the process.
        thread = threading.Thread(target=_answer, args=(name, asked), name=f"look up {name[0]}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            del _asked[name]
            asked.answer.set_exception(OSError(f"no thread to look it up: {error}"))
        return asked


def _answer(name: tuple[str, int], asked: _LookUp) -> None:
    try:
        found: _Found = socket.getaddrinfo(*name, type=socket.SOCK_STREAM)
    except Exception as error:
        asked.failed = monotonic()
        asked.answer.set_exception(error)
    else:
        with _lock:
            del _asked[name]
        asked.answer.set_result(found)
