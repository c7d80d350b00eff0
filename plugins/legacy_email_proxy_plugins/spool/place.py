"""Where a spool is: what ``SPOOL_URL`` says, and where the operator's command finds the service that has it open."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from legacy_email_proxy.contracts import Context, SettingsMistake

from .sqlite import SQLiteStore
from .store import Store

__all__ = ("Place",)

_SCHEME = "sqlite:///"
_USUAL = "spool.db"


@dataclass(frozen=True, slots=True)
class Place:
    """A file. Two that are equal are one spool."""

    path: Path
    socket: Path

    @classmethod
    def from_context(cls, context: Context) -> Place:
        """Raises :class:`SettingsMistake` for another kind of URL."""
        folder: Path = context.settings["STATE_DIR"]
        url: str | None = context.settings["SPOOL_URL"]
        usual = folder / _USUAL
        path = usual if url is None else _path(url)
        # The socket is not beside the file: not every file system that can hold mail can hold a socket.
        mark = "" if path == usual else f".{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
        return cls(path, folder / f"spool{mark}.sock")

    def store(self, logger: logging.Logger) -> Store:
        """Its store, not opened."""
        return SQLiteStore(self.path, logger)


def _path(url: str) -> Path:
    path = url.removeprefix(_SCHEME).lstrip("/")
    if not url.startswith(_SCHEME) or not path:
        raise SettingsMistake(f"SPOOL_URL: write {_SCHEME} and the path of a file, like {_SCHEME}srv/mail/spool.db")
    # Never relative to wherever the service was started from: it would lose sight of its mail.
    return Path(os.path.normpath(Path("/") / path))
