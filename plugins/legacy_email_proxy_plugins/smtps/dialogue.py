"""The words of the outgoing dialogue, without any I/O: replies and extensions come in, commands go out (RFC 5321 §4).

What a backend sends is judged here before anybody believes it, and what a client gave becomes part of a command here
and nowhere else.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from legacy_email_proxy.contracts import Parameters, Refused

__all__ = (
    "MAX_LINE_OCTETS",
    "MAX_REPLY_OCTETS",
    "Extensions",
    "Malformed",
    "Reply",
    "ReplyReader",
    "command",
    "mail_command",
    "rcpt_command",
    "redacted",
    "refusal",
)

MAX_LINE_OCTETS = 8192
"""A reply line longer than this is no reply. RFC 5321 §4.5.3.1.5 allows 512; real servers put whole URLs there."""

MAX_REPLY_OCTETS = 65536
"""All that is kept of a backend's words until somebody wants them: a reply without an end can't fill the memory."""

_SHOWN = 400
_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?!\S)")
_SIZE = re.compile(r"\d{1,20}")


class Malformed(Exception):
    """What came is no SMTP reply. Nothing that follows on this connection can be matched to a command any more."""


@dataclass(frozen=True, slots=True)
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
    def enhanced(self) -> str:
        """The RFC 3463 code with which the text starts (RFC 2034), or ``""``; it has the reply's class."""
        return self._split(self.lines[0])[0]

    @property
    def text(self) -> str:
        """The words of all lines, without their enhanced codes."""
        return " ".join(filter(None, (self._split(line)[1] for line in self.lines)))

    def _split(self, line: str) -> tuple[str, str]:
        match = _ENHANCED.match(line)
        if match is None or match[1] != str(self.code)[0]:
            return "", line.strip()
        return match[0], line[match.end() :].strip()

    def __str__(self) -> str:
        """For the log: one line without control characters, at most 400 characters."""
        return _one_line(f"{self.code} {' '.join(self.lines)}")


def _one_line(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).strip()[:_SHOWN]


class ReplyReader:
    """Octets in, replies out. It holds at most :data:`MAX_REPLY_OCTETS`, and raises :class:`Malformed` beyond them."""

    def __init__(self) -> None:
        self._octets = bytearray()
        self._code = b""
        self._lines: list[str] = []
        self._unfinished = 0
        self._replies: deque[tuple[Reply, int]] = deque()
        self._held = 0

    def feed(self, octets: bytes) -> None:
        """Take what arrived. Raises :class:`Malformed`; the reader is of no use after that."""
        self._held += len(octets)
        if self._held > MAX_REPLY_OCTETS:
            raise Malformed(f"it sent more than {MAX_REPLY_OCTETS} octets of reply")
        self._octets += octets
        start = 0
        while (end := self._octets.find(b"\n", start)) >= 0:
            self._take(bytes(self._octets[start:end]).removesuffix(b"\r"))
            self._unfinished += end + 1 - start
            start = end + 1
            if not self._code:
                self._replies[-1] = (self._replies[-1][0], self._unfinished)
                self._unfinished = 0
        del self._octets[:start]
        if len(self._octets) > MAX_LINE_OCTETS:
            raise Malformed(f"it sent a line of more than {MAX_LINE_OCTETS} octets")

    def _take(self, line: bytes) -> None:
        match = _LINE.fullmatch(line)
        if match is None or len(line) > MAX_LINE_OCTETS:
            raise Malformed(f"it sent {line[:80]!r}, which is no reply")
        code, more, text = match.groups(b"")
        if self._code and code != self._code:
            raise Malformed(f"it sent a reply that is {self._code.decode()} and {code.decode()} at once")
        self._code = code
        self._lines.append(text.decode("utf-8", "replace"))
        if more != b"-":
            self._replies.append((Reply(int(code), tuple(self._lines)), 0))
            self._code = b""
            self._lines.clear()

    def next(self) -> Reply | None:
        """The next whole reply, or ``None`` when more has to arrive first."""
        if not self._replies:
            return None
        reply, octets = self._replies.popleft()
        self._held -= octets
        return reply

    @property
    def pending(self) -> bool:
        """Whether anything came that nobody has taken, be it less than a reply."""
        return bool(self._replies or self._octets or self._code)

    def __str__(self) -> str:
        """What is pending, for the log."""
        if self._replies:
            return str(self._replies[0][0])
        return ascii(" ".join([*self._lines, bytes(self._octets[:80]).decode("latin-1")]))


