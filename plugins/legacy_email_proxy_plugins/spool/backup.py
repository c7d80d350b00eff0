"""Backup and restore of a SQLite spool. A backup is made while the spool is in use.

A spool is a database of records and a folder of large bodies. A copy of all files, one after the other, would have
records without bodies and bodies without records. So the records are copied first, in the state of one moment, and no
body is removed until all bodies of these records are copied.

The process that has the spool open makes the copy, with its own connection: SQLite then applies later changes to the
copy too. A second connection is impossible, because the database is in exclusive mode.

SQLite makes this copy on the spool's own disk. Another thread then copies it to the folder of the backup. If that is a
network disk that hangs, only the backup waits. Everything here blocks.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from legacy_email_proxy.contracts import Failure

from ..files import leave_to_service, sync_directory
from .schema import VERSION, connect, is_damage, set_aside, set_aside_remains
from .sqlite_files import Locked, SpoolLock
from .store import Copied

__all__ = ("copy_out", "restore", "snapshot", "trouble")

_RECORDS, _BODIES = "spool.db", "spool.db.bodies"
"""Names in the folder of a backup. The records are written last: a folder without them is not complete."""

_PAGES = 256
"""Pages (one MiB) that are copied at a time. Commits wait meanwhile."""
_COPY_OCTETS = 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Contents:
    messages: int
    bodies: Sequence[tuple[int, str, int]]
    """Number, name of the body, and octets of each message with a body."""


def snapshot(connection: sqlite3.Connection, path: Path, between: Callable[[], None]) -> None:
    """Copy the records to ``path``, in the state at the end of this call. ``between`` is called again and again.

    Changes that ``between`` makes through ``connection`` are in the copy too: SQLite applies them.
    """
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode = OFF")
        copy.execute("PRAGMA synchronous = OFF")
        connection.backup(copy, pages=_PAGES, progress=lambda *_: between())
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")  # one file


def copy_out(records: Path, bodies: Path, folder: Path, given_up: threading.Event) -> Copied:
    """Make a backup in ``folder`` from a :func:`snapshot` and the bodies that it names. Creates the folder if needed.

    ``given_up`` is set when nobody waits any more. From then on bodies are removed again, and the snapshot may be
    overwritten, so the backup is not completed.

    Raises ``OSError``, ``sqlite3.Error`` or :class:`Failure`. Then it has removed what it had written.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    if any(folder.iterdir()):
        raise Failure(f"{folder} is not empty; name a folder that is, or does not exist yet")
    try:
        found = _contents(records)
        missing = _copy_bodies(bodies, folder / _BODIES, found)
        _copy(records, folder / f"{_RECORDS}.partial")
        if given_up.is_set():
            raise Failure("the backup was given up")
        (folder / f"{_RECORDS}.partial").rename(folder / _RECORDS)
        sync_directory(folder)
    except BaseException:
        shutil.rmtree(folder / _BODIES, ignore_errors=True)
        (folder / f"{_RECORDS}.partial").unlink(missing_ok=True)
        raise
    return Copied(found.messages, missing)


def restore(folder: Path, path: Path) -> Copied:
    """Replace the spool at ``path`` by a backup. There must be no messages in the spool.

    Raises ``OSError``, ``sqlite3.Error`` or :class:`Failure`. Then the spool is unchanged.
    """
    records = folder / _RECORDS
    if not records.is_file():
        raise Failure(f"{folder} holds no backup of a spool: there is no {_RECORDS} in it")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = SpoolLock(path)
    try:
        lock.take()
    except Locked as locked:
        raise Failure(f"{locked} has the spool {str(path)!r} open; stop it first") from None
    try:
        found = _contents(records)
        aside = _check_empty(path)
        bodies = path.with_name(f"{path.name}.bodies")
        missing = _copy_bodies(folder / _BODIES, bodies, found)
        coming = path.with_name(f"{path.name}.restored")
        _copy(records, coming)
        # SQLite would apply the old log to the new file. The in-flight journal has numbers of the old spool.
        for ending in ("-wal", "-shm", "-journal", ".trying"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        coming.rename(path)
        sync_directory(path.parent)
        leave_to_service(path.with_name(f"{path.name}.lock"), path.parent)
    finally:
        lock.release()
    return Copied(found.messages, missing, "" if aside is None else str(aside))


def trouble(error: OSError | sqlite3.Error) -> Failure:
    """The failure to show for an error."""
    if isinstance(error, OSError):
        return Failure(f"{error.strerror}: {error.filename or 'a file'}")
    return Failure(f"the copy of the records: {error}")


def _contents(records: Path) -> _Contents:
    with closing(sqlite3.connect(f"{records.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as copy:
        (version,) = copy.execute("PRAGMA user_version").fetchone()
        if not 0 < version <= VERSION:
            raise Failure(f"{records} has version {version}, and this program knows {VERSION}")
        (messages,) = copy.execute("SELECT count(*) FROM message").fetchone()
        bodies = copy.execute("SELECT number, body, octets FROM message WHERE body IS NOT NULL ORDER BY number")
        return _Contents(messages, bodies.fetchall())


def _check_empty(path: Path) -> Path | None:
    """Check that the spool has no messages. An unreadable one is renamed and kept; returns its new name."""
    aside = set_aside_remains(path)
    try:
        with closing(connect(path)) as connection:
            (messages,) = connection.execute("SELECT count(*) FROM message").fetchone()
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        return set_aside(path, "unreadable")
    if messages:
        raise Failure(
            f"there are {messages} messages in the spool {str(path)!r}; have them delivered, drop them, or rename"
            f" {path.name!r} and {path.name + '.bodies'!r} first"
        )
    return aside


def _copy_bodies(source: Path, target: Path, found: _Contents) -> list[int]:
    with suppress(FileExistsError):
        target.mkdir(mode=0o700)
        leave_to_service(target, target.parent)
    missing = []
    for number, name, octets in found.bodies:
        # A damaged record may have any text here, so only the last part of the path is used.
        body = source / Path(str(name)).name
        if body.is_file() and body.stat().st_size == octets:
            _copy(body, target / body.name)
        else:
            missing.append(number)
    sync_directory(target)
    return missing


def _copy(source: Path, target: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with source.open("rb") as old, open(os.open(target, flags, 0o600), "wb") as new:  # noqa: PTH123 (by its number)
        shutil.copyfileobj(old, new, _COPY_OCTETS)
        new.flush()
        os.fsync(new.fileno())
    leave_to_service(target, target.parent)
