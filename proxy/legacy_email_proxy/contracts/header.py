"""A message as octets: its header block, and its line ends.

Fields are changed in place, and not parsed and written anew as email libraries do: those alter fields that are badly
folded, 8-bit, repeated or empty, which breaks signatures and devices' own formats. A field that nobody changes stays as
it is, octet for octet (RFC 5322 §2.2).
"""

from __future__ import annotations

import io
import re

__all__ = ("Header", "normalised")

_FIELD = re.compile(rb"[^\n]*\n(?:[ \t][^\n]*(?:\n|\Z))*|[^\n]+\Z")
_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_HARMFUL = re.compile(r"[\r\n\0]")
_NAME = re.compile(r"[!-9;-~]+")
_LINE_OCTETS = 78
"""The length that a line should have at most (RFC 5322 §2.1.1)."""
_ANY_LINE_END = re.compile(rb"\r\n|\r|\n")


class Header:
    """The lines of a header block, without the empty line behind it.

    Names are compared without regard to case. Values are text: octets that are not UTF-8 are surrogates in it
    (``surrogateescape``), so that they are written back unchanged; NUL is read as a blank. Encoded words (RFC 2047) are
    left encoded; a caller that sets a value which is not ASCII must encode it.
    """

    __slots__ = ("_fields", "_names")

    def __init__(self, octets: bytes = b"") -> None:
        self._fields: list[bytes] = _FIELD.findall(octets)
        self._names = [_name(one) for one in self._fields]

    @property
    def octets(self) -> bytes:
        """The block as it goes on."""
        return b"".join(self._fields)

    def __contains__(self, name: str) -> bool:
        return bool(self._places(name))

    def get(self, name: str) -> str | None:
        """The unfolded value of the first field of that name, without blanks around it; ``None`` if there is none."""
        return next((self._value(place) for place in self._places(name)), None)

    def get_all(self, name: str) -> list[str]:
        """The unfolded values of all fields of that name, from the top."""
        return [self._value(place) for place in self._places(name)]

    def items(self) -> list[tuple[str, str]]:
        """Name in lower case and unfolded value of each field, from the top; ``""`` where there is no name."""
        return [(name.decode("utf-8", "surrogateescape"), self._value(place)) for place, name in enumerate(self._names)]

    def add(self, name: str, value: str) -> None:
        """Add a field behind the others, folded at blanks where it is long.

        Raises :class:`ValueError` for an invalid name and for a value with a line end or NUL in it.
        """
        line = _folded(name, value)
        if self._fields and not self._fields[-1].endswith(b"\n"):
            self._fields[-1] += b"\r\n"
        self._fields.append(line)
        self._names.append(_name(line))

    def replace(self, name: str, value: str) -> None:
        """Put one field in the place of the first one of that name and drop the others; add it if there is none."""
        places = self._places(name)
        if not places:
            self.add(name, value)
            return
        self._fields[places[0]] = _folded(name, value)
        self._drop(places[1:])

    def remove(self, name: str) -> None:
        """Remove all fields of that name."""
        self._drop(self._places(name))

    def _drop(self, places: list[int]) -> None:
        dropped = set(places)
        if dropped:
            self._fields = [one for place, one in enumerate(self._fields) if place not in dropped]
            self._names = [one for place, one in enumerate(self._names) if place not in dropped]

    def _places(self, name: str) -> list[int]:
        wanted = name.lower().encode()
        return [place for place, one in enumerate(self._names) if one == wanted]

    def _value(self, place: int) -> str:
        value = self._fields[place].partition(b":")[2]
        text = _FOLD.sub(b"", value).strip(b" \t\r\n").decode("utf-8", "surrogateescape")
        # So that a value which was read can be set again; otherwise a device that sends NUL could never send its mail.
        return _HARMFUL.sub(" ", text)


def _name(line: bytes) -> bytes:
    name, colon, _ = line.partition(b":")
    # A blank before the colon, an obsolete form, is no part of the name (RFC 5322 §4.5).
    return name.rstrip(b" \t").lower() if colon else b""


def _folded(name: str, value: str) -> bytes:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a field")
    if _HARMFUL.search(value):
        # Otherwise a value from outside could add fields, or end the header.
        raise ValueError(f"the value of {name} has a line end or NUL in it")
    lines: list[bytes] = []
    line = beginning = f"{name}:".encode("ascii")
    # Folded only before a blank that follows a word, never into a line of blanks, so that unfolding restores the value.
    for word in re.findall(rb"[ \t]*[^ \t]+", b" " + value.strip(" \t").encode("utf-8", "surrogateescape")):
        if len(line) + len(word) > _LINE_OCTETS and line is not beginning:
            lines.append(line)
            line = word
        else:
            line += word
    return b"\r\n".join([*lines, line]) + b"\r\n"


def normalised(octets: bytes) -> bytes:
    """``octets`` with every bare CR and bare LF made into CRLF; the same object where there is none.

    A mail server reads CRLF as a line end, and nothing else (RFC 5321 §2.3.8).
    """
    # Used as a scanner only: nothing else in the standard library finds all three kinds of line ends in one pass.
    line_ends = io.IncrementalNewlineDecoder(None, translate=False)
    line_ends.decode(octets.decode("latin-1"), final=True)
    if line_ends.newlines in (None, "\r\n"):
        return octets
    return _ANY_LINE_END.sub(b"\r\n", octets)
