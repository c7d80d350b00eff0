"""Unique-ids (RFC 1939 §7) in the forms of other servers, so that a site which moves here downloads nothing twice.

All but one are made of UID and UIDVALIDITY, and that pair is never used again (RFC 9051 §2.3.1.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ("DOVECOT", "UNIQUE_IDS", "UniqueIds")


@dataclass(frozen=True, slots=True)
class UniqueIds:
    """One form. ``template`` makes of a UIDVALIDITY what a UID is put into with ``%``, which costs no line of Python
    for each of a hundred thousand messages; the only group of ``pattern`` is the UID in ``base``.
    """

    template: Callable[[int], str]
    pattern: re.Pattern[str]
    base: int = 10

    def maker(self, uidvalidity: int) -> Callable[[int], str]:
        """What gives a UID its unique-id."""
        return self.template(uidvalidity).__mod__

    def uid(self, unique_id: str) -> int:
        """The UID in ``unique_id``. Raises :class:`KeyError` if it has another form."""
        match = self.pattern.fullmatch(unique_id)
        if match is None:
            raise KeyError(unique_id)
        return int(match[1], self.base)


DOVECOT = UniqueIds(lambda uidvalidity: f"%08x{uidvalidity:08x}", re.compile(r"([0-9a-f]{8})[0-9a-f]{8}"), 16)

UNIQUE_IDS = {
    "dovecot": DOVECOT,
    "uw": UniqueIds(lambda uidvalidity: f"{uidvalidity:08x}%08x", re.compile(r"[0-9a-f]{8}([0-9a-f]{8})"), 16),
    "cyrus": UniqueIds(lambda uidvalidity: f"{uidvalidity}.%d", re.compile(r"[0-9]{1,10}\.([0-9]{1,10})")),
    "courier": UniqueIds(lambda uidvalidity: f"{uidvalidity}-%d", re.compile(r"[0-9]{1,10}-([0-9]{1,10})")),
    # Old Cyrus and old Courier. Nothing here tells a message from one that had its UID before the UIDVALIDITY changed.
    "uidonly": UniqueIds(lambda _: "%d", re.compile(r"([0-9]{1,10})")),
}
"""The values of ``POP3_UIDL_FORMAT``."""
