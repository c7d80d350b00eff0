"""The name under which this process leases, and that of the one before it, which is known to be no more.

A name is new at each start, so that two proxies never have the same one, whatever was copied from where. The last one
is kept in ``STATE_DIR``: what it had leased is due at once, and does not wait for the lease to end.
"""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from pathlib import Path

from .sqlite_files import Locked, SpoolLock

__all__ = ("Owner",)


class Owner:
    """``name`` is ours. ``previous`` is ``None`` where nobody can be sure that it has ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = SpoolLock(path)
        self.host = socket.gethostname() or "localhost"
        self.name = f"{self.host}/{secrets.token_hex(16)}"
        self.previous: str | None = None

    def take(self) -> None:
        """Look who was here before, and leave our name. Without a folder to write to, it goes without."""
        with suppress(OSError, Locked):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.take()
            with suppress(FileNotFoundError):
                previous = self._path.read_text(errors="replace")
                # Of another host: this folder was copied from there, where that process may well be running.
                if previous.rpartition("/")[0] == self.host:
                    self.previous = previous
            self._path.write_text(self.name)

    def release(self) -> None:
        """Say that we are no more."""
        self._lock.release()
