"""A spool file belongs to one process at a time; the kernel forgets the lock with its holder, however that ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

__all__ = ("Locked", "SpoolLock")


class Locked(Exception):
    """Somebody else has it; the text says who, as far as that is known."""


class SpoolLock:
    """The lock of one file. What is locked is a file beside it, which stays where it is."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.lock")
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take it at once. Raises :class:`Locked`, or ``OSError``."""
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
        # For the message above only: on a full disk the lock is as good without it.
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except OSError:
            pass
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it back. The file stays: one that is removed could be locked by two, each their own."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
