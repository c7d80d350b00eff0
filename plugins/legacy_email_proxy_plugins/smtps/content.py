"""How content goes over the wire: line ends, transparency, end-of-data (RFC 5321 §2.3.8, §4.5.2), without I/O."""

from __future__ import annotations

import re

__all__ = ("ContentEncoder",)

_LINE_END = re.compile(rb"\r\n|\r|\n")


class ContentEncoder:
    """Turns content, given in pieces of any size, into what follows a 354.

    The core promises CRLF line ends. Here is the one place of this plugin that does not take its word: a bare CR or LF
    that slipped in becomes CRLF. Left alone, ``LF . LF`` ends the message for some servers, and what follows would be
    read as commands under our login.
    """

    def __init__(self) -> None:
        self._held = b""
        self._at_line_start = True

    def encode(self, piece: bytes) -> bytes:
        """The octets to send for this piece. A CR at its end waits for the next one."""
        octets = self._held + piece
        self._held = b""
        if octets.endswith(b"\r"):
            octets, self._held = octets[:-1], b"\r"
        if not octets:
            return b""
        pairs = octets.count(b"\r\n")
        if octets.count(b"\n") != pairs or octets.count(b"\r") != pairs:
            octets = _LINE_END.sub(b"\r\n", octets)
        stuffed = octets.replace(b"\r\n.", b"\r\n..")
        if self._at_line_start and octets.startswith(b"."):
            stuffed = b"." + stuffed
        self._at_line_start = octets.endswith(b"\r\n")
        return stuffed

    def end(self) -> bytes:
        """The end-of-data, after a line end if the content has none: a dot in the middle of a line ends nothing."""
        return b".\r\n" if self._at_line_start and not self._held else b"\r\n.\r\n"
