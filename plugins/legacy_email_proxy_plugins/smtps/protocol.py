"""The protocol without I/O: reads the backend's replies, builds the commands, and encodes the content.

Octets become replies, and each reply belongs to a command (RFC 5321 §4.2). Replies have no numbers: only counting both
shows which reply belongs to which command. So the reader is told of every command, and can always tell whether the
backend has sent something unasked.

The backend's extensions decide which commands it gets (§4.1). Only this module puts a client's values into a command.
Content gets its line ends, transparency and end-of-data (§2.3.8, §4.5.2).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from legacy_email_proxy.contracts import Parameters, Refused, normalised

from ..redaction import without_secrets

__all__ = (
    "CLOSING",
    "MAX_LINE_OCTETS",
    "MAX_REPLY_OCTETS",
    "UNASKED",
    "ContentEncoder",
    "Extensions",
    "Malformed",
    "Reply",
    "ReplyReader",
    "command",
    "mail_command",
    "one_line",
    "rcpt_command",
    "redacted",
)

MAX_LINE_OCTETS = 8192
"""A longer line is not accepted as a reply. RFC 5321 §4.5.3.1.5 allows 512; real servers send whole URLs."""

MAX_REPLY_OCTETS = 65536
"""The most that is kept of replies until they are read, so that a reply without an end can't fill the memory."""

_FURTHER_REPLY_OCTETS = 1024
"""What may be kept in addition for each further reply that is owed: a hundred recipients have a hundred replies."""

CLOSING = 421
"""Answers no command: the backend closes the connection (RFC 5321 §3.8), and may say so at any time."""

UNASKED = "it sent, unasked"
"""The reason in :class:`Malformed` for a reply that answers no command."""

_REMEMBERED = 128
"""How many reply lines, and how many commands with an address, are kept beside what was made of them: most come again
with the next message."""

_SHOWN = 400
_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?!\S)")


class Malformed(Exception):
    """The backend sent something that is no valid reply. Nothing that follows can be matched to a command any more.

    ``said`` is that line, whole and unchanged: before it is shown, secrets have to be removed.
    """

    def __init__(self, reason: str, said: str = "") -> None:
        super().__init__(reason)
        self.said = said


class Reply(NamedTuple):
    """One whole reply: its code, and the unchanged text of each line (RFC 5321 §4.2)."""

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
        """The complete reply, unchanged: the code and all lines."""
        return f"{self.code} {' '.join(self.lines)}"

    def _split(self, line: str) -> tuple[str, str]:
        match = _ENHANCED.match(line)
        if match is None or match[1] != str(self.code)[0]:
            return "", line.strip()
        return match[0], line[match.end() :].strip()

    def __str__(self) -> str:
        """For the log: one line without control characters, at most 400 characters."""
        return one_line(self.whole)


_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def one_line(text: str) -> str:
    """``text`` for the log: one line without control characters, at most 400 characters."""
    if "  " in text or not text.isprintable():
        text = _BLANKS.sub(" ", text)
    return text.strip()[:_SHOWN]


@lru_cache(_REMEMBERED)
def _parsed(line: bytes) -> tuple[Reply, bool]:
    """One line of a reply, as if it were all of it, and whether another line follows. Raises :class:`Malformed`."""
    line = line.removesuffix(b"\r")
    match = _LINE.fullmatch(line)
    if match is None or len(line) > MAX_LINE_OCTETS:
        raise Malformed("it sent what is no reply", _text(line))
    code, more, text = match.groups(b"")
    return Reply(int(code), (_text(text),)), more == b"-"


