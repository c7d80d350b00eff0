"""The file ``history.db``: its tables, how it is opened, and how it stays small.

Messages, refusals and POP3 sessions are rows of one table, because they are read as one story: in the order of time,
by device, by account. Each index serves one question of the commands ``history`` and ``devices`` or of a graph, so that
it is answered at once among a million rows.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

__all__ = (
    *("FILE_NAME", "MAX_OCTETS", "MOST", "TooNew", "is_damage"),
    *("open_to_read", "open_to_write", "set_aside", "trim"),
)

FILE_NAME = "history.db"

VERSION = 1
"""Of the tables, kept as ``user_version``."""

MAX_OCTETS = 256 * 1024 * 1024
"""How much the file may hold; over it the oldest entries go, however young they are."""

MOST = {"refusal": 100_000, "pop3": 300_000, "devices": 10_000}
"""Rows of each kind, so that a port scanner can not push the messages out. Messages may have the rest of the file."""

_STEP = 500
"""So many rows are removed in one transaction: the writer is back at its queue after some milliseconds."""

_KIND = "kind = ? AND kind != 'message'"
"""Said twice because of the partial index: SQLite does not see that the value is another one."""

_TABLES = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    changed INTEGER NOT NULL,  -- grows with each change of any entry: who follows asks for what is greater
    kind TEXT NOT NULL,        -- message, refusal, pop3
    leg TEXT NOT NULL,         -- smtp, pop3
    time REAL NOT NULL,
    state TEXT NOT NULL,       -- of a message: where it is; of a refusal: what was refused; of a session: how it ended
    trouble INTEGER NOT NULL,  -- 1: somebody may have to do something
    client TEXT NOT NULL,
    session TEXT NOT NULL,
    account TEXT NOT NULL,
    sender TEXT,               -- NULL where there was none yet, empty for the null sender
    octets INTEGER,
    command TEXT,
    login TEXT,
    reply TEXT,                -- what the device read
    cause TEXT,                -- what the backend said, or what went wrong
    advice TEXT,
    backend TEXT,              -- the backend's receipt
    queue_id TEXT,             -- the message's number in the spool
    settled REAL,              -- when the last recipient had it, or was given up
    retrieved INTEGER,
    deleted INTEGER,
    times INTEGER NOT NULL DEFAULT 1  -- a refusal that came so often within a moment
);
CREATE INDEX entries_time ON entries (time);
CREATE INDEX entries_client ON entries (client, time);
CREATE INDEX entries_account ON entries (account, time) WHERE account != '';
CREATE INDEX entries_sender ON entries (sender COLLATE NOCASE, time) WHERE sender IS NOT NULL;
CREATE INDEX entries_trouble ON entries (time) WHERE trouble;
CREATE INDEX entries_kind ON entries (kind, time) WHERE kind != 'message';
CREATE INDEX entries_changed ON entries (changed);
CREATE INDEX entries_queue_id ON entries (queue_id) WHERE queue_id IS NOT NULL;
CREATE TABLE recipients (
    entry INTEGER NOT NULL,
    address TEXT NOT NULL,
    began REAL NOT NULL,       -- the entry's time, so that the index below has the order of time
    state TEXT NOT NULL,       -- relayed, waiting, late, delivered, refused, failed
    said TEXT NOT NULL,        -- the last word on this recipient
    time REAL NOT NULL,        -- when that was
    PRIMARY KEY (entry, address)
) WITHOUT ROWID;
CREATE INDEX recipients_address ON recipients (address COLLATE NOCASE, began);
CREATE TABLE devices (
    client TEXT PRIMARY KEY,
    helo TEXT NOT NULL,
    first REAL NOT NULL,
    last REAL NOT NULL,
    success REAL,              -- the last time that it sent or read mail
    trouble REAL,              -- the last time that something was refused or failed
    trouble_text TEXT NOT NULL,
    advice TEXT NOT NULL,
    messages INTEGER NOT NULL,
    octets INTEGER NOT NULL,
    refusals INTEGER NOT NULL,
    pop3_sessions INTEGER NOT NULL,
    retrieved INTEGER NOT NULL,
    deleted INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX devices_last ON devices (success IS NOT NULL, last);
CREATE TABLE hours (
    hour INTEGER NOT NULL,     -- its begin, in seconds since 1970
    what TEXT NOT NULL,        -- relayed, spooled, delivered, refused, failed, refusal, pop3, retrieved, deleted
    times INTEGER NOT NULL,
    octets INTEGER NOT NULL,
    PRIMARY KEY (hour, what)
) WITHOUT ROWID;
"""

