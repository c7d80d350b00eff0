"""One message on its way into a Maildir: written in ``tmp``, then moved to ``new``. Everything here blocks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .folder import Folder, sync_directory, unique_name

__all__ = ("Incoming",)


class Incoming:
    """Call :meth:`write` any number of times, then :meth:`deliver`, one after the other, in a worker thread each.

    Whoever waits for a thread may give up at any time: it sets ``abandoned`` and has another thread :meth:`discard`.
    The first thread may then still be writing. It finds ``abandoned`` set when it is done, or no file left to rename;
    either way nothing stays behind, without a lock that a hanging disk could keep.
    """

    def __init__(self, folder: Folder) -> None:
        self.abandoned = False
        self.begun = False
        self._folder = folder
        self._written = folder.tmp / unique_name()
        self._delivered: Path | None = None
        self._octets = 0

    def write(self, pieces: Iterable[bytes]) -> None:
        """Append ``pieces``, and have them on disk on return, so that the end of a large message needs no long wait."""
        new = os.O_CREAT | os.O_EXCL if not self.begun else 0
        if new:
            self._folder.prepare()
        descriptor = os.open(self._written, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | new, 0o600)
        self.begun = True
        try:
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    left = left[os.write(descriptor, left) :]
                self._octets += len(piece)
            # Each piece by the descriptor that wrote it: one that is opened later need not hear of a write error.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            if self.abandoned:
                self.discard()

    def deliver(self, pieces: Iterable[bytes]) -> str:
        """Append ``pieces`` and put the message into ``new``; returns the name of its file.

        On return the message and its directory entry are on disk. When it raises, :meth:`discard` is still to be
        called.
        """
        self.write(pieces)
        if self.abandoned:
            return ""
        # The name is given now, and not taken over from `tmp`, so that the order of names is that of delivery.
        self._delivered = self._folder.new / f"{unique_name()},S={self._octets}"
        try:
            self._written.rename(self._delivered)
            sync_directory(self._folder.new)
        finally:
            if self.abandoned:
                self.discard()
        return self._delivered.name

    def discard(self) -> None:
        """Remove what there is of the message, wherever it has got to. Nothing to remove is no mistake."""
        self._written.unlink(missing_ok=True)
        if self._delivered:
            self._delivered.unlink(missing_ok=True)
