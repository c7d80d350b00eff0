"""Lines that are longer than SMTP allows (998 octets, RFC 5321 §4.5.3.1.6) made short, without a change of meaning.

A message is read line by line, as it streams past. Text and all else that is sent as it is becomes quoted-printable
(RFC 2045 §6.7) where it has a long line. The part's header has to say so, and goes out first: so a part is held until a
long line comes, up to a limit. Long lines of base64 and quoted-printable are broken, header lines are folded. All else
passes as it is, so that a signature over it still holds: also signed and encrypted parts, and messages in messages
(RFC 2046 §5.2.1), with all that they contain.
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
_MAX_HELD_OCTETS = 1 << 18
"""How much of a part is held that had no long line yet. A larger one is decided without knowing the rest."""
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
    UNDECIDED = auto()
    TEXT = auto()
    QUOTED_PRINTABLE = auto()
    BASE64 = auto()


class LineShortener:
    """Fed with one message: its header block and what is behind it, then the rest, however it is cut."""

    def __init__(self) -> None:
        self.changed = False
        """Whether anything was made short."""
        self._mode = _Mode.UNTOUCHED
        self._signed = False
        # Of the part that is undecided: its header as it came and as it would be, and its lines.
        self._headers: tuple[bytes, bytes] | None = None
        self._lines: list[bytes] = []
        self._lines_octets = 0
        self._boundaries: list[bytes] = []
        self._header: list[bytes] = []
        self._header_octets = 0
        self._rest = b""
        self._inside = False

    def begin(self, block: bytes, rest: bytes) -> bytes:
        """The message's own header, as it goes on, and what can be said of ``rest``."""
        self._signed = b"dkim-signature" in block.lower()
        if rest.startswith(b"\r\n"):
            return self._part(block, outermost=True) + self.feed(rest[2:])
        return self._folded(block) + self.feed(rest)

    def feed(self, piece: bytes) -> bytes:
        """The lines that are whole, as they go on; may be empty."""
        *lines, rest = (self._rest + piece).split(b"\n")
        done: list[bytes] = []
        for line in lines:
            done.append(self._line(self._tail(line, done) + b"\n"))
        self._rest = self._tail(rest, done)
        return b"".join(done)

    def _tail(self, line: bytes, done: list[bytes]) -> bytes:
        """The last piece of a line; the pieces before it are done, so that no long line is held as a whole."""
        start = 0
        # One octet stays at least: it may be the CR of the line's end.
        while len(line) - start > _CHUNK_OCTETS:
            done.append(self._line(line[start : start + _CHUNK_OCTETS], goes_on=True))
            start += _CHUNK_OCTETS
        return line[start:]

    def end(self) -> bytes:
        """What is left when the content has ended."""
        last = self._line(self._rest) if self._rest else b""
        return last + b"".join(self._header) + self._settled()

    def _line(self, line: bytes, *, goes_on: bool = False) -> bytes:
        """One line with its end, or a piece of one."""
        inside, self._inside = self._inside, goes_on
        if not inside and not goes_on and line.startswith(b"--") and self._delimits(line):
            # A part that is all header and has not even an empty line passes as it is.
            header, self._header = b"".join(self._header), []
            return header + self._settled() + line
        if self._mode is _Mode.HEADER:
            return self._header_line(line, empty=line == b"\r\n" and not inside)
        if self._mode is _Mode.UNDECIDED:
            return self._looked_at(line, goes_on=goes_on)
        if self._mode is _Mode.TEXT:
            return _quoted(line, goes_on=goes_on)
        done = line
        if self._mode is _Mode.BASE64:
            done = _broken(line, goes_on=goes_on, inside=inside)
        if self._mode is _Mode.QUOTED_PRINTABLE:
            done = _softly_broken(line, goes_on=goes_on, inside=inside)
        self.changed = self.changed or done is not line
        return done

    def _looked_at(self, line: bytes, *, goes_on: bool) -> bytes:
        """What can be said of an undecided part now that this line is here; may be empty."""
        long = goes_on or len(line.removesuffix(b"\r\n")) > MAX_LINE_OCTETS
        if not long:
            self._lines.append(line)
            self._lines_octets += len(line)
            if self._lines_octets <= _MAX_HELD_OCTETS:
                return b""
        # Too much to hold: encoded, because one long line gets the mail refused, unless that would break a signature.
        self._mode = _Mode.TEXT if long or not self._signed else _Mode.UNTOUCHED
        return self._settled() + (_quoted(line, goes_on=goes_on) if long else b"")

    def _settled(self) -> bytes:
        """All that was held of a part, by now decided; nothing if none is."""
        if self._headers is None:
            return b""
        (as_it_came, encoded), self._headers = self._headers, None
        lines, self._lines = self._lines, []
        if self._mode is not _Mode.TEXT:
            return b"".join([as_it_came, *lines])
        self.changed = True
        return b"".join([encoded, *(_quoted(line, goes_on=False) for line in lines)])

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
        return self._part(b"".join(lines[:-1]), outermost=False)

    def _part(self, block: bytes, *, outermost: bool) -> bytes:
        """The header of a part whose lines come now, and the empty line; nothing if the part is to be looked at."""
        header = Header(block)
        kind = (header.get("Content-Type") or "text/plain").partition(";")[0].strip().lower()
        encoding = (header.get("Content-Transfer-Encoding") or "").lower()
        as_it_came = self._folded(block) + b"\r\n"
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
            self._mode, self._lines_octets = _Mode.UNDECIDED, 0
            header.replace("Content-Transfer-Encoding", "quoted-printable")
            if outermost and "MIME-Version" not in header:
                header.add("MIME-Version", "1.0")
            self._headers = as_it_came, self._folded(header.octets) + b"\r\n"
            return b""
        return as_it_came

    def _folded(self, block: bytes) -> bytes:
        folded = _folded(block)
        self.changed = self.changed or folded != block
        return folded


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
    # The line's end is put back behind the last piece: a cut between its CR and LF would change the text.
    text = line.removesuffix(b"\r\n")
    pieces = []
    rest = text
    while len(rest) > _SOFT_COLUMNS:
        cut = _between(rest, _SOFT_COLUMNS)
        pieces.append(rest[:cut])
        rest = rest[cut:]
    if goes_on:
        cut = _between(rest, len(rest))
        pieces.append(rest[:cut])
        rest = rest[cut:]
    return b"=\r\n".join([*pieces, rest]) + line[len(text) :]


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
