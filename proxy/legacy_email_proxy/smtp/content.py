"""Where a message ends and what its lines are: the octets behind DATA, as they come and as they are passed on.

The line-end policy of the SMTP leg lives here and nowhere else. Only CRLF.CRLF ends a message (RFC 5321 §4.1.1.4);
every other line end, a bare CR or a bare LF, becomes CRLF *after* the end was looked for. So what a lenient server
behind us could take for an end-of-data is, by then, a line like any other and dot-stuffed like any other: the
sequences of "SMTP smuggling" (CVE-2023-51764 and its kin) can not split a message in two.
"""

from __future__ import annotations

import re

__all__ = ("DataDecoder", "normalised")

_END = b"\r\n.\r\n"
_ANY_LINE_END = re.compile(rb"\r\n|\r|\n")


class DataDecoder:
    """Turns the octets behind DATA into content: dot-stuffing taken off (§4.5.2), every line end CRLF.

    Feed it what arrives; once :attr:`ended` is true, :attr:`rest` holds the octets behind the end-of-data, which are
    the next commands. Holds back at most four octets between calls, however the input is cut.
    """

    def __init__(self) -> None:
        self.ended = False
        self.rest = b""
        # The content begins on a fresh line, so that a first line of "." is an end-of-data. This CRLF isn't content.
        self._held = b"\r\n"
        self._virtual = 2

    def feed(self, octets: bytes) -> bytes:
        """Decode what can be decoded; the result may be empty. Not to be called after the end."""
        buffer = self._held + octets
        end = buffer.find(_END)
        if end >= 0:
            self.ended = True
            self.rest = buffer[end + len(_END) :]
            self._held = b""
            return self._decoded(buffer[: end + 2])
        keep = _overlap(buffer)
        self._held = buffer[len(buffer) - keep :]
        return self._decoded(buffer[: len(buffer) - keep])

    def _decoded(self, raw: bytes) -> bytes:
        if not raw:
            return raw
        content = normalised(raw.replace(b"\r\n.", b"\r\n"))[self._virtual :]
        self._virtual = 0
        return content


def normalised(octets: bytes) -> bytes:
    """``octets`` with every bare CR and bare LF made into CRLF."""
    pairs = octets.count(b"\r\n")
    if octets.count(b"\n") == pairs and octets.count(b"\r") == pairs:
        return octets
    return _ANY_LINE_END.sub(b"\r\n", octets)


def _overlap(buffer: bytes) -> int:
    """How many octets at the end could be the beginning of an end-of-data."""
    for length in range(min(len(_END) - 1, len(buffer)), 0, -1):
        if buffer.endswith(_END[:length]):
            return length
    return 0