_SAMPLES = """
CREATE TABLE IF NOT EXISTS samples (
    hour INTEGER NOT NULL,     -- its begin, in seconds since 1970
    what TEXT NOT NULL,        -- spool, smtp_seconds, pop3_seconds
    times INTEGER NOT NULL,    -- so often it was measured
    total REAL NOT NULL,
    highest REAL NOT NULL,
    PRIMARY KEY (hour, what)
) WITHOUT ROWID
"""
"""Apart from the others, because files that are older do not have it. Those who read it ask first."""


class TooNew(Exception):
    """A newer version of the proxy has made the file."""

    def __init__(self, version: int) -> None:
        super().__init__(f"it was made by a newer version of the proxy (tables {version}, known are {VERSION})")


def open_to_write(path: Path) -> sqlite3.Connection:
    """The file, made where it is missing. Raises ``OSError``, ``sqlite3.Error`` or :class:`TooNew`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite would make it with the process's usual mode; it gives its own two further files the mode of this one.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # A power cut may cost the last seconds, and never the file.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("BEGIN IMMEDIATE")
        if _version(connection) == 0:
            for statement in _TABLES.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute(_SAMPLES)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """The file, which is not changed. Raises ``FileNotFoundError``, ``sqlite3.Error`` or :class:`TooNew`."""
    path.stat()
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5, isolation_level=None)
    try:
        if _version(connection) == 0:
            raise FileNotFoundError(path)  # The service is just making it.
    except BaseException:
        connection.close()
        raise
    connection.row_factory = sqlite3.Row
    return connection


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise TooNew(version)
    return version


def is_damage(error: BaseException) -> bool:
    """Whether the file is no database, or one that is broken: it will never work again."""
    return isinstance(error, sqlite3.DatabaseError) and error.sqlite_errorcode & 0xFF in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )


def set_aside(path: Path) -> Path:
    """Rename a damaged file, over the last one that was. Raises ``OSError``."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()
    return aside


def trim(connection: sqlite3.Connection, oldest: float, max_octets: int = MAX_OCTETS) -> bool:
    """Remove some rows that are older than ``oldest`` or one too many; whether there may be more of them."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        removed = _remove(connection, "time < ?", (oldest,), _STEP)
        for kind in ("refusal", "pop3"):
            (rows,) = connection.execute(f"SELECT count(*) FROM entries WHERE {_KIND}", (kind,)).fetchone()  # noqa: S608
            if rows > MOST[kind]:
                removed += _remove(connection, _KIND, (kind,), min(rows - MOST[kind], _STEP))
        if _octets(connection) > max_octets:
            removed += _remove(connection, "TRUE", (), _STEP)
        (devices,) = connection.execute("SELECT count(*) FROM devices").fetchone()
        connection.execute("DELETE FROM devices WHERE last < ?", (oldest,))
        if devices > MOST["devices"]:
            # Those that never sent or read anything go first.
            connection.execute(
                "DELETE FROM devices WHERE client IN (SELECT client FROM devices"
                " ORDER BY success IS NOT NULL, last LIMIT ?)",
                (devices - MOST["devices"],),
            )
        for table in ("hours", "samples"):
            connection.execute(f"DELETE FROM {table} WHERE hour < ?", (oldest - 3600,))  # noqa: S608
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    return removed >= _STEP


def _remove(connection: sqlite3.Connection, which: str, values: tuple[object, ...], limit: int) -> int:
    """Remove the oldest entries of which ``which`` is true; how many they were."""
    found = connection.execute(
        f"SELECT id FROM entries WHERE {which} ORDER BY time LIMIT {limit}",  # noqa: S608
        values,
    ).fetchall()
    connection.executemany("DELETE FROM recipients WHERE entry = ?", found)
    connection.executemany("DELETE FROM entries WHERE id = ?", found)
    return len(found)


def _octets(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
