"""The spool's SQLite file: its tables, how it is opened, and how an unreadable file is renamed and kept."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from legacy_email_proxy.contracts import Failure, StorageFull

from ..files import sync_directory
from .sql_records import BATCH
from .sqlite_files import is_body
from .store import TooNewError

__all__ = ("VERSION", "aside_name", "connect", "is_damage", "set_aside", "set_aside_remains", "storage_failure")

VERSION = 1
"""Version of the tables, in the file as ``user_version``."""

_TABLES = """
CREATE TABLE message (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    account TEXT NOT NULL,
    state TEXT NOT NULL,
    received REAL NOT NULL,
    since REAL NOT NULL,
    due REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    unfinished INTEGER NOT NULL DEFAULT 0,
    warned INTEGER NOT NULL DEFAULT 0,
    notice INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    client TEXT NOT NULL,
    reverse_path TEXT NOT NULL,
    parameters TEXT NOT NULL,
    octets INTEGER NOT NULL,
    body TEXT
);
CREATE INDEX message_due ON message (account, due, number) WHERE state = 'queued';
CREATE TABLE recipient (
    message INTEGER NOT NULL,
    number INTEGER NOT NULL,
    forward_path TEXT NOT NULL,
    parameters TEXT NOT NULL,
    fate TEXT NOT NULL DEFAULT 'waiting',
    verdict TEXT,
    notice INTEGER,
    PRIMARY KEY (message, number)
) WITHOUT ROWID;
CREATE INDEX recipient_notice ON recipient (notice) WHERE notice IS NOT NULL;
CREATE TABLE content (message INTEGER PRIMARY KEY, octets BLOB NOT NULL);
"""

_WAL_PAGES = 4000
"""The write-ahead log grows to so many pages (16 MiB) before a checkpoint, so that checkpoints are rare."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, or create it. Raises ``OSError``, ``sqlite3.Error`` or :class:`TooNewError`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Before SQLite opens it: to close any descriptor of a file releases all locks of the process on that file.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    try:
        # Exclusive: nobody else can open the file, not even to read, and SQLite needs no shared memory.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        # Every commit is synced before it returns; NORMAL would lose the last ones when the power fails.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise TooNewError(f"it has version {version}, and this program knows {VERSION}")
        if version == 0:
            connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
            sync_directory(path.parent)
        connection.executescript(BATCH)
    except BaseException:
        connection.close()
        raise
    return connection


def storage_failure(error: BaseException, look_at: str) -> BaseException:
    """What an error of SQLite or of the system means for the device."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        kind = StorageFull if code == sqlite3.SQLITE_FULL else Failure
        return kind(f"the spool's database: {error}", look_at=look_at)
    if isinstance(error, OSError):
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else Failure
        return kind(f"the spool: {error.strerror}: {error.filename or 'its file'}", look_at=look_at)
    return error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the error means that the file is no database, is damaged, or has other tables."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def set_aside_remains(path: Path) -> Path | None:
    """If the database file is missing, rename the files that belong to it, and return the new name.

    Otherwise they would be lost: SQLite deletes a log without a database, and the spool removes bodies without records.
    """
    if path.exists() and path.stat().st_size:
        return None
    bodies = path.with_name(f"{path.name}.bodies")
    log = path.with_name(f"{path.name}-wal")
    if (log.exists() and log.stat().st_size) or (bodies.is_dir() and any(map(is_body, bodies.iterdir()))):
        return set_aside(path, "without-records")
    return None


def aside_name(path: Path, why: str) -> Path:
    """A new name beside ``path``, for a file that is kept but not used any more."""
    return path.with_name(f"{path.name}.{why}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}")


def set_aside(path: Path, why: str) -> Path:
    """Rename all files of a spool, so that a new one can be created. Returns the new name of the database file."""
    suffix = aside_name(path, why).name.removeprefix(path.name)
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal", f"{path.name}.bodies"):
        with suppress(FileNotFoundError):
            path.with_name(name).rename(path.with_name(name + suffix))
    sync_directory(path.parent)
    return path.with_name(path.name + suffix)
