"""What XTND XLST shows of a message: one field of its header. It is an extension of the Berkeley POP server, older than
UIDL.
"""

from __future__ import annotations

import re

from .wire import CRLF

__all__ = ("MAX_HEADER_OCTETS", "MAX_VALUE_OCTETS", "HeaderLine")

MAX_HEADER_OCTETS = 65536
"""How much of a message's header is searched."""

MAX_VALUE_OCTETS = 450
"""A value is cut at this length: clients of that time read lines into buffers of 512 octets."""

_END = re.compile(rb"(?:\A|\n)\r*\n")
_NOT_PRINTABLE = re.compile(rb"[\x00-\x20\x7f]+")


class HeaderLine:
    """Takes the pieces of a message, gives ``<message-number> <name>: <value>``, unfolded; nothing without that field.

    Used like a :class:`~legacy_email_proxy.pop3.wire.ContentEncoder`.
    """

    __slots__ = ("_header", "_message_number", "_wanted", "enough")

    def __init__(self, message_number: int, name: str) -> None:
        self._message_number = message_number
        folded = rb"^(%s)[ \t]*:((?:[^\n]|\n[ \t])*)" % re.escape(name.encode())
        self._wanted = re.compile(folded, re.IGNORECASE | re.MULTILINE)
        self._header = bytearray()
        self.enough = False

    def encode(self, piece: bytes) -> bytes:
        """Nothing yet: the line is known at the end."""
        if not self.enough:
            # A blank line may lie across two pieces, and may have any number of CRs (see ContentEncoder).
            start = max(0, self._header.rfind(b"\n"))
            self._header += piece[:MAX_HEADER_OCTETS]
            self.enough = len(self._header) >= MAX_HEADER_OCTETS or _END.search(self._header, start) is not None
        return b""

    def finish(self) -> bytes:
        """The line."""
        end = _END.search(self._header)
        found = self._wanted.search(self._header[: end.start() + 1] if end else self._header)
        if not found:
            return b""
        value = _NOT_PRINTABLE.sub(b" ", found[2]).strip()[:MAX_VALUE_OCTETS]
        return b"%d %s: %s" % (self._message_number, found[1], value) + CRLF
