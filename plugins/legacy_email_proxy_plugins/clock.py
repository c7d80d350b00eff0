"""How far this machine's clock is from that of a server, where the server tells the time.

A clock that is wrong makes certificates and tokens look invalid, and nothing in those failures names the cause.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

__all__ = ("clock_offset",)

_DATE = re.compile(r"[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d (?:[+-]\d{4}|GMT)")


def clock_offset(text: str, clock: Callable[[], float] = time.time) -> float | None:
    """Seconds by which our clock is ahead of the date in ``text`` (RFC 5322); ``None`` where there is no date."""
    found = _DATE.search(text)
    if found is None:
        return None
    try:
        return clock() - parsedate_to_datetime(found[0]).timestamp()
    except (ValueError, OverflowError):
        return None
