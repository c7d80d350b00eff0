"""The TLS handshake on an accepted socket, with a deadline."""

from __future__ import annotations

import socket
import ssl

import anyio

from ..tls import HANDSHAKE_SECONDS, failed

__all__ = ("HANDSHAKE_SECONDS", "handshake")


async def handshake(accepted: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Speak TLS on ``accepted``, which must not be used any more. Raises ``HandshakeFailed``; closes it then."""
    try:
        secured = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
    except OSError as error:
        accepted.close()
        raise failed(error, context) from None
    try:
        with anyio.fail_after(HANDSHAKE_SECONDS):
            await _shake(secured)
    except OSError as error:
        secured.close()
        raise failed(error, context) from None
    except BaseException:
        secured.close()
        raise
    return secured


async def _shake(secured: ssl.SSLSocket) -> None:
    while True:
        try:
            return secured.do_handshake()
        except ssl.SSLWantReadError:
            await anyio.wait_readable(secured)
        except ssl.SSLWantWriteError:
            await anyio.wait_writable(secured)
