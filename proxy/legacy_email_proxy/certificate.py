"""The certificate that our own listeners show to devices which can speak TLS; most have none."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .contracts import SettingsMistake

__all__ = ("renew", "server_context")


def server_context(settings: Mapping[str, Any]) -> ssl.SSLContext | None:
    """A context with ``TLS_CERT_FILE`` and ``TLS_KEY_FILE`` (TLS 1.2 or newer), ``None`` where there is none.

    Raises :class:`SettingsMistake` when the two can not be used, or when a listener needs them and there are none.
    """
    certificate: Path | None = settings["TLS_CERT_FILE"]
    key: Path | None = settings["TLS_KEY_FILE"]
    if certificate is None:
        mistakes = []
        if key is not None:
            mistakes.append("TLS_KEY_FILE: a key without a certificate; set TLS_CERT_FILE too")
        if settings["POP3S_BIND_PORT"] is not None:
            mistakes.append("POP3S_BIND_PORT: TLS needs a certificate; set TLS_CERT_FILE")
        if mistakes:
            raise SettingsMistake(*mistakes)
        return None
    unreadable = [*_unreadable("TLS_CERT_FILE", certificate), *(_unreadable("TLS_KEY_FILE", key) if key else ())]
    if unreadable:
        raise SettingsMistake(*unreadable)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # With a password of none an encrypted key is a mistake; without one, OpenSSL would ask the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise SettingsMistake(_explain(certificate, key, error)) from None
    return context


def renew(context: ssl.SSLContext, settings: Mapping[str, Any]) -> None:
    """Load the files again into a context that is in use: handshakes that follow show the new certificate.

    To be called with settings of which :func:`server_context` has just made a context.
    """
    context.load_cert_chain(settings["TLS_CERT_FILE"], settings["TLS_KEY_FILE"], password="")


def _unreadable(variable: str, path: Path) -> list[str]:
    try:
        path.read_bytes()
    except OSError as error:
        return [f"{variable}: can not read {str(path)!r}: {error.strerror}"]
    return []


def _explain(certificate: Path, key: Path | None, error: Exception) -> str:
    variable, path = ("TLS_KEY_FILE", key) if key else ("TLS_CERT_FILE", certificate)
    if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
        return f"{variable}: the key in {str(path)!r} does not belong to the certificate in {str(certificate)!r}"
    if "-----BEGIN CERTIFICATE-----" not in certificate.read_text("latin-1"):
        return f"TLS_CERT_FILE: {str(certificate)!r} holds no PEM certificate"
    return f"{variable}: {str(path)!r} holds no PEM key, or one that is protected by a password"
