"""The exclusive-access lock of RFC 1939 §4, within this process: one session at a time for each maildrop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..contracts import MaildropBusy

__all__ = ("MaildropLocks",)


class MaildropLocks:
    """Which maildrops are held. A lock ends with the session that holds it, however that ends."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Hold the maildrop of this name or user, ``""`` for the configured one. Raises :class:`MaildropBusy`.

        To be called for a maildrop that is open, so that only a password that was proven learns of the lock. Most
        servers take ``Me`` and ``me`` for one user, so these two are one here.
        """
        key = name.casefold()
        if key in self._held:
            raise MaildropBusy("another session holds this maildrop", look_at="POP3_LOCK")
        self._held.add(key)
        try:
            yield
        finally:
            self._held.discard(key)
