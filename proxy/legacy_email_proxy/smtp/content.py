"""Where a message ends and what its lines are: the octets behind DATA or BDAT, as they come and as they are passed on.

The line-end policy of the SMTP leg lives here and nowhere else. Only CRLF.CRLF ends a message (RFC 5321 §4.1.1.4);
every other line end (a bare CR, a bare LF, several CRs before an LF) becomes CRLF *after* the end was looked for. So
what a lenient server behind us could take for an end-of-data is, by then, a line like any other and dot-stuffed like
any other: the sequences of "SMTP smuggling" (CVE-2023-51764 and related ones) can not split a message in two.
"""

from __future__ import annotations

import re

from ..contracts import normalised

__all__ = ("MAX_CRS", "ChunkDecoder", "DataDecoder", "LFDataDecoder")

MAX_CRS = 16
"""So many CRs in front of an LF are one line end with it: what programs send that translate line ends twice.

Of a longer run only the last ones are. They are held back until it is clear what follows.
"""

_SEVERAL_CRS = re.compile(rb"\r\r{1,%d}\n" % (MAX_CRS - 1))
_BARE_END = re.compile(rb"\n\.\r?\n")


class DataDecoder:
    """Turns the octets behind DATA into content: dot-stuffing taken off (§4.5.2), every line end CRLF.

    Feed it what arrives; once :attr:`ended` is true, :attr:`rest` holds the octets behind the end-of-data, which are
    the next commands. Holds back a few octets between calls, so that it makes no difference how the input is cut.
    """

    _LINE_END = b"\r\n"
    # What may turn out to begin an end-of-data, longest first; and a CR, which is not bare if an LF comes next.
    _HELD_BACK: tuple[bytes, ...] = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")

    def __init__(self) -> None:
        self.ended = False
        self.rest = b""
        # Content begins on a fresh line, so that a first line of "." is an end-of-data. This line end isn't content.
        self._held = self._LINE_END
        self._virtual = len(self._held)
        self._tail = self._held

    @property
    def stopped_at_bare_end(self) -> bool:
        """Whether what came last is an LF-only client's end-of-data: a line of ".", but not both line ends are CRLF."""
        return not self.ended and self._tail.endswith((b"\n.\n", b"\n.\r\n"))

    def feed(self, octets: bytes) -> bytes:
        """Decode what can be decoded; the result may be empty. Not to be called after the end."""
        buffer = self._held + octets if self._held else octets
        self._tail = octets[-4:] if len(octets) >= 4 else (self._tail + octets)[-4:]
        dotted = self._LINE_END + b"."
        # Looking for one octet is forty times as fast as for three, and base64, which scanners send, has no dot.
        dot = buffer.find(dotted) if b"." in buffer else -1
        end, behind = self._end(buffer, dot) if dot >= 0 else (-1, -1)
        if end >= 0:
            self.ended = True
            self.rest = buffer[behind:]
            raw, self._held = buffer[:end], b""
        else:
            held = next((held for held in self._HELD_BACK if buffer.endswith(held)), b"")
            raw, self._held = _parted(buffer, len(buffer) - len(held))
        if 0 <= dot < len(raw):
            raw = raw.replace(dotted, self._LINE_END)
        if self._virtual and raw:
            raw, self._virtual = raw[self._virtual :], 0
        return _lines(raw)

    def _end(self, buffer: bytes, start: int) -> tuple[int, int]:
        """Where the content ends, its last line end included, and where the next command begins; -1 if neither."""
        end = buffer.find(b"\r\n.\r\n", start)
        return (end + 2, end + 5) if end >= 0 else (-1, -1)


class LFDataDecoder(DataDecoder):
    """The same for clients that are trusted: there every LF is a line end, and so any line of "." ends the message.

    The danger: somebody who gets such a line into a mail that one of these clients passes on ends the mail there, and
    the client's next lines are commands (SMTP smuggling).
    """

    _LINE_END = b"\n"
    _HELD_BACK = (b"\r\n.\r", b"\n.\r", b"\r\n.", b"\n.", b"\r\n", b"\n", b"\r")

    def _end(self, buffer: bytes, start: int) -> tuple[int, int]:
        found = _BARE_END.search(buffer, start)
        return (found.start() + 1, found.end()) if found else (-1, -1)


class ChunkDecoder:
    """Turns the octets of BDAT's chunks (RFC 3030) into content: every line end CRLF, dots as they are."""

    def __init__(self) -> None:
        self._held = b""
        self._unended = False

    def feed(self, octets: bytes, *, last: bool) -> bytes:
        """Decode; at ``last`` everything, and a last line that has no line end gets one."""
        buffer, self._held = self._held + octets, b""
        if buffer.endswith(b"\r") and not last:
            buffer, self._held = _parted(buffer, len(buffer))
        content = _lines(buffer)
        if content:
            self._unended = not content.endswith(b"\n")
        if last and self._unended:
            content += b"\r\n"
        return content


def _lines(octets: bytes) -> bytes:
    """With every line end made into CRLF; the same object where nothing is to be done."""
    lines = normalised(octets)
    if lines is not octets and b"\r\r\n" in octets:
        return normalised(_SEVERAL_CRS.sub(b"\r\n", octets))
    return lines


def _parted(buffer: bytes, place: int) -> tuple[bytes, bytes]:
    """The buffer up to ``place``, and what is held back: the CRs before it, too, may be one line end with an LF."""
    run = buffer[max(place - MAX_CRS, 0) : place]
    place -= len(run) - len(run.rstrip(b"\r"))
    return buffer[:place], buffer[place:]
