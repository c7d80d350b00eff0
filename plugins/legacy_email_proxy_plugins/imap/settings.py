"""Settings that only the IMAP backend has: the folder, how long the server may take, and choices about the maildrop.

They are read once, when the plugin is constructed. All mistakes in them are reported together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from legacy_email_proxy.contracts import Context, Login, Secret

from ..backend_settings import IMAP, Backend, instead_of_password, read_backend
from ..tls_trouble import SILENT_SECONDS
from .listing import DOVECOT, UNIQUE_IDS, UniqueIds

__all__ = (
    "Deletion",
    "Options",
    "Patience",
    "Server",
    "configured_options",
    "configured_server",
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long anything may take, in seconds."""

    connect: float = 30.0
    """TCP, TLS and the greeting, all addresses of the name together."""
    read: float = 60.0
    """How long the server may send nothing inside an answer; also how long each piece of a literal may take."""
    command: float = 120.0
    """One command, not counting literals and the time in which the client reads."""
    listing: float = 600.0
    """The listing of a whole folder. It may be slow: some servers open every message to find its size."""
    silent: float = SILENT_SECONDS
    """In a probe, without a greeting."""
    logout: float = 1.5
    slot: float = 30.0
    """How long an exchange waits for a connection while all connections of the account are in use."""
    idle: float = 240.0
    """An unused connection is closed after this long. A firewall would drop it later, and the next use would hang."""


@dataclass(frozen=True, slots=True)
class Server(Backend):
    """The server, and which of its folders POP3 shows."""

    folder: str
    login: Login | None
    """The account in the settings; ``None`` if there is none, which ``POP3_LOGIN=backend`` allows. Its password is used
    only with the credentials plugin ``password``; other credentials plugins give a secret at each login."""
    patience: Patience = field(default_factory=Patience)

    @property
    def name(self) -> str:
        """``host:port``, for the log and for ``check``."""
        return f"{self.host}:{self.port}"


def configured_server(context: Context) -> Server:
    """The server that the settings name. Raises :class:`SettingsMistake` with every mistake of this plugin."""
    settings = context.settings
    user, password = settings["BACKEND_IMAP_USER"], settings["BACKEND_IMAP_PASS"]
    by_password = settings["BACKEND_IMAP_CREDENTIALS"] == "password"
    mistakes = []
    if settings["POP3_LOGIN"] != "backend":
        for variable, what in (("BACKEND_IMAP_USER", "login"), ("BACKEND_IMAP_PASS", "password")):
            if not settings[variable] and (by_password or what == "login"):
                token = instead_of_password(context, IMAP) if what == "password" else ""
                without = token or " (only POP3_LOGIN=backend does without)"
                mistakes.append(f"{variable}: not set; it is the {what} at the IMAP server{without}")
    if not by_password:
        password = Secret("")
    login = Login(user, password) if user and password is not None else None
    return read_backend(context, IMAP, mistakes, partial(Server, folder=settings["BACKEND_IMAP_FOLDER"], login=login))


class Deletion(Enum):
    """``BACKEND_IMAP_DELETE``: what QUIT does with the messages that were marked."""

    EXPUNGE = "expunge"
    TRASH = "trash"
    FLAG = "flag"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Options:
    """What a site chooses about the maildrop. ``None`` means no limit."""

    deletion: Deletion = Deletion.EXPUNGE
    unique_ids: UniqueIds = DOVECOT
    newest_messages: int | None = None
    newest_days: int | None = None
    read_only: bool = False
    hide_after: int | None = None
    """In how many sessions a message may be unavailable before it is no longer listed."""


def configured_options(context: Context) -> Options:
    """The options that the settings give. Any combination of them is valid."""
    settings = context.settings
    return Options(
        deletion=Deletion(settings["BACKEND_IMAP_DELETE"]),
        unique_ids=UNIQUE_IDS[settings["POP3_UIDL_FORMAT"]],
        newest_messages=settings["POP3_NEWEST_MESSAGES"],
        newest_days=settings["POP3_NEWEST_DAYS"],
        read_only=settings["POP3_READ_ONLY"],
        hide_after=settings["POP3_HIDE_UNFETCHABLE_AFTER"],
    )
