"""Whom a refusal is about: the address or message that was named, or us. What is about us is temporary.

A 5yz makes a device throw its message away, and a spool give it up. That is right only for what the message or one of
its addresses has brought about.
"""

from __future__ import annotations

import re

from legacy_email_proxy.contracts import Refused

from ..findings import not_about_the_message

__all__ = ("setting_for", "verdict")

_NOT_UNDERSTOOD = frozenset(range(500, 505))
_LINE_TOO_LONG = re.compile(r"line too long|lines? (?:is|are) too long|line length|long lines?\b", re.IGNORECASE)


def verdict(code: int, enhanced: str, text: str, detail: str, *, named: bool) -> Refused:
    """What a 4yz or 5yz means. ``named``: it answers a command that named an address, or the end of a message; then
    500 to 504 are about that ("501 5.1.3 Bad recipient address syntax"), and else about a command of ours.

    What is not about the message becomes a 451, with the backend's words.
    """
    if code >= 500 and (meaning := not_about_the_message(f"{code} {enhanced} {text}")):
        why = f"{meaning.words}, so this is no verdict; {meaning.advice}"
        return _temporary(enhanced, text, f"{detail.rstrip('.')}: {why}")
    if code in _NOT_UNDERSTOOD and not named:
        return _temporary(enhanced, text, f"{detail}, which is about our command and no verdict on the message")
    refused = Refused(code, enhanced, text, detail=detail)
    refused.look_at = setting_for(text)
    return refused


def setting_for(text: str) -> str:
    """The setting that may help against what the backend said, or ``""``."""
    return "SMTP_LONG_LINES" if _LINE_TOO_LONG.search(text) else ""


def _temporary(enhanced: str, text: str, detail: str) -> Refused:
    return Refused(451, f"4{enhanced[1:]}" if enhanced else "", text, detail=detail)
