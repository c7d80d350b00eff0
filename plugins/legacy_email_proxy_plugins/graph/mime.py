"""The parts of a MIME message that is on disk, found in one pass without reading it into memory (RFC 2046).

The standard library's parser has every part in memory, several times. Here it reads the headers only; a body is a range
of the file, and is decoded from there.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import IO

__all__ = ("Part", "decode", "parts", "text_of")

_LINE_OCTETS = 65536
_HEADER_OCTETS = 65536
_MOST_NESTED = 50
_MOST_PARTS = 1000
_NO_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")


@dataclass(frozen=True, slots=True)
class Part:
    """A part without parts of its own: its header, and where its body is."""

    header: Message
    start: int
    end: int

    @property
    def type(self) -> str:
        """Such as ``text/plain``."""
        return self.header.get_content_type()

    @property
    def attached(self) -> bool:
        """Whether the message says that it is no text to read, but a file."""
        disposition = str(self.header.get("Content-Disposition", "")).strip().lower()
        return disposition.startswith("attachment") or bool(self.name)

    @property
    def name(self) -> str:
        """The file's name, ``""`` if it has none."""
        given = self.header.get_param("filename", None, "Content-Disposition") or self.header.get_param("name")
        return text_of(collapse_rfc2231_value(given)) if given else ""

    @property
    def content_id(self) -> str:
        """By which the HTML of the message shows a picture."""
        return str(self.header.get("Content-ID", "")).strip().strip("<>")

    @property
    def charset(self) -> str:
        """Of a text."""
        return self.header.get_content_charset() or "utf-8"


def text_of(value: object) -> str:
    """A field's text, encoded words (RFC 2047) decoded as far as they can be."""
    text = str(value)
    try:
        return str(make_header(decode_header(text)))
    except (ValueError, LookupError, MessageError):
        return text


def parts(file: IO[bytes], header: bytes, start: int, end: int) -> list[Part]:
    """The parts of the message with this header, whose body is from ``start`` to ``end`` of ``file``, in order."""
    return list(_Scan(file, header, start, end).parts())


class _Scan:
    def __init__(self, file: IO[bytes], header: bytes, start: int, end: int) -> None:
        self._file = file
        self._end = end
        self._start = start
        self._boundaries: list[bytes] = []
        self._leaf: tuple[Message, int] | None = None
        self._begin(header, start)

    def _begin(self, header: bytes, start: int) -> None:
        """A part begins: with a boundary of its own it has parts, else it is one to find."""
        message = message_from_bytes(header)
        boundary = message.get_boundary() if message.get_content_maintype() == "multipart" else None
        if boundary and len(self._boundaries) < _MOST_NESTED:
            self._boundaries.append(boundary.rstrip().encode("utf-8", "surrogateescape"))
        else:
            self._leaf = message, start

    def parts(self) -> Iterator[Part]:
        header: bytearray | None = None
        found = 0
        for place, line in self._lines():
            if line[:2] == b"--" and self._boundaries and found < _MOST_PARTS and (at := self._boundary(line)):
                depth, last = at
                if self._leaf is not None:
                    yield self._ended(place)
                    found += 1
                del self._boundaries[depth if last else depth + 1 :]
                header = None if last else bytearray()
            elif header is not None:
                if line in (b"\r\n", b"\n"):
                    self._begin(bytes(header), place + len(line))
                    header = None
                elif len(header) < _HEADER_OCTETS:
                    header += line
        if self._leaf is not None:
            yield self._ended(self._end + 2)

    def _ended(self, place: int) -> Part:
        assert self._leaf is not None  # noqa: S101 (for the type checker)
        message, start = self._leaf
        self._leaf = None
        # The line end before a boundary belongs to the boundary.
        return Part(message, start, max(start, min(place - 2, self._end)))

    def _boundary(self, line: bytes) -> tuple[int, bool] | None:
        """Which boundary it is, by its place, and whether it is the last of its kind."""
        said = line.rstrip()[2:]
        for depth in reversed(range(len(self._boundaries))):
            if said == self._boundaries[depth]:
                return depth, False
            if said == self._boundaries[depth] + b"--":
                return depth, True
        return None

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        self._file.seek(self._start)
        place = self._start
        whole = True
        while place < self._end and (line := self._file.readline(min(_LINE_OCTETS, self._end - place))):
            # The rest of an overlong line is no line of its own.
            yield place, line if whole else b" "
            whole = line.endswith(b"\n")
            place += len(line)


def decode(file: IO[bytes], part: Part, into: IO[bytes]) -> int:
    """Write the body of ``part`` without its transfer encoding; returns how many octets these are."""
    encoding = str(part.header.get("Content-Transfer-Encoding", "")).strip().lower()
    octets = 0
    left = b""
    file.seek(part.start)
    place = part.start
    while place < part.end and (piece := file.read(min(_LINE_OCTETS, part.end - place))):
        place += len(piece)
        if encoding == "base64":
            whole = left + _NO_BASE64.sub(b"", piece)
            stop = len(whole) - len(whole) % 4
            piece, left = binascii.a2b_base64(whole[:stop]), whole[stop:]
        elif encoding == "quoted-printable":
            whole = left + piece
            stop = whole.rfind(b"\n") + 1 or (len(whole) - 3 if len(whole) > _LINE_OCTETS else 0)
            piece, left = binascii.a2b_qp(whole[:stop]), whole[stop:]
        octets += into.write(piece)
    if encoding == "base64" and len(left) > 1:
        octets += into.write(binascii.a2b_base64(left + b"=" * (-len(left) % 4)))
    elif encoding == "quoted-printable":
        octets += into.write(binascii.a2b_qp(left))
    return octets
