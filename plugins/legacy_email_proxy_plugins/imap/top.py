"""How much of a message TOP needs (RFC 1939 §7), told from the pieces of it that have arrived."""

from __future__ import annotations

import re

__all__ = ("TopCounter",)

_BLANK_LINE = re.compile(rb"(?:\A|\n)\r?\n")


class TopCounter:
    """Counts the body's lines. A line ends at LF, with or without CR: the core repairs bare ones after us."""

    def __init__(self, lines: int) -> None:
        self._missing = lines
        self._header = b""
        self._in_body = False

    def is_enough(self, octets: bytes) -> bool:
        """Whether the header, the blank line and the lines asked for have come, now that ``octets`` have."""
        if not self._in_body:
            # The blank line may lie across the border of two pieces, so what is kept begins where a line ended.
            text = self._header + octets
            blank = _BLANK_LINE.search(text)
            if blank is None:
                self._header = text if len(text) <= 2 else b"x" + text[-2:]
                return False
            self._in_body = True
            octets = text[blank.end() :]
        self._missing -= octets.count(b"\n")
        return self._missing <= 0
