"""Which backend, how to reach it, and who we are there: the settings, checked."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import Enum

from legacy_email_proxy.contracts import Context, Credentials, Secret, SettingsMistake, ascii_domain

__all__ = ("Encryption", "Endpoint")


class Encryption(Enum):
    """When TLS starts."""

    IMPLICIT = "implicit TLS"
    STARTTLS = "STARTTLS"
    NONE = "no TLS"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The backend. ``tls`` is there unless ``encryption`` is NONE; without a ``user`` nobody logs in, and there are no
    ``credentials``.
    """

    host: str
    port: int
    encryption: Encryption
    tls: ssl.SSLContext | None
    user: str | None
    credentials: Credentials | None
    max_connections: int

    @classmethod
    def from_context(cls, context: Context) -> Endpoint:
        """Read the settings. Raises :class:`SettingsMistake` with every mistake in them."""
        settings = context.settings
        mistakes: list[str] = []
        host: str | None = settings["BACKEND_SMTP_HOST"]
        user: str | None = settings["BACKEND_SMTP_USER"]
        password: Secret | None = settings["BACKEND_SMTP_PASS"]
        if not host:
            mistakes.append("BACKEND_SMTP_HOST: not set; give the name of your provider's SMTP server")
        by_password = settings["BACKEND_SMTP_CREDENTIALS"] == "password"
        if not by_password and not user:
            mistakes.append("BACKEND_SMTP_USER: not set; BACKEND_SMTP_CREDENTIALS needs to know who logs in")
        if user and not password and by_password:
            mistakes.append("BACKEND_SMTP_PASS: not set, though BACKEND_SMTP_USER is; set both or neither")
        if password and not user and by_password:
            mistakes.append("BACKEND_SMTP_USER: not set, though BACKEND_SMTP_PASS is; set both or neither")
        if "\0" in (user or "") or "\0" in (password.reveal() if password else ""):
            mistakes.append(
                "BACKEND_SMTP_USER, BACKEND_SMTP_PASS: neither may hold a NUL, which SASL uses between them"
            )
        encryption, tls = Encryption.NONE, None
        if settings["BACKEND_SMTP_USE_TLS"]:
            encryption = Encryption.STARTTLS
        elif settings["BACKEND_SMTP_USE_SSL"]:
            encryption = Encryption.IMPLICIT
        if encryption is not Encryption.NONE:
            try:
                tls = context.tls("BACKEND_SMTP_CA_FILE")
            except SettingsMistake as mistake:
                mistakes.extend(mistake.lines)
        credentials = None
        if user:
            try:
                credentials = context.credentials("BACKEND_SMTP_CREDENTIALS")
            except SettingsMistake as mistake:
                mistakes.extend(mistake.lines)
        if mistakes:
            raise SettingsMistake(*mistakes)
        return cls(
            host=ascii_domain(host or ""),
            port=settings["BACKEND_SMTP_PORT"],
            encryption=encryption,
            tls=tls,
            user=user or None,
            credentials=credentials,
            max_connections=settings["BACKEND_SMTP_MAX_CONNECTIONS"],
        )

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"
