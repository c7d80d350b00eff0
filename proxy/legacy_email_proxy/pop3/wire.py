"""Octets to command lines, and messages to the octets of a multi-line reply.

The only place that knows CRLF, dot-stuffing and the limit of a line. It does no I/O. The same octets give the same
result in whatever pieces they come, and the memory for what is held back is limited.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import IncrementalNewlineDecoder

from .encoded import Encoded, EncodedMessages

__all__ = ("CRLF", "END_OF_REPLY", "MAX_LINE_OCTETS", "ContentEncoder", "LineReader", "TooLong", "encode_line")

CRLF = b"\r\n"
END_OF_REPLY = b".\r\n"

MAX_LINE_OCTETS = 1024
"""A command line, its line end included. RFC 2449 §4 asks for at least 255; four times that is allowed here, since a
PASS may carry an application password or a token."""


@dataclass(frozen=True, slots=True)
class TooLong:
    """Returned instead of a line over the limit, once, as soon as that is known; the rest of the line is skipped."""


class LineReader:
    """Takes whole receive buffers and hands out lines without their line end, which is CRLF or a bare LF."""

    __slots__ = ("_buffer", "_scanned", "_skipping")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._skipping = False

    def feed(self, data: bytes) -> None:
        """Append what was received."""
        self._buffer += data

    def held(self) -> int:
        """Octets held: at most one line's limit once :meth:`next_line` has returned ``None``."""
        return len(self._buffer)

    def peek(self, octets: int) -> bytes:
        """The first octets held, which stay where they are."""
        return bytes(self._buffer[:octets])

    def next_line(self, max_octets: int = MAX_LINE_OCTETS) -> bytes | TooLong | None:
        """The next line, or ``None`` when more octets are needed for it."""
        if not self._buffer:
            return None
        if self._skipping and not self._skip():
            return None
        end = self._buffer.find(b"\n", self._scanned, max_octets)
        if end >= 0:
            line = bytes(self._buffer[:end])
            self._drop(end + 1)
            return line[:-1] if line.endswith(b"\r") else line
        if len(self._buffer) >= max_octets:
            self._skipping = True
            return TooLong()
        self._scanned = len(self._buffer)
        return None

    def _skip(self) -> bool:
        end = self._buffer.find(b"\n")
        self._drop(end + 1 if end >= 0 else len(self._buffer))
        self._skipping = end < 0
        return not self._skipping

    def _drop(self, octets: int) -> None:
        del self._buffer[:octets]
        self._scanned = 0


def encode_line(text: str) -> bytes:
    """One line of a reply. What isn't ASCII becomes ``?``; a line break in ``text`` is a defect and raises."""
    if "\r" in text or "\n" in text:
        raise ValueError("a reply line must not hold a line break")
    return text.encode("ascii", "replace") + CRLF


_BLANK_LINE = re.compile(rb"\n\r*\n")
_REST_OF_BLANK_LINE = re.compile(rb"\r*\n")


def _has_bare_lf(data: bytes) -> bool:
    """Whether an LF in ``data`` has no CR before it."""
    # The class with which Python reads text files, used as a scanner: four times as fast as counting LF and CRLF.
    seen = IncrementalNewlineDecoder(None, translate=False)
    seen.decode(data.decode("latin-1"), final=True)
    newlines = seen.newlines
    return newlines == "\n" or (isinstance(newlines, tuple) and "\n" in newlines)


