"""The files beside the spool's database: large bodies, the in-flight journal, the reserved space, and the lock.

A body that is too large for a database row is a file of its own. It is written and synced before its record is. A body
file without a record was left by a crash: its device never read 250, or its message was delivered. So it is removed.

Everything here blocks, except :meth:`BodyFiles.read` and the journal.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import secrets
import struct
import threading
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..files import leave_to_service, sync_directory
from ..threads import Threads
from .store import Unreadable

__all__ = (
    "RESERVED_OCTETS",
    "BodyFile",
    "BodyFiles",
    "Journal",
    "Locked",
    "ReservedSpace",
    "SpoolLock",
    "is_body",
)

_NAME = re.compile(r"[0-9a-f]{32}")
_MARK = ".records"
"""This file has a random text that is also in the database. It shows whether bodies and records belong together."""
_BLOCK_OCTETS = 1024 * 1024

RESERVED_OCTETS = 1024 * 1024
"""Enough for the database to remove all messages that can be in delivery at once, which then frees more space."""

_SLOTS = 512
_SLOT = struct.Struct("<q")


def is_body(path: Path) -> bool:
    """Whether the file has the name of a body."""
    return _NAME.fullmatch(path.name) is not None


class BodyFile:
    """A body file that is being written. One thread at a time works on it, also if nobody waits for that thread."""

    def __init__(self, folder: Path) -> None:
        self.name = secrets.token_hex(16)
        self._path = folder / self.name
        self._descriptor: int | None = None
        self._octets = 0
        self._turn = threading.Lock()
        self.discarded = False

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append ``pieces``."""
        with self._alone():
            if self.discarded:
                return
            if self._descriptor is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                self._descriptor = os.open(self._path, flags, 0o600)
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    left = left[os.write(self._descriptor, left) :]
            # The kernel begins to write these octets now. So the sync, which the device waits for, takes less time.
            octets = sum(map(len, pieces))
            with suppress(OSError):
                os.posix_fadvise(self._descriptor, self._octets, octets, os.POSIX_FADV_DONTNEED)
            self._octets += octets

    def finish(self, pieces: Sequence[bytes]) -> None:
        """Append ``pieces``. On return the file and its directory entry are on disk."""
        self.write(pieces)
        with self._alone():
            if self._descriptor is None:
                return
            try:
                os.fsync(self._descriptor)
            finally:
                os.close(self._descriptor)
                self._descriptor = None
            sync_directory(self._path.parent)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with self._turn:
                yield
        finally:
            if self.discarded:
                self.discard()

    def discard(self) -> None:
        """Remove the file. If a thread is writing it, that thread removes it at its end, and this does not wait."""
        self.discarded = True
        if self._turn.acquire(blocking=False):
            try:
                if self._descriptor is not None:
                    os.close(self._descriptor)
                    self._descriptor = None
                with suppress(OSError):  # the next start removes it
                    self._path.unlink()
            finally:
                self._turn.release()


class BodyFiles:
    """The folder with the body files."""

    write_octets = _BLOCK_OCTETS

    def __init__(self, folder: Path, threads: Threads) -> None:
        self.folder = folder
        self._threads = threads
        self._turn = threading.Lock()
        self._keeping = False
        self._kept: set[str] = set()

    def prepare(self) -> None:
        """Create the folder."""
        with suppress(FileExistsError):
            self.folder.mkdir(mode=0o700)
            sync_directory(self.folder.parent)

    def create(self) -> BodyFile:
        """A new body. The file does not exist yet."""
        return BodyFile(self.folder)

    async def read(self, name: str, octets: int) -> AsyncGenerator[bytes, None]:
        """The content of a file. Raises :class:`Unreadable` when it does not have exactly ``octets`` octets."""
        if not _NAME.fullmatch(name):
            raise Unreadable(f"{name!a} is no name of a body")
        path = self.folder / name
        try:
            file = await self._threads.run(path.open, "rb", 0)
        except Exception as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise Unreadable(f"its body {path} is missing") from None
            raise
        left = octets
        try:
            size = await self._threads.run(_size, file.fileno())
            if size != octets:
                raise Unreadable(f"its body {path} has {size} octets instead of {octets}")
            while left:
                piece = await self._threads.run(file.read, min(left, _BLOCK_OCTETS))
                if not piece:
                    raise Unreadable(f"its body {path} ends {left} octets early")
                left -= len(piece)
                yield piece
        finally:
            file.close()

    def remove(self, names: Collection[str]) -> None:
        """Remove the files of messages that are gone. One that can not be removed now is removed at the next start."""
        with self._turn:
            if self._keeping:
                self._kept.update(names)
                return
        for name in names:
            if _NAME.fullmatch(name):
                with suppress(OSError):
                    (self.folder / name).unlink()

    def keep(self) -> None:
        """Remove no file until :meth:`let_go`, because a backup copies them."""
        with self._turn:
            self._keeping = True

    def let_go(self) -> None:
        """Remove the files that :meth:`remove` was called for meanwhile."""
        with self._turn:
            self._keeping, kept, self._kept = False, self._kept, set()
        self.remove(kept)

    @property
    def mark(self) -> str:
        """What :meth:`set_mark` wrote last. Empty if there is no such file."""
        with suppress(OSError):
            return (self.folder / _MARK).read_text(errors="replace")
        return ""

    def set_mark(self, mark: str) -> None:
        """Write the text that shows to which records these bodies belong."""
        with suppress(OSError):  # then the next start keeps bodies that it could remove
            (self.folder / _MARK).write_text(mark)
            leave_to_service(self.folder / _MARK, self.folder)

    def sweep(self, known: Collection[str], aside: Path | None) -> tuple[int, list[str]]:
        """Remove the bodies that no record names, or move them to ``aside``. Returns their count, and the names of
        files that are not ours.
        """
        swept, foreign = 0, []
        for entry in os.scandir(self.folder):
            if entry.name == _MARK:
                continue
            if not _NAME.fullmatch(entry.name):
                foreign.append(entry.name)
            elif entry.name not in known:
                if aside is None:
                    (self.folder / entry.name).unlink(missing_ok=True)
                else:
                    aside.mkdir(mode=0o700, exist_ok=True)
                    (self.folder / entry.name).rename(aside / entry.name)
                swept += 1
        return swept, sorted(foreign)


