"""Headers that a program has spoilt: told apart from text, and made readable for every server.

Real servers (Postfix 3.7 was measured) end the header at the first line that is no field, and all that stands behind
it arrives as text, attachments too. So an 8-bit field name, a byte order mark, an empty line too early or a line that
goes on without its blank costs the reader the attachments; other servers read on, and take a field of ours above for
a second one. Where lines behind such a place can be nothing but a header, they are taken for one, and the place is
changed as little as possible. Where they may be text they are left to be read as text: readers do not see what
stands in a header, and the text may be an alarm.

A header is mended only where our own lines are put above it (``SMTP_ADD_RECEIVED``, ``SMTP_ADD_MISSING``), or where a
filter or another setting changes headers: only then could two servers see two different messages in it. Without these
not an octet changes.
"""

from __future__ import annotations

import re

__all__ = ("FIELD", "LINE", "LINES", "TEXT_LINES", "empty_line", "extent", "is_text", "may_begin", "mended")

FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
LINE = re.compile(rb"[ \t]|" + FIELD.pattern)
"""How a line of a header begins: it is a field, or goes on with one."""
LINES = re.compile(rb"(?:(?:" + LINE.pattern + rb")[^\n]*\n)*")

# What mbox files have in front of each message. Postfix makes a field of it.
_MAILBOX_LINES = re.compile(rb"(?:>*From (?![ \t]*:)[^\n]*\n){1,3}")
_MAILBOX = re.compile(rb"(?:\xef\xbb\xbf)?" + _MAILBOX_LINES.pattern + rb"(?=[A-Za-z][A-Za-z0-9-]*[ \t]*:)")
_BEFORE = re.compile(rb"(?:\xef\xbb\xbf)?(?:\r\n){0,8}[ \t]{0,8}")
# A field's name, also with octets that are not allowed in one.
_NAME = rb"[^\x00-\x20:\x7f]+[ \t]*:"
_NAMED = re.compile(_NAME)
_NAMED_LINES = re.compile(rb"(?:(?:[ \t]|" + _NAME + rb")[^\n]*(?:\n|\Z))+")
# A paragraph: no header goes on for so many lines without a blank, unless they are a list.
TEXT_LINES = 4
_TEXT = re.compile(rb"^(?:(?![ \t\r]|" + _NAME + rb")[^\n]*[^\n,;]\r\n){%d}" % TEXT_LINES, re.MULTILINE)
_ANY_LINE = re.compile(rb"[^\n]*\n|[^\n]+\Z")
# Only mail programs write these; they do not occur in text.
_CERTAIN = re.compile(
    rb"\n(?:mime-version|content-transfer-encoding|dkim-signature)[ \t]*:"
    rb"|\nmessage-id[ \t]*:[ \t]*<|\ncontent-type[ \t]*:[ \t]*[a-z]+/"
    rb"|\ndate[ \t]*:[^\n]{0,40}\d\d:\d\d(?::\d\d)?[ \t]+(?:[+-]\d{4}|gmt|utc?)\b"
)
# One of these may occur in text too, but hardly two of them.
_LIKELY = re.compile(rb"\n(?:(from|to|cc|reply-to|sender)[ \t]*:[^\n]*@|(subject|bcc)[ \t]*:)")
_BCC = re.compile(rb"\n(?:resent-)?bcc[ \t]*:")
_PARAMETER = re.compile(rb"[A-Za-z][A-Za-z0-9*-]*=")
_NAMES = re.compile(rb"^([!-9;-~]+)[ \t]*:", re.MULTILINE)
_LISTS = frozenset((b"to", b"cc", b"bcc", b"reply-to", b"resent-to", b"resent-cc", b"resent-bcc"))
# What a header has only once, so that the text of a forwarded message is not taken for the rest of the header above.
_ONCE = re.compile(rb"\n(from|to|cc|reply-to|sender|subject|date|message-id|mime-version|content-type)[ \t]*:")


def may_begin(buffer: bytes | bytearray) -> bool:
    """Whether a header that is spoilt at its beginning may begin so. Its first line, which is no field, is there."""
    return (
        buffer.startswith((b"\xef\xbb\xbf", b"\r\n", b" ", b"\t"))
        or _NAMED.match(buffer) is not None
        or _MAILBOX_LINES.match(buffer) is not None
    )


def is_text(buffer: bytes | bytearray, place: int) -> bool:
    """Whether the lines from ``place`` on are a paragraph, which needs :data:`TEXT_LINES` of them."""
    return _TEXT.match(buffer, place) is not None


def empty_line(buffer: bytes | bytearray, place: int, searched: int) -> int:
    """Where the empty line begins that would end a header which is spoilt at ``place``; -1 if it has not arrived.

    What is before ``searched`` has been looked at.
    """
    if not place and (before := _BEFORE.match(buffer)):
        place = max(before.end() - 1, 0)
    end = buffer.find(b"\n\r\n", max(place, searched))
    return end if end < 0 else end + 1


def extent(block: bytes, place: int, *, for_bcc: bool) -> int:
    """How much of ``block``, which an empty line ends and whose line at ``place`` is no field, is a header.

    ``for_bcc``: a Bcc is reason enough to think so, as it must not pass.
    """
    if place:
        return len(block) if _evident(block, place, for_bcc=for_bcc) else _continued(block, place)
    if mailbox := _MAILBOX.match(block):
        lines = LINES.match(block, mailbox.end())
        return extent(block, lines.end() if lines else 0, for_bcc=for_bcc)
    start = before.end() if (before := _BEFORE.match(block)) else 0
    evident = _NAMED_LINES.fullmatch(block, start) and _evident(block, start, for_bcc=for_bcc)
    return len(block) if evident else 0


def _continued(block: bytes, place: int) -> int:
    """How far lines without a blank go on with the field above them: one more parameter, or one more address."""
    start, name = 0, b""
    while place < len(block):
        for found in _NAMES.finditer(block, start, place):
            name = found[1].lower()
        line = _ANY_LINE.match(block, place)
        parameter = block.endswith(b";\r\n", start, place) and _PARAMETER.match(block, place)
        address = block.endswith(b",\r\n", start, place) and name in _LISTS and line and b"@" in line[0]
        if not line or not (parameter or address):
            return place
        start = line.start()
        lines = LINES.match(block, line.end())
        place = lines.end() if lines else line.end()
    return place


def _evident(block: bytes, place: int, *, for_bcc: bool) -> bool:
    """Whether what stands from ``place`` on can be nothing but a header."""
    if _TEXT.search(block, place):
        return False
    above, behind = b"\n" + block[:place].lower(), b"\n" + block[place:].lower()
    if for_bcc and _BCC.search(behind):
        return True
    if set(_ONCE.findall(above)) & set(_ONCE.findall(behind)):
        return False
    return _CERTAIN.search(behind) is not None or len(set(_LIKELY.findall(behind))) > 1


def mended(block: bytes) -> bytes:
    """A header, readable for every server: all its lines are fields, or begin with a blank."""
    start = before.end() if (before := _BEFORE.match(block)) else 0
    lines: list[bytes] = []
    mailbox = True
    for line in _ANY_LINE.findall(block, start):
        if mailbox and _MAILBOX_LINES.match(line):
            lines.append(b"X-Mailbox-Line: " + line)
            continue
        mailbox = False
        if not LINE.match(line):
            line = (b"X-Header-Line: " if _NAMED.match(line) or not lines else b" ") + line
        lines.append(line)
    return b"".join(lines)
