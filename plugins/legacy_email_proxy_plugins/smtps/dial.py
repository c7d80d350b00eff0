"""The way to the backend: its name, and each of its addresses until one answers."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from legacy_email_proxy.contracts import Unreachable

from .wire import Wire

__all__ = ("connect",)


async def connect(host: str, port: int, seconds: float) -> Wire:
    """Connect to the first address of ``host`` that answers. Raises :class:`Unreachable`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    try:
        async with asyncio.timeout_at(deadline):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise Unreachable(
            f"the name {host} was not resolved within {seconds:g} s", look_at="BACKEND_SMTP_HOST"
        ) from None
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"the name {host} can not be resolved: {error}", look_at="BACKEND_SMTP_HOST") from None
    failures = []
    for index, (family, kind, protocol, _, address) in enumerate(found):
        # Each address gets a fair share, so that a first one that swallows everything leaves time for the others.
        until = loop.time() + (deadline - loop.time()) / (len(found) - index)
        try:
            async with asyncio.timeout_at(until):
                return await _connect_to(socket.socket(family, kind, protocol), address)
        except TimeoutError:
            failures.append(f"{address[0]}: no answer")
        except OSError as error:
            failures.append(f"{address[0]}: {os.strerror(error.errno) if error.errno else error}")
    raise Unreachable(
        f"{host} port {port} does not answer ({'; '.join(failures)})", look_at="BACKEND_SMTP_HOST, BACKEND_SMTP_PORT"
    )


async def _connect_to(plain: socket.socket, address: Any) -> Wire:
    loop = asyncio.get_running_loop()
    try:
        plain.setblocking(False)
        await loop.sock_connect(plain, address)
        _, wire = await loop.create_connection(Wire, sock=plain)
    except BaseException:
        plain.close()
        raise
    return wire