def _size(descriptor: int) -> int:
    return os.fstat(descriptor).st_size


class Journal:
    """Numbers of messages that the next start has to know about if this process ends suddenly.

    A positive number is a message that is being tried: it may be the one that made the process crash. A negative number
    is a message that must be removed, because a device was told that it was not stored.

    It is a small file that is mapped into memory, so writing a number costs no system call. The kernel keeps the file
    when the process dies. A power cut may lose the last numbers. When all slots are in use, further numbers are not
    written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._map: mmap.mmap | None = None
        self._slots: dict[int, int] = {}
        self._free = list(range(_SLOTS))

    def open(self) -> Sequence[int]:
        """Returns the numbers that the last process left behind. They stay in the file until :meth:`remove`."""
        octets = _SLOTS * _SLOT.size
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # All blocks are allocated now: on a full disk, to write into a hole of a mapped file kills the process.
            os.posix_fallocate(descriptor, 0, octets)
            self._map = mmap.mmap(descriptor, octets)
        finally:
            os.close(descriptor)
        found = [number for (number,) in _SLOT.iter_unpack(self._map[:octets])]
        self._slots = {number: slot for slot, number in enumerate(found) if number}
        self._free = [slot for slot, number in enumerate(found) if not number]
        return list(self._slots)

    def add(self, number: int) -> None:
        """Write the number down."""
        if self._map is not None and self._free and number not in self._slots:
            slot = self._slots[number] = self._free.pop()
            _SLOT.pack_into(self._map, slot * _SLOT.size, number)

    def remove(self, number: int) -> None:
        """Remove the number; what became of the message is on disk by now."""
        slot = self._slots.pop(number, None)
        if self._map is not None and slot is not None:
            _SLOT.pack_into(self._map, slot * _SLOT.size, 0)
            self._free.append(slot)

    def close(self) -> None:
        """Close the file."""
        if self._map is not None:
            self._map.close()
            self._map = None


class ReservedSpace:
    """Disk space that is kept free for the database: a file without content, which is cut off when space is needed.

    The database has to write even to remove a message. If others have filled the disk, it could not record what was
    delivered, and those messages would be delivered again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.allocated = False

    def allocate(self) -> None:
        """Reserve the space, if the disk has it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with suppress(OSError):
            descriptor = os.open(self._path, flags, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVED_OCTETS)
                self.allocated = True
            finally:
                os.close(descriptor)

    def release(self) -> None:
        """Give the space back to the file system."""
        self.allocated = False
        with suppress(OSError):
            os.truncate(self._path, 0)


class Locked(Exception):
    """Another process has the lock. The text says which one, if known."""


class SpoolLock:
    """A lock that makes a file belong to one process. It is on a second file beside it, which is never removed. The
    kernel releases the lock when the process ends, also after a crash.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.lock")
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock, without waiting. Raises :class:`Locked`, or ``OSError``."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise Locked(f"process {holder}" if holder else "another process") from None
        except BaseException:
            os.close(descriptor)
            raise
        # The number is only for the message above. On a full disk the lock works without it.
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except OSError:
            pass
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock. The file stays: if it were removed, two processes could each lock a different file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
