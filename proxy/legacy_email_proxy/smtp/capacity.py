"""What a relay is known not to take: said at once, before the message has made its way.

What isn't known, and all else, is the backend's to judge.
"""

from __future__ import annotations

import sys

from ..contracts import Parameters, RelayCapabilities
from ..replies import SMTP, refusal

__all__ = ("check", "limit")


def check(parameters: Parameters, capabilities: RelayCapabilities, max_octets: int = sys.maxsize) -> None:
    """Raises :class:`Refused` for a MAIL with these parameters; ``max_octets`` is our own bound, if there is one."""
    size = int(parameters.get("SIZE") or 0)
    if size > limit(capabilities, max_octets):
        raise refusal(SMTP.TOO_BIG, f"it announces {size} octets")
    if "SMTPUTF8" in parameters and not capabilities.smtputf8:
        raise refusal(SMTP.NO_SMTPUTF8, "the backend did not offer SMTPUTF8 when it was last asked")


def limit(capabilities: RelayCapabilities, max_octets: int = sys.maxsize) -> int:
    """How many octets a message may have."""
    return min(max_octets, capabilities.max_octets or max_octets)
