"""One message on its way to the client: the ``+OK`` that stands before its first octet, and what its octets become.

That is the message encoded by ``wire``, or for XTND XLST one line of its header. XTND XLST is an extension of the
Berkeley POP server, older than UIDL.
"""

from __future__ import annotations

import re

from .wire import CRLF, ContentEncoder

__all__ = ("MAX_HEADER_OCTETS", "MAX_VALUE_OCTETS", "HeaderLine", "Transfer")

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


class Transfer:
    """``status`` is the line that comes first, ``b""`` where the reply has begun already."""

    __slots__ = ("_encoder", "_status")

    def __init__(self, encoder: ContentEncoder | HeaderLine, status: bytes = b"") -> None:
        self._encoder = encoder
        self._status = status

    @property
    def begun(self) -> bool:
        """The client has read ``+OK``; only closing the connection tells it now that something went wrong."""
        return not self._status

    @property
    def enough(self) -> bool:
        """Further pieces are not needed."""
        return self.begun and self._encoder.enough

    def take_status(self) -> bytes:
        """The status line, once: it goes out with the first octets, so that a failure before them is an ``-ERR``."""
        status, self._status = self._status, b""
        return status

    def encode(self, piece: bytes) -> bytes:
        """The octets to send for the next piece of the message."""
        return self._encoder.encode(piece)

    def finish(self) -> bytes:
        """The last octets. Until they are sent, the client knows that it hasn't got all of the message."""
        return self._encoder.finish()
