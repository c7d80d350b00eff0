"""What some servers hand out in place of a message that they can not read: a text of their own, as if it were it.

A device would take it for the message, and delete the message. Each row of the table is one server's text, told by all
of its marks together, so that neither a mail *about* such a failure, nor one that quotes the text, is taken for one.

Other servers send no substitute; what they do is a failure by itself. Dovecot closes the connection, answers NO
(``imap_fetch_failure``) or NIL, or an empty string (``obox_fetch_lost_mails_as_empty``); Cyrus answers OK and nothing,
with ``* OK Message 7 no longer exists`` before it; Exchange does so, too. Of Zimbra, Domino and GroupWise nothing of
either kind was found in public.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ("MAX_OCTETS", "could_be_substitute", "is_substitute")

MAX_OCTETS = 8192
"""Substitutes have some 700 octets, and the subject and sender of the message in them."""


@dataclass(frozen=True, slots=True)
class _Substitute:
    """``fields`` are the whole values of header fields, runs of blanks made one; ``bare`` means that there are no other
    fields. ``size_tells`` means that a text with the octets that were listed for it is no substitute: it is a stored
    copy of one, or the server has put it in the message's place for good.
    """

    fields: dict[bytes, re.Pattern[bytes]]
    body: re.Pattern[bytes] = re.compile(rb".*", re.DOTALL)
    bare: bool = False
    size_tells: bool = True


_TABLE = (
    # Exchange, for what it can't convert, such as odd calendar items. The body has the same in other words, and names
    # subject and sender. OfflineIMAP issue 62, FreeScout issue 3203, MailKit issue 1615.
    _Substitute({b"subject": re.compile(rb"Retrieval using the IMAP4 protocol failed for the following message: \d+")}),
    # Courier, when the file is not there: another client has just expunged the message, or changed its flags, which
    # renames the file. It counts RFC822.SIZE by the same text, so the octets that were listed prove nothing. A stored
    # copy of it would be refused as well: there is nothing in it that anybody could miss.
    # courier-imap, imap/fetch.c, "unavailable" and open_cached_fp.
    _Substitute(
        {
            b"from": re.compile(rb"System Administrator <root@localhost>"),
            b"subject": re.compile(rb"message unavailable"),
        },
        re.compile(rb"This message is no longer available on the server\.\s*"),
        bare=True,
        size_tells=False,
    ),
    # hMailServer, when the file is not there, for example because a virus scanner has moved it away. The text is stored
    # as the message, and listed with its own octets from then on. An administrator may have translated it.
    # hmailserver, PersistentMessage.cpp, EnsureFileExistance, and MESSAGE_FILE_MISSING in hm_servermessages.
    _Substitute(
        {b"from": re.compile(rb"Postmaster"), b"subject": re.compile(rb"Message undeliverable")},
        re.compile(rb"The mail server could not deliver the message to you since the file .*", re.DOTALL),
    ),
)

_WORDS = (b"Retrieval", b"message unavailable", b"Message undeliverable")
"""Nearly every message has none of them, and looking for them costs little."""

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_FIELD = re.compile(rb"^([\x21-\x39\x3b-\x7e]+):((?:[^\r\n]|\r?\n[ \t])*)", re.MULTILINE)


def could_be_substitute(octets: bytes) -> bool:
    """Whether the header, with which ``octets`` begins, is one of a substitute. Only the whole message can tell."""
    return _row(octets) is not None


def is_substitute(octets: bytes, listed: Callable[[], int]) -> bool:
    """Whether ``octets``, the first piece of a message that was ``listed`` with so many octets, is a substitute."""
    # In this order, because nearly every message ends the question at once, and looking up its size takes time.
    if len(octets) > MAX_OCTETS:
        return False
    row = _row(octets)
    if row is None or not row.body.fullmatch(_BLANK_LINE.split(octets, maxsplit=1)[-1]):
        return False
    return not (row.size_tells and len(octets) == listed())


def _row(octets: bytes) -> _Substitute | None:
    if not any(word in octets for word in _WORDS):
        return None
    header = _BLANK_LINE.split(octets, maxsplit=1)[0]
    fields = {name.lower(): b" ".join(value.split()) for name, value in _FIELD.findall(header)}
    for row in _TABLE:
        there = all(value.fullmatch(fields.get(name, b"")) for name, value in row.fields.items())
        if there and not (row.bare and fields.keys() - row.fields.keys()):
            return row
    return None
