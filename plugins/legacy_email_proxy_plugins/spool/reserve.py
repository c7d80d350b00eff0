"""Room that is kept back on the disk, because even to remove a message the database has to write first.

Without it a disk that others have filled could hold the spool for ever: what is delivered could not be struck off.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ("RESERVE_OCTETS", "Reserve")

RESERVE_OCTETS = 1024 * 1024
"""Enough to strike off all that can be on its way at once, and so to get at the room that this sets free."""


class Reserve:
    """A file of no content, which can be given up. Everything here blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.kept = False

    def keep(self) -> None:
        """Keep the room back, if there is any."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with suppress(OSError):
            descriptor = os.open(self._path, flags, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_OCTETS)
                self.kept = True
            finally:
                os.close(descriptor)

    def spend(self) -> None:
        """Give it to whoever needs it now."""
        self.kept = False
        with suppress(OSError):
            os.truncate(self._path, 0)
