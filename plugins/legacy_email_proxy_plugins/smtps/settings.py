"""Which backend, how to reach it, and who we are there: the settings, checked; and how long the backend may take.

Each timeout is the deadline of one whole reply, which a reply that drips in can't extend.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from enum import Enum

from legacy_email_proxy.contracts import Context, Credentials, Secret, SettingsMistake, ascii_domain

from ..dial import host_mistake

__all__ = ("LEAST_OCTETS_PER_SECOND", "Chunking", "Encryption", "Endpoint", "Timeouts")

# A domain or an address literal (RFC 5321 §4.1.2), and the underscores that real machines have.
_EHLO_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}|\[[A-Za-z0-9.:-]{1,80}\]")


class Encryption(Enum):
    """When TLS starts."""

    IMPLICIT = "implicit TLS"
    STARTTLS = "STARTTLS"
    NONE = "no TLS"


@dataclass(slots=True)
class Chunking:
    """What is known of the backend's BDAT, for all connections to it: whether to use it where it is offered, and
    whether it has taken content that way.
    """

    wanted: bool
    proven: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The backend. ``tls`` is there unless ``encryption`` is NONE; without a ``user`` nobody logs in, and there are no
    ``credentials``; without an ``ehlo_name`` we are called by our address.
    """

    host: str
    port: int
    encryption: Encryption
    tls: ssl.SSLContext | None
    user: str | None
    credentials: Credentials | None
    max_connections: int
    ehlo_name: str | None
    chunking: Chunking

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
        elif wrong := host_mistake("BACKEND_SMTP", host):
            mistakes.append(wrong)
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
        ehlo_name: str | None = settings["BACKEND_SMTP_EHLO_NAME"]
        if ehlo_name and not _EHLO_NAME.fullmatch(ehlo_name):
            mistakes.append(
                f"BACKEND_SMTP_EHLO_NAME: {ehlo_name!a} is no host name; write one like proxy.firm.example, letters "
                "outside ASCII as xn--…"
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
            ehlo_name=ehlo_name or None,
            chunking=Chunking(settings["BACKEND_SMTP_CHUNKING"]),
        )

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"


LEAST_OCTETS_PER_SECOND = 1000
"""A backend that takes content more slowly than this, beyond the first :attr:`Timeouts.block` seconds of waiting for
it, is given up. It is twice what Postfix asks of a sender under stress, so the device's own line may be the slower one,
and it bounds for how long a backend that takes an octet now and then can hold a connection."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, per command and never for a whole transaction (RFC 5321 §4.5.3.2)."""

    connect: float = 30  # name and TCP, all addresses together
    tls: float = 60
    greeting: float = 300  # §4.5.3.2.1
    hello: float = 60  # EHLO and STARTTLS
    auth: float = 60
    mail: float = 300  # §4.5.3.2.2
    rcpt: float = 300  # §4.5.3.2.3
    data: float = 120  # §4.5.3.2.4
    block: float = 180  # §4.5.3.2.5, without any progress
    final_dot: float = 600  # §4.5.3.2.6
    rset: float = 20
    quit: float = 2
    slot: float = 30  # for a free connection, while all are lent
    probe: float = 60  # a whole probe, with somebody waiting for it
