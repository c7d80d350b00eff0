"""One Maildir on disk, and what the names of its files say: ``<time>.<unique>.<host>,S=<octets>:2,<flags>``.

The text before the first ``,`` or ``:`` is the unique part. It stays the same for the life of a message, while other
programs change the flags after it, move the file from ``new`` to ``cur`` or correct the size in its name.

All functions block, except those that only handle names: call them in a worker thread.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from legacy_email_proxy.contracts import SettingsMistake

from ..files import sync_directory

__all__ = (
    "ABANDONED_SECONDS",
    "Filed",
    "Folder",
    "delivery_order",
    "octets_with_crlf",
    "unique_id",
    "unique_name",
)

ABANDONED_SECONDS = 36 * 3600
"""A file in ``tmp`` that was not changed for so long was left by a crash (Maildir's own rule)."""

_SUBFOLDERS = ("tmp", "new", "cur")
_SCANS = 3

_counter = itertools.count(1)
_UNIQUE_ID = re.compile(r"[\x21-\x7e]{1,70}")
_TIME = re.compile(r"(\d{1,18})\.(?:M(\d{1,6}))?")
_WIRE_OCTETS = re.compile(r"[^:]*?,W=(\d{1,18})(?=[,:]|$)")


class Filed(NamedTuple):
    """A message in ``new`` or ``cur``."""

    unique_id: str
    octets: int
    path: Path


class Folder:
    """The Maildir that the setting ``variable`` names."""

    def __init__(self, settings: Mapping[str, Any], variable: str) -> None:
        """Check the path once, before any client is served; only :meth:`prepare` creates folders.

        Raises :class:`SettingsMistake` when the path can't be used.
        """
        path: Path | None = settings[variable]
        if path is None:
            raise SettingsMistake(f"{variable}: not set; name the Maildir to use")
        self.path = path
        self.tmp, self.new, self.cur = self.subfolders = tuple(path / name for name in _SUBFOLDERS)
        self._prepared = False
        try:
            wrong = self.unusable()
        except OSError as error:
            wrong = f"can not use {str(error.filename or path)!r}: {error.strerror}"
        if wrong:
            raise SettingsMistake(f"{variable}: {wrong}")

    def unusable(self) -> str:
        """Why this path can't be a Maildir, or ``""``. Lists no folder, so it is fast for a full one too."""
        try:
            there = [each for each in (self.path, *self.subfolders) if _is_folder(each)]
        except NotADirectoryError as error:
            return f"{error.filename!r} is no folder"
        if not there:
            # Creating parent folders too would hide a typing mistake, or a disk that isn't mounted.
            parent = self.path.parent
            return "" if parent.is_dir() else f"{str(self.path)!r} can not be made: there is no folder {str(parent)!r}"
        if there == [self.path] and _holds_anything(self.path):
            return f"{str(self.path)!r} is no Maildir but holds other files; name a Maildir, or an empty or new folder"
        return ""

    def prepare(self) -> None:
        """Create missing folders of the Maildir (mode 0700), and remove files that a crash left in ``tmp``.

        Only the first call does this. If the Maildir is missing later, its disk is probably unmounted, and mail in a
        new Maildir at its place would not be found again.
        """
        if self._prepared:
            return
        made = False
        for each in (self.path, *self.subfolders):
            try:
                each.mkdir(mode=0o700)
                made = True
            except FileExistsError:
                pass
        if made:
            sync_directory(self.path, where_possible=True)
            sync_directory(self.path.parent, where_possible=True)
        for left in self.tmp.iterdir():
            with suppress(OSError):
                if left.lstat().st_mtime < time.time() - ABANDONED_SECONDS:
                    left.unlink()
        self._prepared = True

    def messages(self) -> list[Filed]:
        """All messages in the order of delivery.

        ``octets`` is the ``,W=`` of the name, else the size of the file: no message is read to count its octets. For a
        file with bare LF line ends and no ``,W=`` it is less than the octets that a POP3 client gets.
        """
        for _ in range(_SCANS):
            before = self._changed()
            found = {filed.unique_id: filed for each in (self.new, self.cur) for filed in _filed(each)}
            # A file that is renamed while its folder is read may be missed. A client that keeps a list of the messages
            # it has seen would then treat it as new next time.
            if self._changed() == before:
                break
        return sorted(found.values(), key=lambda filed: delivery_order(filed.path.name))

    def _changed(self) -> tuple[int, int]:
        return self.new.stat().st_mtime_ns, self.cur.stat().st_mtime_ns

    def count(self) -> int:
        """How many messages there are."""
        return sum(len(_entries(each)) for each in (self.new, self.cur) if each.is_dir())


def _is_folder(path: Path) -> bool:
    """Whether the folder exists. Raises ``NotADirectoryError`` when ``path`` is not a folder."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    return True


def _holds_anything(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is not None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    # Links, folders and pipes are not messages: opening a pipe could block the thread for ever.
    with os.scandir(folder) as entries:
        return [entry for entry in entries if entry.name[0] != "." and entry.is_file(follow_symlinks=False)]


def _filed(folder: Path) -> list[Filed]:
    found = []
    for entry in _entries(folder):
        octets = octets_with_crlf(entry.name)
        if octets is None:
            try:
                octets = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue
        found.append(Filed(unique_id(entry.name), octets, Path(entry.path)))
    return found


# The functions below handle names and do no I/O.


def unique_name() -> str:
    """A name that no other process creates, on this host or on another one that shares the folder.

    Containers need the random part: each has process id 1, and on the host's network all have the same host name.
    """
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    host = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())[:64] or "localhost"
    unique = f"M{nanoseconds // 1000:06}P{os.getpid()}Q{next(_counter)}R{secrets.token_hex(4)}"
    return f"{seconds}.{unique}.{host}"


def unique_id(name: str) -> str:
    """The POP3 unique-id (RFC 1939 §7): the unique part, or its hash if it is too long or has other characters."""
    unique = re.split("[,:]", name, maxsplit=1)[0] or name
    if _UNIQUE_ID.fullmatch(unique):
        return unique
    return hashlib.sha256(os.fsencode(unique)).hexdigest()[:32]


def octets_with_crlf(name: str) -> int | None:
    """``,W=``: the message's octets with CRLF line ends, if the delivering program counted them."""
    found = _WIRE_OCTETS.match(name)
    return int(found[1]) if found else None


def delivery_order(name: str) -> tuple[int, int, str]:
    """Sort key: the delivery time in the name, then the unique part; a change of flags does not change the order."""
    found = _TIME.match(name)
    seconds, microseconds = (int(found[1]), int(found[2] or 0)) if found else (0, 0)
    return seconds, microseconds, unique_id(name)
