"""The ``GRAPH_…`` settings. All mistakes are reported together."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from urllib.parse import urlsplit

from legacy_email_proxy.contracts import Context, Credentials, SettingsMistake

__all__ = ("Options", "configured")


@dataclass(frozen=True, slots=True)
class Options:
    """One mailbox at one Graph, and what the operator wants of it."""

    url: str
    mailbox: str
    tls: ssl.SSLContext
    credentials: Credentials
    max_requests: int
    folder: str
    deletion: Literal["expunge", "trash", "flag", "keep"]
    large: Literal["draft", "smtp", "refuse"]
    save_to_sent: bool
    read_only: bool
    newest_messages: int | None
    newest: timedelta | None
    hide_after: int | None

    @property
    def host(self) -> str:
        """The name of Graph's server."""
        return urlsplit(self.url).hostname or self.url


def configured(context: Context, *further_mistakes: str) -> Options:
    """Read the settings. Raises :class:`SettingsMistake` with every mistake, ``further_mistakes`` included."""
    settings = context.settings
    mistakes = [each for each in further_mistakes if each]
    mailbox: str = settings["GRAPH_MAILBOX"] or ""
    if not mailbox:
        mistakes.append("GRAPH_MAILBOX: not set; give the address of the mailbox, like scanner@firm.example")
    elif "@" not in mailbox or not mailbox.isprintable() or set(" <>,;/") & set(mailbox):
        mistakes.append(f"GRAPH_MAILBOX: {mailbox!r} is no address; write one like scanner@firm.example")
    url: str = settings["GRAPH_URL"].rstrip("/")
    if not _usable(url):
        mistakes.append("GRAPH_URL: must be an address that begins with https:// and has no blanks in it")
    tls: ssl.SSLContext | None = None
    credentials: Credentials | None = None
    try:
        tls = context.tls("GRAPH_CA_FILE")
    except SettingsMistake as mistake:
        mistakes.extend(mistake.lines)
    if settings["GRAPH_CREDENTIALS"] == "password":
        mistakes.append("GRAPH_CREDENTIALS: Microsoft Graph takes no passwords; set oauth2, and see OAUTH2_GRANT")
    else:
        try:
            credentials = context.credentials("GRAPH_CREDENTIALS")
        except SettingsMistake as mistake:
            mistakes.extend(mistake.lines)
    if mistakes or tls is None or credentials is None:
        raise SettingsMistake(*mistakes)
    days: int | None = settings["POP3_NEWEST_DAYS"]
    return Options(
        url=url,
        mailbox=mailbox,
        tls=tls,
        credentials=credentials,
        max_requests=settings["GRAPH_MAX_REQUESTS"],
        folder=settings["GRAPH_FOLDER"],
        deletion=settings["GRAPH_DELETE"],
        large=settings["GRAPH_LARGE"],
        save_to_sent=settings["GRAPH_SAVE_TO_SENT"],
        read_only=settings["POP3_READ_ONLY"],
        newest_messages=settings["POP3_NEWEST_MESSAGES"],
        newest=None if days is None else timedelta(days=days),
        hide_after=settings["POP3_HIDE_UNFETCHABLE_AFTER"],
    )


def _usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    clean = url.isprintable() and " " not in url and not parts.query and not parts.fragment
    return clean and parts.scheme == "https" and bool(parts.hostname) and not parts.username