class ContentEncoder:
    """Turns a message in pieces into the body of a multi-line reply (RFC 1939 §3).

    A bare LF becomes CRLF; a bare CR is content and stays, as the backend counted it; a missing final CRLF is added; a
    line that starts with a dot gets a second one. With ``body_lines`` (TOP) the reply ends after the header, the blank
    line and that many lines of the body; :attr:`enough` then says that no further piece is needed. A line with only CRs
    counts as blank: programs that make CRLF of LF twice end every line with CR CR LF. For clients that need it,
    ``replace_nul`` makes NUL 0x80, and ``add_blank_line`` puts a blank line behind a header without a body. The first
    piece of a whole message is looked up in ``shared``, whose encoders all have these two settings.
    """

    __slots__ = (
        *("_add_blank_line", "_blank", "_body_lines", "_carriage_return", "_in_header", "_line_start", "_replace_nul"),
        *("_prepared", "_shared", "enough"),
    )

    def __init__(
        self,
        body_lines: int | None = None,
        *,
        replace_nul: bool = False,
        add_blank_line: bool = False,
        shared: EncodedMessages | None = None,
        prepared: Encoded | None = None,
    ) -> None:
        # With the other two settings the encoder must know more of the piece than is kept.
        simple = body_lines is None and not add_blank_line
        self._shared = shared if simple else None
        self._prepared = prepared if simple else None
        self._body_lines = body_lines
        self._replace_nul = replace_nul
        self._add_blank_line = add_blank_line
        self._in_header = True
        self._blank = True  # The current line has only CRs so far.
        self._carriage_return = b""
        self._line_start = True
        self.enough = False

    def encode(self, piece: bytes) -> bytes:
        """The octets to send for the next piece."""
        if self.enough:
            return b""
        known, self._prepared = self._prepared, None
        shared, self._shared = self._shared, None
        if known is None or known.piece is not piece:
            if shared is None or not shared.in_use:
                return self._encode(piece)
            if (known := shared.get(piece)) is None:
                known = self.prepare(piece)
                shared.keep(known)
                return known.octets
        _, octets, self._carriage_return, self._line_start = known
        return octets

    def prepare(self, piece: bytes) -> Encoded:
        """Encode the first piece of a message, and say what another encoder of the same message has to know."""
        octets = self._encode(piece)
        return Encoded(piece, octets, self._carriage_return, self._line_start)

    def _encode(self, piece: bytes) -> bytes:
        data = self._carriage_return + piece
        # A CR at the end is held back for the next piece, so that no CRLF is split below.
        self._carriage_return = b"\r" if data.endswith(b"\r") else b""
        if self._carriage_return:
            data = data[:-1]
        if _has_bare_lf(data):
            data = data.replace(CRLF, b"\n").replace(b"\n", CRLF)
        if self._replace_nul:
            data = data.replace(b"\x00", b"\x80")
        if self._body_lines is not None:
            data = self._cut(data, self._body_lines)
        elif self._add_blank_line:
            self._body_start(data)
        return self._stuff(data)

    def finish(self) -> bytes:
        """The last octets: a missing line end or blank line, and the line that ends the reply."""
        rest = b"" if self.enough else self._carriage_return
        if rest or not self._line_start:
            rest += CRLF
        if self._add_blank_line and self._body_start(rest) < 0:
            rest += CRLF
        return rest + END_OF_REPLY

    def _stuff(self, data: bytes) -> bytes:
        if not data:
            return data
        # Base64, the bulk of large messages, has no dots, and one octet is found far quicker than three. Few pieces
        # have a dot to stuff, and a search from the end takes half the time to find none.
        stuffed = data
        if b"." in data and data.rfind(b"\r\n.") >= 0:
            stuffed = data.replace(b"\r\n.", b"\r\n..")
        if self._line_start and data.startswith(b"."):
            stuffed = b"." + stuffed
        self._line_start = data.endswith(b"\n")
        return stuffed

    def _cut(self, data: bytes, body_lines: int) -> bytes:
        end = self._body_start(data)
        if end < 0:
            return data
        lines = data.count(b"\n", end)
        if lines < body_lines:
            self._body_lines = body_lines - lines
            return data
        for _ in range(body_lines):
            end = data.index(b"\n", end) + 1
        self.enough = True
        return data[:end]

    def _body_start(self, data: bytes) -> int:
        """Where the body begins in ``data``; -1 while the header goes on."""
        if not self._in_header:
            return 0
        found = (_REST_OF_BLANK_LINE.match(data) if self._blank else None) or _BLANK_LINE.search(data)
        if found is None:
            before = data.rstrip(b"\r")
            self._blank = before.endswith(b"\n") if before else self._blank
            return -1
        self._in_header = False
        return found.end()
