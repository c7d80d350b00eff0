"""The settings of a leg's backend server that IMAP and SMTP have in common: host, port, TLS, CA and login.

Each leg adds its own settings (``imap/settings``, ``smtps/settings``). All mistakes are collected, so that the operator
reads all of them at the first start, and not one more at each start. Values hold no control character: the settings
reader refuses those, so a line end in a name or password can not become a second command.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from legacy_email_proxy.contracts import Context, Credentials, Secret, SettingsMistake, ascii_domain

from .dial import host_mistake

__all__ = ("IMAP", "SMTP", "Backend", "Encryption", "Leg", "instead_of_password", "read_backend")


class Encryption(Enum):
    """When TLS starts."""

    IMPLICIT = "implicit TLS"
    STARTTLS = "STARTTLS"
    NONE = "no TLS"


@dataclass(frozen=True, slots=True)
class Leg:
    """How the names of a leg's settings begin, and what differs between IMAP and SMTP."""

    prefix: str
    starttls: str
    """The setting that asks for STARTTLS."""
    implicit_port: int
    starttls_port: int
    without_host: str
    """What the operator has to do if no host is set."""


IMAP = Leg(
    "BACKEND_IMAP",
    "BACKEND_IMAP_USE_STARTTLS",
    993,
    143,
    "give the name of your provider's IMAP server; where no device reads mail, set MAILDROP_PLUGIN=none",
)
SMTP = Leg(
    "BACKEND_SMTP",
    "BACKEND_SMTP_USE_TLS",
    465,
    587,
    "give the name of your provider's SMTP server; where no device sends mail, set RELAY_PLUGIN=none",
)


@dataclass(frozen=True, slots=True)
class Backend:
    """The server and the login. ``tls`` is ``None`` if ``encryption`` is NONE; ``credentials`` is ``None`` if the proxy
    does not log in, or each client brings its own login.
    """

    host: str
    port: int
    encryption: Encryption
    tls: ssl.SSLContext | None
    user: str | None
    credentials: Credentials | None
    max_connections: int


def instead_of_password(context: Context, leg: Leg) -> str:
    """What to set in place of a missing password, where settings for OAuth2 are there; else nothing."""
    given = [name for name in ("OAUTH2_GRANT", "OAUTH2_CLIENT_ID") if context.settings.get(name) is not None]
    return f"; {given[0]} is set, so you may mean {leg.prefix}_CREDENTIALS=oauth2" if given else ""


AnyBackend = TypeVar("AnyBackend", bound=Backend)


def read_backend(
    context: Context, leg: Leg, further_mistakes: Sequence[str], make: Callable[..., AnyBackend]
) -> AnyBackend:
    """Read the settings of ``leg``; ``make`` gets the fields of :class:`Backend` by name.

    Raises :class:`SettingsMistake` with all mistakes, including ``further_mistakes``, which the leg has found in its
    own settings.
    """
    settings, prefix = context.settings, leg.prefix
    host: str = settings[f"{prefix}_HOST"] or ""
    user: str | None = settings[f"{prefix}_USER"] or None
    password: Secret | None = settings[f"{prefix}_PASS"]
    mistakes: list[str] = []
    if not host:
        mistakes.append(f"{prefix}_HOST: not set; {leg.without_host}")
    elif wrong := host_mistake(prefix, host):
        mistakes.append(wrong)
    mistakes.extend(further_mistakes)
    encryption, tls = Encryption.NONE, None
    if settings[leg.starttls]:
        encryption = Encryption.STARTTLS
    elif settings[f"{prefix}_USE_SSL"]:
        encryption = Encryption.IMPLICIT
    if encryption is not Encryption.NONE:
        try:
            tls = context.tls(f"{prefix}_CA_FILE")
        except SettingsMistake as mistake:
            mistakes.extend(mistake.lines)
    credentials = None
    if user and (password or settings[f"{prefix}_CREDENTIALS"] != "password"):
        try:
            credentials = context.credentials(f"{prefix}_CREDENTIALS")
        except SettingsMistake as mistake:
            mistakes.extend(mistake.lines)
    if mistakes:
        raise SettingsMistake(*mistakes)
    return make(
        host=ascii_domain(host),
        port=settings[f"{prefix}_PORT"],
        encryption=encryption,
        tls=tls,
        user=user,
        credentials=credentials,
        max_connections=settings[f"{prefix}_MAX_CONNECTIONS"],
    )
