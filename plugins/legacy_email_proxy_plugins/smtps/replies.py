"""What the backend says, without I/O: octets become replies, and each reply belongs to a question (RFC 5321 §4.2).

Replies have no numbers: the only thing that ties one to a command is that both are counted. So the reader is told of
every question, and knows at any time whether something was said that nobody had asked for.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from ..redaction import without_secrets

__all__ = (
    "CLOSING",
    "MAX_LINE_OCTETS",
    "MAX_REPLY_OCTETS",
    "UNASKED",
    "Malformed",
    "Reply",
    "ReplyReader",
    "one_line",
    "redacted",
)

MAX_LINE_OCTETS = 8192
"""A reply line longer than this is no reply. RFC 5321 §4.5.3.1.5 allows 512; real servers put whole URLs there."""

MAX_REPLY_OCTETS = 65536
"""All that is kept of a backend's words until somebody wants them: a reply without an end can't fill the memory."""

_FURTHER_REPLY_OCTETS = 1024
"""What is kept beyond that for each further reply that is owed, so that a hundred recipients have their verdicts."""

CLOSING = 421
"""Answers no command: the backend closes the connection (RFC 5321 §3.8), and may say so at any time."""

UNASKED = "it sent, unasked"
"""What is said of words that answer nothing."""

_SHOWN = 400
_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?!\S)")


class Malformed(Exception):
    """What came is no SMTP reply. Nothing that follows on this connection can be matched to a command any more.

    ``said`` is the line in question, whole and as it came: whoever shows it takes secrets out first.
    """

    def __init__(self, reason: str, said: str = "") -> None:
        super().__init__(reason)
        self.said = said


@dataclass(slots=True)
class Reply:
    """One whole reply: its code, and the text of each line as it came (RFC 5321 §4.2)."""

    code: int
    lines: tuple[str, ...]

    @property
    def positive(self) -> bool:
        """2yz: done."""
        return self.code // 100 == 2

    @property
    def negative(self) -> bool:
        """4yz or 5yz: refused."""
        return self.code >= 400

    @property
    def postponed(self) -> bool:
        """4yz: not now."""
        return self.code // 100 == 4

    @property
    def enhanced(self) -> str:
        """The RFC 3463 code with which the text starts (RFC 2034), or ``""``; it has the reply's class."""
        return self._split(self.lines[0])[0]

    @property
    def text(self) -> str:
        """The words of all lines, without their enhanced codes."""
        return " ".join(filter(None, (self._split(line)[1] for line in self.lines)))

    @property
    def whole(self) -> str:
        """Everything that was said, with nothing left out."""
        return f"{self.code} {' '.join(self.lines)}"

    def _split(self, line: str) -> tuple[str, str]:
        match = _ENHANCED.match(line)
        if match is None or match[1] != str(self.code)[0]:
            return "", line.strip()
        return match[0], line[match.end() :].strip()

    def __str__(self) -> str:
        """For the log: one line without control characters, at most 400 characters."""
        return one_line(self.whole)


def one_line(text: str) -> str:
    """``text`` for the log: one line without control characters, at most 400 characters."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).strip()[:_SHOWN]


class ReplyReader:
    """Octets in, replies out, each for a question that was told to :meth:`ask`.

    It holds a bounded number of octets, and raises :class:`Malformed` beyond them.
    """

    def __init__(self) -> None:
        self.owed = 0
        """Replies that were asked for and that nobody has taken yet."""
        self._unfinished = b""  # of a line
        self._code = b""
        self._lines: list[str] = []  # of a reply
        self._octets = 0
        self._replies: deque[tuple[Reply, int]] = deque()
        self._held = 0

    def ask(self, replies: int) -> None:
        """So many replies are owed from now on, beside those that are owed already."""
        self.owed += replies

    def feed(self, octets: bytes) -> None:
        """Take what arrived. Raises :class:`Malformed`; the reader is of no use after that."""
        self._held += len(octets)
        if self._held > MAX_REPLY_OCTETS + _FURTHER_REPLY_OCTETS * max(0, self.owed - 1):
            raise Malformed(f"it sent more than {MAX_REPLY_OCTETS} octets of reply")
        lines = (self._unfinished + octets).split(b"\n")
        self._unfinished = lines.pop()
        for line in lines:
            self._take(line)
        if len(self._unfinished) > MAX_LINE_OCTETS:
            raise Malformed(f"it sent a line of more than {MAX_LINE_OCTETS} octets")

    def _take(self, line: bytes) -> None:
        self._octets += len(line) + 1
        line = line.removesuffix(b"\r")
        match = _LINE.fullmatch(line)
        if match is None or len(line) > MAX_LINE_OCTETS:
            raise Malformed("it sent what is no reply", _text(line))
        code, more, text = match.groups(b"")
        if self._code and code != self._code:
            raise Malformed(f"it sent a reply that is {self._code.decode()} and {code.decode()} at once")
        self._lines.append(_text(text))
        if more == b"-":
            self._code = code
            return
        self._replies.append((Reply(int(code), tuple(self._lines)), self._octets))
        self._code = b""
        self._octets = 0
        self._lines.clear()

    def next(self) -> Reply | None:
        """The reply to the oldest question, or ``None`` when more has to arrive first.

        Raises :class:`Malformed` when more replies are there than were asked for: which of them is the one nobody can
        tell. A 421 behind them is no such riddle.
        """
        if not self._replies:
            return None
        if len(self._replies) > self.owed and (surplus := self._replies[self.owed][0]).code != CLOSING:
            raise Malformed(UNASKED, surplus.whole)
        reply, octets = self._replies.popleft()
        self._held -= octets
        self.owed -= 1
        return reply

    @property
    def arrived(self) -> bool:
        """Whether a whole reply waits to be taken."""
        return bool(self._replies)

    @property
    def unasked(self) -> str:
        """What was said beyond all questions, be it less than a reply, whole and as it came; ``""`` for nothing."""
        if len(self._replies) < self.owed:
            return ""
        if len(self._replies) > self.owed:
            return self._replies[self.owed][0].whole
        return self.part

    @property
    def part(self) -> str:
        """The beginning of a reply whose end has not come, whole and as it came."""
        if not (self._unfinished or self._code):
            return ""
        return " ".join([self._code.decode(), *self._lines, _text(self._unfinished)]).strip() or "a blank"


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")


def redacted(said: str, secrets: Collection[str]) -> str:
    """``said`` for the log: as :func:`one_line`, without any of ``secrets``."""
    return one_line(without_secrets(said, secrets))
