"""Which IMAP server, reached how, and how long it may take; and what a site may choose about the maildrop itself.

All of it is read once from the settings. Those of the server may be wrong, and then all mistakes are told at once.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from enum import Enum

from legacy_email_proxy.contracts import Context, Credentials, Login, Secret, SettingsMistake, ascii_domain

from ..dial import host_mistake
from .unique_ids import DOVECOT, UNIQUE_IDS, UniqueIds

__all__ = (
    "Deletion",
    "Options",
    "Patience",
    "Security",
    "Server",
    "configured_login",
    "configured_options",
    "configured_server",
)

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Security(Enum):
    """How the connection is protected."""

    IMPLICIT_TLS = "TLS"
    STARTTLS = "STARTTLS"
    NONE = "no TLS"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long anything may take, in seconds."""

    connect: float = 30.0
    """TCP, TLS and the greeting, all addresses of the name together."""
    read: float = 60.0
    """Silence inside an answer; also the time in which each piece of a literal must arrive."""
    command: float = 120.0
    """One command, apart from literals and from waiting for a slow consumer."""
    listing: float = 600.0
    """The listing of a whole folder: some servers open every message for its size."""
    logout: float = 1.5
    slot: float = 30.0
    """Waiting for a connection while all of the account's are lent."""
    idle: float = 240.0
    """A connection nobody borrows is closed after this long, before a firewall forgets it."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the mailbox is. ``tls`` is there unless ``security`` is ``NONE``."""

    host: str
    port: int
    security: Security
    tls: ssl.SSLContext | None
    folder: str
    max_connections: int
    credentials: Credentials | None = None
    """What the settings' own account logs in with; ``None`` where each client brings its own login."""
    patience: Patience = field(default_factory=Patience)

    @property
    def name(self) -> str:
        """For log and findings."""
        return f"{self.host}:{self.port}"


def configured_server(context: Context) -> Server:
    """The server that the settings name. Raises :class:`SettingsMistake` with every mistake of this plugin."""
    settings = context.settings
    mistakes: list[str] = []
    if not settings["BACKEND_IMAP_HOST"]:
        mistakes.append("BACKEND_IMAP_HOST: not set; name the IMAP server or choose another MAILDROP_PLUGIN")
    elif wrong := host_mistake("BACKEND_IMAP", settings["BACKEND_IMAP_HOST"]):
        mistakes.append(wrong)
    by_password = settings["BACKEND_IMAP_CREDENTIALS"] == "password"
    if settings["POP3_LOGIN"] != "backend":
        for variable, what in (("BACKEND_IMAP_USER", "login"), ("BACKEND_IMAP_PASS", "password")):
            if not settings[variable] and (by_password or what == "login"):
                mistakes.append(
                    f"{variable}: not set; it is the {what} at the IMAP server (only POP3_LOGIN=backend does without)"
                )
    for variable in ("BACKEND_IMAP_HOST", "BACKEND_IMAP_USER", "BACKEND_IMAP_PASS", "BACKEND_IMAP_FOLDER"):
        value = settings[variable]
        if value and _CONTROL.search(value.reveal() if isinstance(value, Secret) else value):
            mistakes.append(f"{variable}: holds a control character, such as a line end; remove it")
    security = (
        Security.STARTTLS
        if settings["BACKEND_IMAP_USE_STARTTLS"]
        else Security.IMPLICIT_TLS
        if settings["BACKEND_IMAP_USE_SSL"]
        else Security.NONE
    )
    tls = None
    if security is not Security.NONE:
        try:
            tls = context.tls("BACKEND_IMAP_CA_FILE")
        except SettingsMistake as mistake:
            mistakes.extend(mistake.lines)
    credentials = None
    if settings["BACKEND_IMAP_USER"] and (settings["BACKEND_IMAP_PASS"] or not by_password):
        try:
            credentials = context.credentials("BACKEND_IMAP_CREDENTIALS")
        except SettingsMistake as mistake:
            mistakes.extend(mistake.lines)
    if mistakes:
        raise SettingsMistake(*mistakes)
    return Server(
        host=ascii_domain(settings["BACKEND_IMAP_HOST"]),
        port=settings["BACKEND_IMAP_PORT"],
        security=security,
        tls=tls,
        folder=settings["BACKEND_IMAP_FOLDER"],
        max_connections=settings["BACKEND_IMAP_MAX_CONNECTIONS"],
        credentials=credentials,
    )


def configured_login(context: Context) -> Login | None:
    """The account of the settings; ``None`` if there is none, as ``POP3_LOGIN=backend`` allows.

    What it logs in with, the server's ``credentials`` say at each login.
    """
    settings = context.settings
    user, password = settings["BACKEND_IMAP_USER"], settings["BACKEND_IMAP_PASS"]
    if settings["BACKEND_IMAP_CREDENTIALS"] != "password":
        password = Secret("")
    return Login(user, password) if user and password is not None else None


class Deletion(Enum):
    """``BACKEND_IMAP_DELETE``: what QUIT does with the messages that were marked."""

    EXPUNGE = "expunge"
    TRASH = "trash"
    FLAG = "flag"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Options:
    """``None`` means no limit."""

    deletion: Deletion = Deletion.EXPUNGE
    unique_ids: UniqueIds = DOVECOT
    newest_messages: int | None = None
    newest_days: int | None = None
    read_only: bool = False
    hide_after: int | None = None
    """In how many sessions a message may be unavailable before it is no longer listed."""


def configured_options(context: Context) -> Options:
    """What the settings say; they have no way to be wrong together."""
    settings = context.settings
    return Options(
        deletion=Deletion(settings["BACKEND_IMAP_DELETE"]),
        unique_ids=UNIQUE_IDS[settings["POP3_UIDL_FORMAT"]],
        newest_messages=settings["POP3_NEWEST_MESSAGES"],
        newest_days=settings["POP3_NEWEST_DAYS"],
        read_only=settings["POP3_READ_ONLY"],
        hide_after=settings["POP3_HIDE_UNFETCHABLE_AFTER"],
    )
