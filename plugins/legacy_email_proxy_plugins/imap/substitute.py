"""Exchange's substitute messages: a text of its own in place of a message that it could not convert.

A device would take it for the message, and delete the message. It is told by all of its marks together: it is small,
its whole subject is Exchange's sentence, and it has not the octets that the listing gave to the message. A mail *about*
such a failure, or a stored copy of a substitute, lacks at least one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ("MAX_OCTETS", "has_the_subject", "is_substitute")

MAX_OCTETS = 8192
"""Substitutes have some 700 octets, and the subject and sender of the message in them."""

_SUBJECT = re.compile(rb"(?:\A|\n)Subject:((?:[^\r\n]|\r?\n[ \t])*)", re.IGNORECASE)
_WORD = b"Retrieval"
_SENTENCE = re.compile(rb"Retrieval using the IMAP4 protocol failed for the following message: \d+")


def has_the_subject(octets: bytes) -> bool:
    """Whether the header in ``octets`` has the sentence for a subject."""
    if _WORD not in octets:
        return False
    header = re.split(rb"\r?\n\r?\n", octets, maxsplit=1)[0]
    subject = _SUBJECT.search(header)
    return subject is not None and _SENTENCE.fullmatch(b" ".join(subject[1].split())) is not None


def is_substitute(octets: bytes, listed: Callable[[], int]) -> bool:
    """Whether ``octets``, the first piece of a message that was ``listed`` with so many octets, is a substitute."""
    # In this order, because nearly every message ends the question at once, and looking up its size takes time.
    return len(octets) <= MAX_OCTETS and has_the_subject(octets) and len(octets) != listed()
