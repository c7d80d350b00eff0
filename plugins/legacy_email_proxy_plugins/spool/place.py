"""Where a spool is: what ``SPOOL_URL`` says, and where the operator's command finds the service that has it open."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from legacy_email_proxy.contracts import Context, Secret, SettingsMistake

from .sql_store import LOOK_AT
from .sqlite_store import SQLiteStore
from .store import Store

__all__ = ("Place",)

_SQLITE = "sqlite:///"
_POSTGRESQL = re.compile(r"postgres(?:ql)?://|\s*[a-z_]+\s*=")
"""A URL, or libpq's keywords."""
_USUAL = "spool.db"


@dataclass(frozen=True, slots=True)
class Place:
    """A file, or a database. Two that are equal are one spool."""

    name: str
    """For the log, without a password."""
    state_dir: Path
    path: Path | None = None
    """Of the file."""
    socket: Path | None = None
    """Where the process is reached that has it open; a database has one for everybody, and needs none."""
    url: Secret | None = field(default=None, repr=False)
    """Of the database."""

    @classmethod
    def from_context(cls, context: Context) -> Place:
        """Raises :class:`SettingsMistake` for another kind of URL."""
        folder: Path = context.settings["STATE_DIR"]
        secret: Secret | None = context.settings[LOOK_AT]
        url = None if secret is None else secret.reveal()
        if url is not None and _POSTGRESQL.match(url):
            return cls(_server_name(url), folder, url=secret)
        usual = folder / _USUAL
        path = usual if url is None else _path(url)
        # The socket is not beside the file: not every file system that can hold mail can hold a socket.
        mark = "" if path == usual else f".{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
        return cls(str(path), folder, path=path, socket=folder / f"spool{mark}.sock")

    @property
    def exists(self) -> bool:
        """Whether there is something to open; a file that is missing will be made."""
        return self.path is None or os.path.exists(self.path)  # noqa: PTH110 (False too where we may not look)

    @property
    def obstacle(self) -> str:
        """Why a file that is missing can not be made, as far as that shows without making it."""
        assert self.path is not None  # noqa: S101 (for the type checker)
        folder = next(each for each in self.path.parents if os.path.lexists(each))
        if not folder.is_dir():
            return f"{folder} is no folder"
        return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is not writable"

    def store(self, logger: logging.Logger) -> Store:
        """Its store, not opened."""
        if self.path is not None:
            return SQLiteStore(self.path, logger)
        from .postgres_store import PostgresStore

        assert self.url is not None  # noqa: S101 (for the type checker)
        return PostgresStore(self.url.reveal(), self.state_dir, logger)


def _server_name(url: str) -> str:
    """The driver is only looked for where it is needed."""
    try:
        from .postgres_connection import conninfo, server_name
    except ImportError as error:
        raise SettingsMistake(
            f"{LOOK_AT}: PostgreSQL needs a driver; pip install 'legacy-email-proxy[postgres]' ({error})"
        ) from None
    try:
        return server_name(conninfo(url))
    except ValueError as error:
        raise SettingsMistake(
            f"{LOOK_AT}: {error}; write postgresql://user:password@host/database, and in the user and the password"
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
    # Never relative to wherever the service was started from: it would lose sight of its mail.
    return Path(os.path.normpath(Path("/") / path))