class ReplyReader:
    """Turns octets into replies, each to a command that was counted by :meth:`ask`.

    It holds a limited number of octets, and raises :class:`Malformed` beyond that.
    """

    def __init__(self) -> None:
        self.owed = 0
        """How many replies were asked for and not taken yet."""
        self._unfinished = b""  # of a line
        self._code = 0  # of a reply whose last line has not come yet
        self._lines: list[str] = []
        self._octets = 0  # of these lines
        self._replies: deque[Reply] = deque()
        self._held = 0
        """How many octets came since no whole reply was waiting."""

    def ask(self, replies: int) -> None:
        """Count so many replies more as owed."""
        self.owed += replies

    def feed(self, octets: bytes) -> None:
        """Take octets that arrived. Raises :class:`Malformed`; after that the reader can not be used any more."""
        self._held += len(octets)
        if self._held > MAX_REPLY_OCTETS and self._held > MAX_REPLY_OCTETS + _FURTHER_REPLY_OCTETS * (self.owed - 1):
            raise Malformed(f"it sent more than {MAX_REPLY_OCTETS} octets of reply")
        *lines, self._unfinished = (self._unfinished + octets).split(b"\n")
        for line in lines:
            reply, more = _parsed(line)
            if more or self._code:
                self._join(reply, more, len(line) + 1)
            else:
                self._replies.append(reply)
        if len(self._unfinished) > MAX_LINE_OCTETS:
            raise Malformed(f"it sent a line of more than {MAX_LINE_OCTETS} octets")

    def _join(self, line: Reply, more: bool, octets: int) -> None:
        if self._code and line.code != self._code:
            raise Malformed(f"it sent a reply that is {self._code} and {line.code} at once")
        self._lines += line.lines
        self._code, self._octets = line.code, self._octets + octets
        if not more:
            self._replies.append(Reply(line.code, tuple(self._lines)))
            self._code = self._octets = 0
            self._lines.clear()

    def next(self) -> Reply | None:
        """The reply to the oldest command, or ``None`` when more has to arrive first.

        Raises :class:`Malformed` when there are more replies than were asked for, because it is unknown which one is
        unasked. A 421 behind the owed replies is allowed.
        """
        replies = self._replies
        if not replies:
            return None
        if len(replies) > self.owed and (surplus := replies[self.owed]).code != CLOSING:
            raise Malformed(UNASKED, surplus.whole)
        reply = replies.popleft()
        self.owed -= 1
        if not replies:
            self._held = self._octets + len(self._unfinished)
        return reply

    @property
    def arrived(self) -> bool:
        """Whether a whole reply waits to be taken."""
        return bool(self._replies)

    @property
    def unasked(self) -> str:
        """What came beyond the replies that are owed, unchanged, also if it is only a part of one; ``""``: nothing."""
        beyond = len(self._replies) - self.owed
        if beyond > 0:
            return self._replies[self.owed].whole
        return "" if beyond or not (self._unfinished or self._code) else self.part

    @property
    def part(self) -> str:
        """The beginning, unchanged, of a reply whose end has not come yet."""
        if not (self._unfinished or self._code):
            return ""
        words = [str(self._code)] if self._code else []
        return " ".join([*words, *self._lines, _text(self._unfinished)]).strip() or "a blank"


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")


def redacted(said: str, secrets: Collection[str]) -> str:
    """``said`` for the log: as :func:`one_line` makes it, and without ``secrets``."""
    return one_line(without_secrets(said, secrets))


_SIZE = re.compile(r"[0-9]{1,20}")

# RFC 3461 §4: xtext is printable ASCII in which + and = stand as +2B and +3D.
_XTEXT = r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})"
_DSN_OF_MAIL = {
    "RET": re.compile(r"(?i:FULL|HDRS)"),
    "ENVID": re.compile(_XTEXT + "{1,100}"),
}
_DSN_OF_RCPT = {
    "NOTIFY": re.compile(r"(?i:NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2})"),
    "ORCPT": re.compile(r"[A-Za-z0-9-]{1,40};" + _XTEXT + "{1,500}"),
}


@dataclass(frozen=True, slots=True)
class Extensions:
    """What the backend offered in its reply to EHLO (RFC 5321 §4.1.1.1): keyword in upper case → its parameters."""

    keywords: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, reply: Reply) -> Extensions:
        """Read the reply to EHLO; its first line is a greeting and names no extension."""
        keywords: dict[str, tuple[str, ...]] = {}
        for line in reply.lines[1:]:
            # Old servers write AUTH=LOGIN, some of them beside a proper AUTH line.
            words = re.sub(r"(?i)^AUTH=", "AUTH ", line).upper().split()
            if words:
                keywords[words[0]] = keywords.get(words[0], ()) + tuple(words[1:])
        return cls(keywords)

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.keywords

    @property
    def max_octets(self) -> int | None:
        """SIZE (RFC 1870 §4); ``None`` when there is no limit (0) or none is named."""
        value = next(iter(self.keywords.get("SIZE", ())), "")
        return (int(value) or None) if _SIZE.fullmatch(value) else None

    @property
    def mechanisms(self) -> frozenset[str]:
        """The SASL mechanisms offered (RFC 4954 §3)."""
        return frozenset(self.keywords.get("AUTH", ()))


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Characters that end a path, or start a parameter behind it, may stand only in a quoted string. With a backslash
# elsewhere, the backend might see the beginning of a quoted string in another place than we do.
_PATH = re.compile(r'(?:[^\x00-\x20\x7f-\x9f<>"\\]|"(?:[^\x00-\x1f\x7f-\x9f"\\]|\\[\x20-\x7e])*")*')


