"""TLS with devices, for both legs: the certificate that our own listeners show, and the handshake.

It also says how long a handshake may take, and in plain words why one failed.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .contracts import SettingsMistake

__all__ = ("HANDSHAKE_SECONDS", "HandshakeFailed", "HungUp", "empty_context", "failed", "server_context", "words")


def server_context(settings: Mapping[str, Any]) -> ssl.SSLContext | None:
    """A context with ``TLS_CERT_FILE`` and ``TLS_KEY_FILE``, ``None`` where there is none.

    TLS 1.2 or newer, unless ``TLS_LEGACY`` lets older ones in.
    Raises :class:`SettingsMistake` when the two can not be used, or when a listener needs them and there are none.
    """
    certificate: Path | None = settings["TLS_CERT_FILE"]
    key: Path | None = settings["TLS_KEY_FILE"]
    if certificate is None:
        mistakes = []
        if key is not None:
            mistakes.append("TLS_KEY_FILE: a key without a certificate; set TLS_CERT_FILE too")
        for port in ("POP3S_BIND_PORT", "SMTPS_BIND_PORT"):
            if settings[port] is not None:
                mistakes.append(f"{port}: TLS needs a certificate; set TLS_CERT_FILE")
        if mistakes:
            raise SettingsMistake(*mistakes)
        return None
    unreadable = [*_unreadable("TLS_CERT_FILE", certificate), *(_unreadable("TLS_KEY_FILE", key) if key else ())]
    if unreadable:
        raise SettingsMistake(*unreadable)
    context = _context(legacy=settings["TLS_LEGACY"])
    try:
        # With the empty password an encrypted key is a mistake; without it OpenSSL would ask at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise SettingsMistake(_explain(certificate, key, error)) from None
    return context


_CIPHERS = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!AESCCM:!SHA1"
"""For TLS 1.2: all have forward secrecy, none uses SHA-1. Python's own choice differs between builds, and Debian's
allows what is left out here. CBC with SHA-2 stays: Windows 7 and 8 have no other cipher for a certificate with an RSA
key."""


def _context(*, legacy: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if legacy:
        # All that this OpenSSL has, except SSL 3.0 and ciphers without encryption or authentication.
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.options |= ssl.OP_NO_SSLv3
        context.set_ciphers("ALL:!aNULL:!eNULL:@SECLEVEL=0")
    else:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
    return context


def empty_context() -> ssl.SSLContext:
    """A context without a certificate, for a listener that chooses one at each handshake (``sni_callback``)."""
    return _context(legacy=False)


def _unreadable(variable: str, path: Path) -> list[str]:
    try:
        path.read_bytes()
    except OSError as error:
        return [f"{variable}: can not read {str(path)!r}: {error.strerror}"]
    return []


def _explain(certificate: Path, key: Path | None, error: Exception) -> str:
    variable, path = ("TLS_KEY_FILE", key) if key else ("TLS_CERT_FILE", certificate)
    reason = getattr(error, "reason", "")
    if reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
        weak = f"a key or signature in {str(certificate)!r} is too weak for TLS as it is today"
        return f"TLS_CERT_FILE: {weak}; use a newer certificate, or see TLS_LEGACY"
    if reason == "KEY_VALUES_MISMATCH":
        return f"{variable}: the key in {str(path)!r} does not belong to the certificate in {str(certificate)!r}"
    if "-----BEGIN CERTIFICATE-----" not in certificate.read_text("latin-1"):
        return f"TLS_CERT_FILE: {str(certificate)!r} holds no PEM certificate"
    return f"{variable}: {str(path)!r} holds no PEM key, or one that is protected by a password"


HANDSHAKE_SECONDS = 60.0
"""For the whole handshake: an old device may take half a minute to compute its part."""

_HUNG_UP = "the client hung up"
_TOO_OLD = "the client speaks no version of TLS that is allowed here, see TLS_LEGACY"
_NO_CIPHER = "the client offers no cipher that is allowed here, see TLS_LEGACY"
_NOT_TLS = "the client did not speak TLS"

_CLOSED_BEFORE = "Closed before TLS handshake"
"""Python's own text for a client that had sent something and was gone before the handshake began."""

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
"""The texts that stand instead where that setting is on already."""


class HandshakeFailed(Exception):
    """There is no TLS on this connection; the text is for the log."""


class HungUp(HandshakeFailed):
    """The client closed the connection. That may be harmless: monitoring programs connect and leave."""


def failed(error: OSError, context: ssl.SSLContext) -> HandshakeFailed:
    """The exception to raise for an error in the handshake."""
    if isinstance(error, TimeoutError):
        return HandshakeFailed("the client did not finish the handshake in time")
    text = words(error)
    if context.minimum_version < ssl.TLSVersion.TLSv1_2:
        text = _WITH_TLS_LEGACY.get(text, text)
    return (HungUp if text == _HUNG_UP else HandshakeFailed)(text)


def words(error: OSError) -> str:
    """In plain words what this error of TLS means."""
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
