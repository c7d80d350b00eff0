"""Tokens on disk: one file per account, written atomically, readable by its owner only, encrypted if a key is set.

Several processes may use it at once (the service, ``check``, ``authorize``), so a process that wants to replace a token
first takes the account's lock and reads the file again.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar, TypeVarTuple
from urllib.parse import quote

import anyio

from legacy_email_proxy.contracts import Overloaded, Secret, StorageFull

from ..files import leave_to_service, sync_directory
from ..slow_calls import SlowCalls
from .records import Damaged, Record, Seal

__all__ = ("LOCK_SECONDS", "Damaged", "Record", "Store")

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

LOCK_SECONDS = 60.0
"""Longer than the request during which another process usually holds the lock."""
_ROOM_OCTETS = 98304
"""More than a record takes: two tokens of 16 KiB, each character escaped, all of it encrypted and in base64."""


class Store:
    """See :class:`~.records.TokenStore`. ``folder`` is called each time that the path is needed."""

    def __init__(self, folder: Callable[[], Path], account: str, key: Secret | None) -> None:
        self._folder = folder
        self._account = account
        self._seal = Seal(account, key)
        self._disk = SlowCalls()
        self._seen: tuple[int, ...] | None = None
        self._record: Record | None = None
        self._part: Path | None = None

    async def load(self) -> Record:
        """See :meth:`TokenStore.load`; the file is read again only if it has changed."""
        try:
            return await self._disk.run(self._load)
        except TimeoutError as error:
            if self._record is None:
                raise _unreadable(error) from None
            return self._record

    async def save(self, record: Record) -> None:
        """See :meth:`TokenStore.save`."""
        await self._on_disk(self._save, record)

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """See :meth:`TokenStore.room`: reserves disk space."""
        self._part = part = await self._on_disk(self._reserve, undo=_removed)
        try:
            yield
        finally:
            self._part = None
            await self._disk.give_back(_removed, part)

    @asynccontextmanager
    async def locked(self, seconds: float | None = None) -> AsyncIterator[None]:
        """See :meth:`TokenStore.locked`."""
        descriptor = await self._on_disk(self._open_lock, undo=os.close)
        try:
            await self._wait_for_lock(descriptor, LOCK_SECONDS if seconds is None else seconds)
            yield
        finally:
            # After calls submitted before: a hanging save still writes when the disk answers again, and until then no
            # other process may replace the token.
            await self._disk.give_back(os.close, descriptor)

    async def _wait_for_lock(self, descriptor: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not await self._on_disk(_locked, descriptor):
            if time.monotonic() > deadline:
                raise Overloaded("another process is busy with this account's token for too long")
            await anyio.sleep(0.02)

    async def _on_disk(
        self, function: Callable[[*Arguments], T], *args: *Arguments, undo: Callable[[T], object] | None = None
    ) -> T:
        try:
            return await self._disk.run(function, *args, undo=undo)
        except TimeoutError as error:
            raise _unwritable(error) from None

    # The methods below run in a thread.

    def _file(self, suffix: str = ".json") -> Path:
        return self._folder() / (quote(self._account, safe="@") + suffix)

    def _open_lock(self) -> int:
        try:
            file = self._file(".lock")
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                leave_to_service(descriptor, file.parent)
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            raise _unwritable(error) from None
        return descriptor

    def _load(self) -> Record:
        try:
            with self._file().open("rb") as file:
                status = os.fstat(file.fileno())
                seen = (status.st_ino, status.st_mtime_ns, status.st_size)
                if seen == self._seen and self._record is not None:
                    return self._record
                octets = file.read()
        except FileNotFoundError:
            self._seen, self._record = None, Record()
            return self._record
        except OSError as error:
            raise _unreadable(error) from None
        self._record = self._seal.record(octets)
        self._seen = seen
        return self._record

    def _reserve(self) -> Path:
        try:
            part = _part_of(self._file())
            try:
                _write(part, bytes(_ROOM_OCTETS))
            except BaseException:
                _removed(part)
                raise
        except OSError as error:
            raise _unwritable(error) from None
        return part

    def _save(self, record: Record) -> None:
        octets = self._seal.octets(record)
        try:
            file = self._file()
            part = self._part or _part_of(file)
            try:
                _write(part, octets)
                part.replace(file)
            finally:
                _removed(part)
            sync_directory(file.parent)
        except OSError as error:
            raise _unwritable(error) from None
        self._seen, self._record = None, record


def _part_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")


def _write(part: Path, octets: bytes) -> None:
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        leave_to_service(descriptor, part.parent)
        file.write(octets)
        # Truncate after writing: overwriting reserved octets needs no new disk space.
        file.truncate()
        file.flush()
        os.fsync(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network file systems have no locks.
        raise _unwritable(error) from None
    return True


def _removed(part: Path) -> None:
    with suppress(OSError):
        part.unlink()


def _unwritable(error: OSError) -> StorageFull:
    return StorageFull(f"the token can not be stored: {error.strerror}", look_at="STATE_DIR")


def _unreadable(error: OSError) -> Damaged:
    return Damaged(f"the stored token can not be read: {error.strerror}", look_at="STATE_DIR")
