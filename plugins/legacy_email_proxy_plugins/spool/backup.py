"""A copy of the whole spool, made while it is in use, and put back from there.

The records alone are not the mail: large bodies are files beside them. A copy of both that was made file by file has
records without bodies and bodies without records. Here the records are copied first, as they are at one moment, while
no body is removed; so each body that they name is still there to be copied. The process that has the spool does it, on
its one connection: SQLite then carries every later change into the copy. A second connection would need locks that
exclusive mode does not give.

SQLite works on the spool's own disk only, and the copy goes to the other folder by ordinary writes, in another thread:
a network disk that hangs delays the backup and nothing else. Everything here blocks.
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
"""In the folder of a backup, whatever the spool is called. The records come last: without them it is not whole."""

_PAGES = 256
"""Copied at a time, while commits wait: a megabyte."""
_COPY_OCTETS = 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Contents:
    messages: int
    bodies: Sequence[tuple[int, str, int]]
    """For each message that has one its number, the body's name, and its octets."""


def snapshot(connection: sqlite3.Connection, path: Path, between: Callable[[], None]) -> None:
    """Write the records to ``path``, as they are at the end of this; ``between`` is called again and again.

    What it changes through ``connection`` comes into the copy: SQLite sees to that for the connection that copies.
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
    """Make a backup in ``folder``, which is made if it isn't there, of a :func:`snapshot` and the bodies it names.

    ``given_up``: nobody waits for it any more, so that bodies are removed, and the snapshot may be another one.

    Raises ``OSError``, ``sqlite3.Error`` or :class:`Failure`; then nothing of it is left there.
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
    """Put a backup in the place of the spool at ``path``, in which nothing may wait.

    Raises ``OSError``, ``sqlite3.Error`` or :class:`Failure`; then the spool is as it was.
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
        # The log of the old file would be taken for one of the new, and what was being tried is in neither.
        for ending in ("-wal", "-shm", "-journal", ".trying"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        coming.rename(path)
        sync_directory(path.parent)
        leave_to_service(path.with_name(f"{path.name}.lock"), path.parent)
    finally:
        lock.release()
    return Copied(found.messages, missing, "" if aside is None else str(aside))


def trouble(error: OSError | sqlite3.Error) -> Failure:
    """In plain words."""
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
    """Returns what is set aside instead, because it is not known to be empty."""
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
        # The record may be damaged, and name anything.
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
