"""What must be known of a folder in the next session and can not be left on the server: a small file for each folder.

The file's name is a fingerprint of server, user and folder, so that it tells none of them; the password has no part in
it, because a new password does not make a new mailbox. UIDs and counts are in it, and whoever asks here has logged in.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from legacy_email_proxy.contracts import Failure

from ..files import write_whole
from .listing import uid_sets

__all__ = ("Memory", "Remembered")

_WRITING = threading.Lock()
"""Sessions of one mailbox change its file from threads of their own, each on the ground of what it has read."""


@dataclass(slots=True)
class Remembered:
    """About the messages of one folder under one UIDVALIDITY, by UID."""

    hidden: set[int] = field(default_factory=set)
    """Deleted by a POP3 client, and left in the folder. Never forgotten: a listing that leaves a message out does not
    prove that it is gone, and a UID is not given again. Ranges of them take a few octets in the file.
    """
    failures: dict[int, int] = field(default_factory=dict)
    """In how many sessions, one after the other, the message could not be had."""

    def keep_failures(self, uids: Collection[int]) -> bool:
        """Forget the failures of all other messages; whether there was anything to forget."""
        known = len(self.failures)
        self.failures = {uid: count for uid, count in self.failures.items() if uid in uids}
        return len(self.failures) < known


class Memory:
    """Of one folder. All methods do I/O, and raise :class:`Failure` if the file can not be read or written.

    ``state_dir`` is asked for its folder when there is a need.
    """

    def __init__(self, state_dir: Callable[[], Path], *identity: str) -> None:
        self._state_dir = state_dir
        self._name = hashlib.sha256("\0".join(identity).encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def recall(self, uidvalidity: int) -> Remembered:
        """What is known; nothing of messages that had another UIDVALIDITY."""
        try:
            text = self._file.read_text(encoding="ascii")
        except FileNotFoundError:
            return Remembered()
        except OSError as error:
            raise self._failure("read", error) from error
        try:
            known = json.loads(text)
            if known["uidvalidity"] != uidvalidity:
                return Remembered()
            failures = {int(uid): int(count) for uid, count in known["failures"].items()}
            return Remembered(_uids(known["hidden"]), failures)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            # To go on as if nothing were known would show deleted messages again.
            raise self._failure("understand", error) from error

    def change(self, uidvalidity: int, edit: Callable[[Remembered], object]) -> None:
        """Let ``edit`` change what is known; it is on the disk when this returns."""
        with _WRITING:
            remembered = self.recall(uidvalidity)
            edit(remembered)
            known = {
                "uidvalidity": uidvalidity,
                "hidden": ",".join(uid_sets(remembered.hidden)),
                "failures": {str(uid): count for uid, count in sorted(remembered.failures.items())},
            }
            try:
                write_whole(self._file, json.dumps(known).encode("ascii"))
            except OSError as error:
                raise self._failure("write", error) from error

    def ready(self) -> None:
        """Raise what :meth:`change` would raise in a folder that is not there or not ours to write."""
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


def _uids(text: str) -> set[int]:
    found: set[int] = set()
    for item in text.split(",") if text else ():
        first, _, last = item.partition(":")
        found.update(range(int(first), int(last or first) + 1))
    return found
