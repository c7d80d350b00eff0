"""How content goes over the wire: line ends, transparency, end-of-data (RFC 5321 §2.3.8, §4.5.2), without I/O."""

from __future__ import annotations

from legacy_email_proxy.contracts import normalised

__all__ = ("ContentEncoder",)


class ContentEncoder:
    """Turns content, given in pieces of any size, into what follows a 354 or, without ``dots``, a BDAT.

    The core promises CRLF line ends. Here is the one place of this plugin that does not take its word: where a dot is,
    a bare CR or LF that slipped in becomes CRLF. Left alone, ``LF . LF`` ends the message for some servers, and what
    follows would be read as commands under our login. What holds no dot, as base64 doesn't, ends it for nobody.
    """

    def __init__(self, *, dots: bool) -> None:
        self._dots = dots
        self._held = b""
        self._at_line_start = True

    def encode(self, piece: bytes) -> bytes:
        """The octets to send for this piece. A CR at its end waits for the next one."""
        octets = self._held + piece if self._held else piece
        if octets.endswith(b"\r"):
            octets, self._held = octets[:-1], b"\r"
        else:
            self._held = b""
        if not octets:
            return b""
        dotted = self._dots and b"." in octets
        # Also what ends in LF: the next piece could begin with a dot.
        if dotted or octets.endswith(b"\n"):
            octets = normalised(octets)
        if dotted:
            if self._at_line_start and octets.startswith(b"."):
                octets = b"." + octets
            octets = octets.replace(b"\r\n.", b"\r\n..")
        self._at_line_start = octets.endswith(b"\r\n")
        return octets

    def end(self) -> bytes:
        """What ends the content: a line end if it has none, for a last line is none without it, and a dot if wanted."""
        line_end = b"" if self._at_line_start and not self._held else b"\r\n"
        return line_end + b".\r\n" if self._dots else line_end