def command(*words: str) -> bytes:
    """A command line. Raises ``ValueError`` for a control character: a CR or LF would make two commands of it."""
    line = " ".join(words)
    if _CONTROL.search(line):
        raise ValueError(f"no SMTP command holds control characters: {line!a}")
    return line.encode("utf-8") + b"\r\n"


def mail_command(reverse_path: str, parameters: Parameters, extensions: Extensions) -> bytes:
    """``MAIL FROM`` with those of the client's parameters that the backend knows.

    Raises :class:`Refused`, before anything is sent, if the backend can't take this sender.
    """
    line = _naming("MAIL FROM", reverse_path, "SMTPUTF8" in parameters, "5.1.7")
    if not parameters:
        return line
    words = []
    size = parameters.get("SIZE") or ""
    if "SIZE" in extensions and _SIZE.fullmatch(size):
        words.append(f"SIZE={size}")
    if "8BITMIME" in extensions and (parameters.get("BODY") or "").upper() == "8BITMIME":
        words.append("BODY=8BITMIME")
    if "SMTPUTF8" in parameters:
        if "SMTPUTF8" not in extensions:
            raise Refused(550, "5.6.7", "The backend does not take internationalized mail (SMTPUTF8)")
        words.append("SMTPUTF8")
    if "DSN" in extensions:
        words += _valid(parameters, _DSN_OF_MAIL)
    return _with_words(line, words)


def rcpt_command(
    forward_path: str, parameters: Parameters, mail_parameters: Parameters, extensions: Extensions
) -> bytes:
    """``RCPT TO`` with those of the client's parameters for this recipient that the backend knows.

    Raises :class:`Refused`, before anything is sent, if the path is no address.
    """
    line = _naming("RCPT TO", forward_path, "SMTPUTF8" in mail_parameters, "5.1.3")
    if parameters and "DSN" in extensions:
        return _with_words(line, _valid(parameters, _DSN_OF_RCPT))
    return line


def _with_words(line: bytes, words: list[str]) -> bytes:
    return b"%b %b" % (line.removesuffix(b"\r\n"), command(*words)) if words else line


def _valid(parameters: Parameters, known: Mapping[str, re.Pattern[str]]) -> list[str]:
    """Those of ``parameters`` that are known and have a valid value. The others are optional, and left out."""
    given = ((keyword, pattern, parameters.get(keyword)) for keyword, pattern in known.items())
    return [f"{keyword}={value}" for keyword, pattern, value in given if value and pattern.fullmatch(value)]


@lru_cache(_REMEMBERED)
def _naming(verb: str, path: str, utf8: bool, enhanced: str) -> bytes:
    """The command that names the path, unchanged: if it were rewritten, the mail might go to another person."""
    if not _PATH.fullmatch(path) or not _encodable(path):
        raise Refused(
            553, enhanced, "That is no address", detail=f"{path!a} is no address, and was not sent to the backend"
        )
    if not path.isascii() and not utf8:
        raise Refused(553, "5.6.7", "An address outside ASCII needs SMTPUTF8")
    return command(f"{verb}:<{path}>")


def _encodable(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class ContentEncoder:
    """Turns content, given in pieces of any size, into what follows a 354 or, without ``dots``, a BDAT.

    The core promises CRLF line ends. This class does not rely on that: in a piece with a dot, a bare CR or LF becomes
    CRLF. Otherwise ``LF . LF`` would end the message for some servers, and they would read what follows as commands
    under our login. A piece without a dot, such as base64, can not end the message.
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
        # Also a piece that ends in a bare LF, because the next piece could begin with a dot.
        if dotted or (octets.endswith(b"\n") and not octets.endswith(b"\r\n")):
            octets = normalised(octets)
        if dotted:
            if self._at_line_start and octets.startswith(b"."):
                octets = b"." + octets
            octets = octets.replace(b"\r\n.", b"\r\n..")
        self._at_line_start = octets.endswith(b"\r\n")
        return octets

    def end(self) -> bytes:
        """The end of the content: a line end if the last line has none, and with ``dots`` the final dot."""
        line_end = b"" if self._at_line_start and not self._held else b"\r\n"
        return line_end + b".\r\n" if self._dots else line_end
