"""Lines that are longer than SMTP allows (998 octets, RFC 5321 §4.5.3.1.6) made short, without a change of meaning.

A message is read line by line, as it streams past: what a part is stands in its header, before its first line, so
each part is decided upon once and nothing of it is held. Text and all else that is sent as it is becomes
quoted-printable (RFC 2045 §6.7); base64 and quoted-printable that a device forgot to break are broken; headers are
folded. What must not be changed passes as it is: signed and encrypted parts, messages in messages (RFC 2046 §5.2.1).
"""

from __future__ import annotations

import re
from binascii import b2a_qp
from enum import Enum, auto

from ..contracts import Header

__all__ = ("MAX_LINE_OCTETS", "LineShortener")

MAX_LINE_OCTETS = 998
"""Longest line, without its CRLF."""

_CHUNK_OCTETS = 4096
_MAX_PART_HEADER_OCTETS = 1 << 16
_QP_COLUMNS = 76
_BASE64_COLUMNS = 76
_SOFT_COLUMNS = 900
_FOLDABLE = re.compile(rb"[^ \t](?=[ \t]+[^ \t\r\n])")
_BOUNDARY = re.compile(r'boundary[ \t]*=[ \t]*(?:"([^"]+)"|([^\s;"]+))', re.IGNORECASE)
_AS_IT_IS = ("", "7bit", "8bit", "binary")


class _Mode(Enum):
    """What the lines are."""

    HEADER = auto()
    UNTOUCHED = auto()
    TEXT = auto()
    QUOTED_PRINTABLE = auto()
    BASE64 = auto()


class LineShortener:
    """Fed with one message: its header block and what is behind it, then the rest, however it is cut."""

    def __init__(self) -> None:
        self._mode = _Mode.UNTOUCHED
        self._boundaries: list[bytes] = []
        self._header: list[bytes] = []
        self._header_octets = 0
        self._rest = b""
        self._inside = False

    def begin(self, block: bytes, rest: bytes) -> bytes:
        """The message's own header, as it goes on, and what can be said of ``rest``."""
        if rest.startswith(b"\r\n"):
            block = self._decided(Header(block), outermost=True)
            return block + b"\r\n" + self.feed(rest[2:])
        return _folded(block) + self.feed(rest)

    def feed(self, piece: bytes) -> bytes:
        """The lines that are whole, as they go on; may be empty."""
        *lines, rest = (self._rest + piece).split(b"\n")
        done: list[bytes] = []
        for line in lines:
            done.append(self._line(self._tail(line, done) + b"\n"))
        self._rest = self._tail(rest, done)
        return b"".join(done)

    def _tail(self, line: bytes, done: list[bytes]) -> bytes:
        """The end of a line, whose beginning, if it is long, is done with: it need not be held until its end comes."""
        start = 0
        # One octet stays at least: it may be the CR of the line's end.
        while len(line) - start > _CHUNK_OCTETS:
            done.append(self._line(line[start : start + _CHUNK_OCTETS], goes_on=True))
            start += _CHUNK_OCTETS
        return line[start:]

    def end(self) -> bytes:
        """What is left when the content has ended."""
        last = self._line(self._rest) if self._rest else b""
        return last + b"".join(self._header)

    def _line(self, line: bytes, *, goes_on: bool = False) -> bytes:
        """One line with its end, or a piece of one."""
        inside, self._inside = self._inside, goes_on
        if not inside and not goes_on and line.startswith(b"--") and self._delimits(line):
            # A part that is all header and has not even an empty line passes as it is.
            header, self._header = b"".join(self._header), []
            return header + line
        if self._mode is _Mode.HEADER:
            return self._header_line(line, empty=line == b"\r\n" and not inside)
        if self._mode is _Mode.TEXT:
            return _quoted(line, goes_on=goes_on)
        if self._mode is _Mode.BASE64:
            return _broken(line, goes_on=goes_on, inside=inside)
        if self._mode is _Mode.QUOTED_PRINTABLE:
            return _softly_broken(line, goes_on=goes_on, inside=inside)
        return line

    def _delimits(self, line: bytes) -> bool:
        """Whether a line begins the next part, or ends the last one, of a multipart that we are in."""
        text = line.rstrip(b" \t\r\n")[2:]
        for depth, boundary in reversed(list(enumerate(self._boundaries))):
            if text == boundary:
                del self._boundaries[depth + 1 :]
                self._mode, self._header_octets = _Mode.HEADER, 0
                return True
            if text == boundary + b"--":
                del self._boundaries[depth:]
                self._mode = _Mode.UNTOUCHED
                return True
        return False

    def _header_line(self, line: bytes, *, empty: bool) -> bytes:
        self._header.append(line)
        self._header_octets += len(line)
        if not empty and self._header_octets <= _MAX_PART_HEADER_OCTETS:
            return b""
        lines, self._header = self._header, []
        if not empty:
            self._mode = _Mode.UNTOUCHED
            return b"".join(lines)
        return self._decided(Header(b"".join(lines[:-1])), outermost=False) + line

    def _decided(self, header: Header, *, outermost: bool) -> bytes:
        """The header of a part whose lines come now, changed where they will be."""
        kind = (header.get("Content-Type") or "text/plain").partition(";")[0].strip().lower()
        encoding = (header.get("Content-Transfer-Encoding") or "").lower()
        self._mode = _Mode.UNTOUCHED
        if kind.startswith("multipart/"):
            found = _BOUNDARY.search(header.get("Content-Type") or "")
            # A digest's parts are messages; what is signed or encrypted must arrive as it was.
            if found and kind not in ("multipart/signed", "multipart/encrypted", "multipart/digest"):
                self._boundaries.append((found[1] or found[2]).encode("utf-8", "surrogateescape"))
        elif encoding == "base64":
            self._mode = _Mode.BASE64
        elif encoding == "quoted-printable":
            self._mode = _Mode.QUOTED_PRINTABLE
        elif encoding in _AS_IT_IS and not kind.startswith("message/"):
            self._mode = _Mode.TEXT
            header.replace("Content-Transfer-Encoding", "quoted-printable")
            if outermost and "MIME-Version" not in header:
                header.add("MIME-Version", "1.0")
        return _folded(header.octets)


