"""The TLS handshake on an accepted socket, with a deadline, and its failures in plain words."""

from __future__ import annotations

import socket
import ssl

import anyio

__all__ = ("HANDSHAKE_SECONDS", "HandshakeFailed", "HungUp", "handshake", "words")

HANDSHAKE_SECONDS = 60.0
"""For the whole handshake: an old device may take half a minute to compute its part."""

_HUNG_UP = "the client hung up"

_WORDS = {
    "HTTP_REQUEST": "the client spoke HTTP",
    "WRONG_VERSION_NUMBER": "the client did not speak TLS",
    "PACKET_LENGTH_TOO_LONG": "the client did not speak TLS",
    "UNKNOWN_PROTOCOL": "the client did not speak TLS",
    "RECORD_LAYER_FAILURE": "the client did not speak TLS",
    "UNSUPPORTED_PROTOCOL": "the client speaks no TLS of version 1.2 or newer",
    "VERSION_TOO_LOW": "the client speaks no TLS of version 1.2 or newer",
    "NO_SHARED_CIPHER": "the client offers no cipher that is allowed here",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "the client can not verify the kind of key that the certificate has",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not know the CA of our certificate",
}


class HandshakeFailed(Exception):
    """There is no TLS on this connection; the text is for the log."""


class HungUp(HandshakeFailed):
    """The client left. That needn't mean anything: monitors knock and go."""


async def handshake(accepted: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Speak TLS on ``accepted``, which must not be used any more. Raises :class:`HandshakeFailed`; closes it then."""
    try:
        secured = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
    except OSError:
        accepted.close()
        raise HungUp(_HUNG_UP) from None
    try:
        with anyio.fail_after(HANDSHAKE_SECONDS):
            await _shake(secured)
    except TimeoutError:
        secured.close()
        raise HandshakeFailed(f"the client did not finish within {HANDSHAKE_SECONDS:g} seconds") from None
    except OSError as error:
        secured.close()
        text = words(error)
        raise (HungUp if text == _HUNG_UP else HandshakeFailed)(text) from None
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


def words(error: OSError) -> str:
    """What this error of TLS means."""
    reason = getattr(error, "reason", None) or ""
    if reason in _WORDS:
        return _WORDS[reason]
    if "ALERT" in reason:
        return f"the client gave up ({reason.partition('ALERT_')[2].replace('_', ' ').lower()})"
    if isinstance(error, ssl.SSLEOFError) or not isinstance(error, ssl.SSLError):
        return _HUNG_UP
    return reason.replace("_", " ").lower() or "TLS failed"
