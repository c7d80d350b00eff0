"""TLS handshakes with devices, for both legs: how long one may take, and in plain words why one failed."""

from __future__ import annotations

import ssl

__all__ = ("HANDSHAKE_SECONDS", "HandshakeFailed", "HungUp", "failed", "words")

HANDSHAKE_SECONDS = 60.0
"""For the whole handshake: an old device may take half a minute to compute its part."""

_HUNG_UP = "the client hung up"
_TOO_OLD = "the client speaks no version of TLS that is allowed here, see TLS_LEGACY"
_NO_CIPHER = "the client offers no cipher that is allowed here, see TLS_LEGACY"
_NOT_TLS = "the client did not speak TLS"

_CLOSED_BEFORE = "Closed before TLS handshake"
"""Python's own words, for a client that was gone before the handshake began and had sent something."""

_WORDS = {
    "HTTP_REQUEST": "the client spoke HTTP",
    "WRONG_VERSION_NUMBER": _NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": _NOT_TLS,
    "UNKNOWN_PROTOCOL": _NOT_TLS,
    "RECORD_LAYER_FAILURE": _NOT_TLS,
    "UNSUPPORTED_PROTOCOL": _TOO_OLD,
    "VERSION_TOO_LOW": _TOO_OLD,
    "NO_SHARED_CIPHER": _NO_CIPHER,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "the client can not verify the kind of key that the certificate has",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not know the CA of our certificate",
}


_WITH_TLS_LEGACY = {
    _TOO_OLD: "the client speaks no version of TLS that this system's OpenSSL still has",
    _NO_CIPHER: "the client offers no cipher that this system's OpenSSL still has for the certificate's kind of key",
}
"""What is said instead where that setting is on already."""


class HandshakeFailed(Exception):
    """There is no TLS on this connection; the text is for the log."""


class HungUp(HandshakeFailed):
    """The client left. That needn't mean anything: monitors knock and go."""


def failed(error: OSError, context: ssl.SSLContext) -> HandshakeFailed:
    """What to raise for an error in the handshake."""
    if isinstance(error, TimeoutError):
        return HandshakeFailed("the client did not finish the handshake in time")
    text = words(error)
    if context.minimum_version < ssl.TLSVersion.TLSv1_2:
        text = _WITH_TLS_LEGACY.get(text, text)
    return (HungUp if text == _HUNG_UP else HandshakeFailed)(text)


def words(error: OSError) -> str:
    """What this error of TLS means."""
    reason = getattr(error, "reason", None) or ""
    if isinstance(error, ssl.SSLZeroReturnError) or reason.startswith(_CLOSED_BEFORE):
        return _HUNG_UP
    if reason in _WORDS:
        return _WORDS[reason]
    if "ALERT" in reason:
        return f"the client gave up ({reason.partition('ALERT_')[2].replace('_', ' ').lower()})"
    if isinstance(error, ssl.SSLEOFError) or not isinstance(error, ssl.SSLError):
        return _HUNG_UP
    return reason.replace("_", " ").lower() or "TLS failed"