@dataclass(frozen=True, slots=True)
class Extensions:
    """What the backend offered in its reply to EHLO (RFC 5321 §4.1.1.1): keyword in upper case → its parameters."""

    keywords: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, reply: Reply) -> Extensions:
        """Read the reply to EHLO; its first line is a greeting and says nothing."""
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
# What ends a path, or starts a parameter behind it, may stand in a quoted string only. A backslash elsewhere would let
# the backend and us disagree on where a quoted string begins.
_PATH = re.compile(r'(?:[^\x00-\x20\x7f-\x9f<>"\\]|"(?:[^\x00-\x1f\x7f-\x9f"\\]|\\[\x20-\x7e])*")*')


def command(*words: str) -> bytes:
    """A command line. Raises ``ValueError`` for a control character: a CR or LF would make two commands of it."""
    line = " ".join(words)
    if _CONTROL.search(line):
        raise ValueError(f"no SMTP command holds control characters: {line!a}")
    return line.encode("utf-8") + b"\r\n"


def mail_command(reverse_path: str, parameters: Parameters, extensions: Extensions) -> bytes:
    """``MAIL FROM`` with those of the client's parameters that the backend knows.

    Raises :class:`Refused` where the backend can't take this sender, before anything is on the wire.
    """
    words = [f"MAIL FROM:<{_path(reverse_path, parameters, '5.1.7')}>"]
    size = parameters.get("SIZE") or ""
    if "SIZE" in extensions and _SIZE.fullmatch(size):
        words.append(f"SIZE={size}")
    if "8BITMIME" in extensions and (parameters.get("BODY") or "").upper() == "8BITMIME":
        words.append("BODY=8BITMIME")
    if "SMTPUTF8" in parameters:
        if "SMTPUTF8" not in extensions:
            raise Refused(550, "5.6.7", "The backend does not take internationalized mail (SMTPUTF8)")
        words.append("SMTPUTF8")
    return command(*words)


def rcpt_command(forward_path: str, mail_parameters: Parameters) -> bytes:
    """``RCPT TO``. Raises :class:`Refused` for what is no address, before anything is on the wire."""
    return command(f"RCPT TO:<{_path(forward_path, mail_parameters, '5.1.3')}>")


def _path(path: str, parameters: Parameters, enhanced: str) -> str:
    """The path, octet for octet: never rewritten, because a near miss is mail to somebody else."""
    if not _PATH.fullmatch(path) or not _encodable(path):
        raise Refused(
            553, enhanced, "That is no address", detail=f"{path!a} is no address, and was not sent to the backend"
        )
    if not path.isascii() and "SMTPUTF8" not in parameters:
        raise Refused(553, "5.6.7", "An address outside ASCII needs SMTPUTF8")
    return path


def _encodable(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def refusal(reply: Reply, stage: str) -> Refused:
    """The backend's 4yz or 5yz as the verdict that the device shall read."""
    return Refused(reply.code, reply.enhanced, reply.text, detail=f"{stage}: the backend said {reply}")


def redacted(reply: Reply, secrets: Collection[str]) -> str:
    """``str(reply)`` without any of ``secrets``: some servers repeat, in an error, the line they did not like."""
    # As it came and whole: what the log leaves out, blanks or the end, would hide a secret from this search, and the
    # rest of that secret would be shown.
    text = f"{reply.code} {' '.join(reply.lines)}"
    # The longest first: a short password may be a part of the base64 of the whole.
    for secret in sorted(filter(str.strip, secrets), key=len, reverse=True):
        text = re.sub(_repeated(secret.strip()), "***", text)
    # A repeated line may be cut, so any longer piece of what was sent is taken out as well.
    haystack = " ".join(secrets).lower()
    text = re.sub(r"[A-Za-z0-9+/=]{8,}", lambda word: "***" if word[0].lower() in haystack else word[0], text)
    return _one_line(text)


def _repeated(secret: str) -> str:
    """A pattern for what may have become of ``secret`` at the server: other case, other blanks, another charset."""
    # Outside printable ASCII any characters may have taken the place of the others: \ufffd or "?" for each octet (up to
    # four of them a character), the letters of a wrong charset, the blank between two lines for two blanks.
    runs = re.finditer(r"(?P<plain>[!-~]+)|[^!-~]+", secret)
    return "".join(
        f"(?i:{re.escape(run['plain'])})" if run["plain"] else f"[^!->@-~]{{1,{4 * len(run[0])}}}" for run in runs
    )
