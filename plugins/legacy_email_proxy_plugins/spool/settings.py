"""The spool's settings, checked: how messages are kept and tried (``Options``), and where the spool is (``Place``).

The operator's command uses ``Place`` too, to find the socket of the service that has the spool open.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from legacy_email_proxy.contracts import Context, Secret, SettingsMistake, in_nameless_volume

from .sqlite_store import SQLiteStore
from .store import LOOK_AT

if TYPE_CHECKING:
    from .postgres_store import PostgresStore

__all__ = ("Options", "Place", "database_name")

_SQLITE = "sqlite:///"
_POSTGRESQL = re.compile(r"postgres(?:ql)?://|\s*[a-z_]+\s*=")
"""A URL, or libpq's keywords."""
_USUAL = "spool.db"


@dataclass(frozen=True, slots=True)
class Options:
    """See the table of settings. ``notify_sender`` and ``postmaster`` say who gets notifications.

    ``notify_from`` is the reverse-path of notifications for a backend that refuses the null reverse-path.
    """

    retry_seconds: Sequence[float]
    give_up_seconds: float
    warn_seconds: float
    max_octets: int
    message_octets: int
    poison_tries: int
    connections: int
    notify_sender: bool
    notify_from: str | None
    postmaster: str | None
    daemon: str | None

    @classmethod
    def from_context(cls, context: Context) -> Options:
        """Read the settings. Raises :class:`SettingsMistake` with all mistakes."""
        settings, mistakes = context.settings, []
        retry: list[float] = []
        with suppress(ValueError):
            retry = [float(item) for item in settings["SPOOL_RETRY_SECONDS"]]
        if not retry or not all(1 <= seconds <= 86400 * 30 for seconds in retry):
            mistakes.append("SPOOL_RETRY_SECONDS: numbers of seconds from 1 on, separated by commas, are needed")
        notify, postmaster = settings["SPOOL_NOTIFY"], settings["SPOOL_POSTMASTER"]
        for variable in ("SPOOL_POSTMASTER", "SPOOL_NOTIFY_SENDER"):
            address = settings[variable]
            if address is not None and not ("@" in address and address.isprintable() and " " not in address):
                mistakes.append(f"{variable}: that is no address; write one like postmaster@firm.example")
        if notify == "postmaster" and postmaster is None:
            mistakes.append("SPOOL_POSTMASTER: not set, but SPOOL_NOTIFY says that only the postmaster is told")
        if settings["SPOOL_RELAY"].rpartition(":")[2] == "spool":
            mistakes.append("SPOOL_RELAY: the spool can not hand on to itself; name another relay, like smtps")
        if mistakes:
            raise SettingsMistake(*mistakes)
        user = settings["BACKEND_SMTP_USER"]
        own = settings["SMTP_SENDER"] or (user if user and "@" in user else None)
        return cls(
            retry_seconds=retry,
            give_up_seconds=settings["SPOOL_GIVE_UP_SECONDS"],
            warn_seconds=settings["SPOOL_WARN_SECONDS"],
            max_octets=settings["SPOOL_MAX_OCTETS"],
            message_octets=settings["SMTP_MAX_OCTETS"],
            poison_tries=settings["SPOOL_POISON_TRIES"],
            connections=settings["BACKEND_SMTP_MAX_CONNECTIONS"],
            notify_sender=notify != "postmaster",
            notify_from=settings["SPOOL_NOTIFY_SENDER"] or own,
            postmaster=None if notify == "sender" else postmaster,
            # Many providers only accept the account's own address in From.
            daemon=settings["SMTP_SENDER"] or postmaster or own,
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a spool is: a file or a database. Two equal places are the same spool."""

    name: str
    """For the log, without a password."""
    state_dir: Path
    path: Path | None = None
    """Path of the SQLite file."""
    url: Secret | None = field(default=None, repr=False)
    """URL of the database."""
    look_at: str = LOOK_AT
    """The setting that says where it is."""

    @classmethod
    def from_context(cls, context: Context) -> Place:
        """Raises :class:`SettingsMistake` for another kind of URL."""
        return cls.of(context.settings[LOOK_AT], context.settings["STATE_DIR"])

    @classmethod
    def of(cls, secret: Secret | None, folder: Path) -> Place:
        """The place of that URL, or the usual one in the state folder. Raises as above."""
        url = None if secret is None else secret.reveal()
        if url is not None and _POSTGRESQL.match(url):
            return cls(database_name(url), folder, url=secret)
        path = folder / _USUAL if url is None else _path(url)
        return cls(str(path), folder, path=path, look_at="STATE_DIR" if url is None else LOOK_AT)

    @property
    def exists(self) -> bool:
        """Whether there is something to open. A missing file is no mistake: it will be created."""
        return self.path is None or os.path.exists(self.path)  # noqa: PTH110 (also False without permission)

    @property
    def nameless(self) -> bool:
        """Whether it is in a volume that is removed with the container, and all mail in it."""
        return self.path is not None and in_nameless_volume(self.path.parent)

    def store(self, logger: logging.Logger) -> SQLiteStore | PostgresStore:
        """Its store, not open yet."""
        if self.path is not None:
            return SQLiteStore(self.path, logger, self.look_at)
        from .postgres_store import PostgresStore

        assert self.url is not None  # noqa: S101 (for the type checker)
        return PostgresStore(self.url.reveal(), self.state_dir, logger)


def database_name(url: str, variable: str = LOOK_AT) -> str:
    """A database's name for the log. Raises :class:`SettingsMistake` about ``variable`` for a URL that is none.

    The driver is an optional package, so it is imported only here.
    """
    try:
        from .postgres_connection import conninfo, server_name
    except ImportError as error:
        raise SettingsMistake(
            f"{variable}: PostgreSQL needs a driver; pip install 'legacy-email-proxy[postgres]' ({error})"
        ) from None
    try:
        return server_name(conninfo(url))
    except ValueError as error:
        raise SettingsMistake(
            f"{variable}: {error}; write postgresql://user:password@host/database, and in the user and the password"
            " %40 for @, %3A for :, %2F for /, %23 for #, %3F for ? and %25 for %; or libpq's host=…"
            " user=… password='…' dbname=…; and no other options than libpq knows"
        ) from None


def _path(url: str) -> Path:
    path = url.removeprefix(_SQLITE).lstrip("/")
    if not url.startswith(_SQLITE) or not path:
        raise SettingsMistake(
            f"{LOOK_AT}: write {_SQLITE} and the path of a file, like {_SQLITE}srv/mail/spool.db,"
            " or postgresql://user:password@host/database, or host=… user=… password=… dbname=…"
        )
    # Never relative to the current folder: started from another folder, the service would not find its mail.
    return Path(os.path.normpath(Path("/") / path))