def _quoted(line: bytes, *, goes_on: bool) -> bytes:
    if not goes_on:
        return b2a_qp(line) if line.endswith(b"\r\n") else b2a_qp(line + b"\r\n")[:-2]
    encoded = b2a_qp(line + b"\r\n")[:-2]
    if len(encoded) - (encoded.rfind(b"\n") + 1) >= _QP_COLUMNS:
        # The last octet goes to the next line, or the sign of the break would not fit behind it.
        last = 3 if encoded[-3:-2] == b"=" else 1
        encoded = encoded[:-last] + b"=\r\n" + encoded[-last:]
    return encoded + b"=\r\n"


def _broken(line: bytes, *, goes_on: bool, inside: bool) -> bytes:
    digits = line.rstrip(b"\r\n")
    if inside and not digits:
        return b""
    if len(digits) <= MAX_LINE_OCTETS and not goes_on:
        return line
    broken = b"\r\n".join(digits[at : at + _BASE64_COLUMNS] for at in range(0, len(digits), _BASE64_COLUMNS))
    return broken + (b"\r\n" if goes_on else line[len(digits) :])


def _softly_broken(line: bytes, *, goes_on: bool, inside: bool) -> bytes:
    if len(line) <= MAX_LINE_OCTETS + 2 and not goes_on and not inside:
        return line
    pieces = []
    while len(line) > _SOFT_COLUMNS:
        cut = _between(line, _SOFT_COLUMNS)
        pieces.append(line[:cut])
        line = line[cut:]
    if goes_on:
        cut = _between(line, len(line))
        pieces.append(line[:cut])
        line = line[cut:]
    return b"=\r\n".join([*pieces, line])


def _between(line: bytes, cut: int) -> int:
    """The last place up to ``cut`` that is not inside of an =XX."""
    sign = line.rfind(b"=", max(cut - 2, 0), cut)
    return sign if sign > 0 else cut


def _folded(block: bytes) -> bytes:
    """A header block with its long lines folded at the last blank that fits; one without blanks stays long."""
    if max(map(len, block.split(b"\r\n"))) <= MAX_LINE_OCTETS:
        return block
    folded = []
    for line in block.split(b"\r\n"):
        while len(line) > MAX_LINE_OCTETS:
            places = [found.end() for found in _FOLDABLE.finditer(line, 0, MAX_LINE_OCTETS)]
            cut = places[-1] if places else 0
            if not cut:
                break
            folded.append(line[:cut])
            line = line[cut:]
        folded.append(line)
    return b"\r\n".join(folded)
