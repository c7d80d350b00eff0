"""What the next session must know about a folder and the server can not keep: a small file for each folder.

The file's name is a hash of server, user and folder, so it reveals none of them. The password is not part of the hash,
because the mailbox is the same after a change of password. The file holds UIDs and counts only. It is read only for
clients that have logged in. Where several proxies share a database, it is there, under the same name.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from legacy_email_proxy.contracts import Failure, SharedState

from ..files import write_whole
from .listing import uid_sets

__all__ = ("Memory", "Remembered", "SharedMemory")

_KIND = "imap folder"
_ANSWER_SECONDS = 60.0
"""Longer than the shared state's own deadline; then the event loop has ended."""

_Result = TypeVar("_Result")

_WRITING = threading.Lock()
"""Held while a file is read, changed and written. Sessions do this in their own threads; without the lock one of two
changes at the same time would be lost."""


@dataclass(slots=True)
class Remembered:
    """What is known about the messages of one folder under one UIDVALIDITY, by UID."""

    hidden: set[int] = field(default_factory=set)
    """Deleted by a POP3 client, but still in the folder. No UID is ever removed from this set: a listing without the
    message does not prove that the message is gone. UIDs are never used again, and a range takes a few octets in the
    file.
    """
    failures: dict[int, int] = field(default_factory=dict)
    """In how many sessions in a row the server did not hand out the message."""

    def keep_failures(self, uids: Collection[int]) -> bool:
        """Remove the failure counts of all other messages. Returns whether there were any."""
        known = len(self.failures)
        self.failures = {uid: count for uid, count in self.failures.items() if uid in uids}
        return len(self.failures) < known


class Memory:
    """The file of one folder. All methods do I/O, and raise :class:`Failure` if the file can not be read or written.

    ``state_dir`` is called only when the file is needed, because it may create the directory.
    """

    def __init__(self, state_dir: Callable[[], Path], *identity: str) -> None:
        self._state_dir = state_dir
        self._name = hashlib.sha256("\0".join(identity).encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def recall(self, uidvalidity: int) -> Remembered:
        """What is known. After a change of UIDVALIDITY that is nothing: the old UIDs name other messages now."""
        return self._understood(self._stored(), uidvalidity)

    def change(self, uidvalidity: int, edit: Callable[[Remembered], object]) -> None:
        """Let ``edit`` change what is known, and write it. It is on the disk when this returns."""
        with _WRITING:
            octets = self._edited(self._stored(), uidvalidity, edit)
            try:
                write_whole(self._file, octets)
            except OSError as error:
                raise self._failure("write", error) from error

    def _stored(self) -> bytes | None:
        try:
            return self._file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure("read", error) from error

    def _understood(self, octets: bytes | None, uidvalidity: int) -> Remembered:
        if octets is None:
            return Remembered()
        try:
            known = json.loads(octets)
            if known["uidvalidity"] != uidvalidity:
                return Remembered()
            failures = {int(uid): int(count) for uid, count in known["failures"].items()}
            return Remembered(_uids(known["hidden"]), failures)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            # To go on as if nothing were known would show deleted messages again.
            raise self._failure("understand", error) from error

    def _edited(self, octets: bytes | None, uidvalidity: int, edit: Callable[[Remembered], object]) -> bytes:
        remembered = self._understood(octets, uidvalidity)
        edit(remembered)
        known = {
            "uidvalidity": uidvalidity,
            "hidden": ",".join(uid_sets(remembered.hidden)),
            "failures": {str(uid): count for uid, count in sorted(remembered.failures.items())},
        }
        return json.dumps(known).encode("ascii")

    def ready(self) -> None:
        """Raise what :meth:`change` would raise if the directory does not exist or is not writable."""
        folder = self._file.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise self._failure("write", PermissionError(errno.EACCES, "the folder can not be written", str(folder)))

    @property
    def _file(self) -> Path:
        try:
            return self._state_dir() / f"{self._name}.json"
        except OSError as error:
            raise self._failure("make the folder of", error) from error

    def _failure(self, verb: str, error: Exception) -> Failure:
        reason = getattr(error, "strerror", None) or type(error).__name__
        place = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        return Failure(
            f"can not {verb} {self._name}.json, which keeps deleted messages away: {reason}{place}", look_at="STATE_DIR"
        )


class SharedMemory(Memory):
    """The same for all proxies at one database. Make it in the event loop, and call it in another thread.

    What this proxy has in a file of its own counts until something is changed for the first time.
    """

    def __init__(self, state: SharedState, state_dir: Callable[[], Path], *identity: str) -> None:
        super().__init__(state_dir, *identity)
        self._state = state
        self._loop = asyncio.get_running_loop()

    def recall(self, uidvalidity: int) -> Remembered:
        """See :meth:`Memory.recall`."""
        octets = self._answer(self._state.read(_KIND, self._name))
        return self._understood(self._stored() if octets is None else octets, uidvalidity)

    def change(self, uidvalidity: int, edit: Callable[[Remembered], object]) -> None:
        """See :meth:`Memory.change`."""
        former = self._stored()
        changed = self._state.change(
            _KIND, self._name, lambda octets: self._edited(former if octets is None else octets, uidvalidity, edit)
        )
        self._answer(changed)

    def ready(self) -> None:
        """See :meth:`Memory.ready`: tries whether the database takes a change."""
        self._answer(self._state.change(_KIND, self._name, lambda octets: octets))

    def _answer(self, asked: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result(_ANSWER_SECONDS)


def _uids(text: str) -> set[int]:
    found: set[int] = set()
    for item in text.split(",") if text else ():
        first, _, last = item.partition(":")
        found.update(range(int(first), int(last or first) + 1))
    return found
