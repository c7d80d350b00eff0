"""The header of a message on its way out: where it ends, the lines of our own above it, and what is left out of it.

Our lines stand above the device's, so what the device sent follows octet for octet (RFC 5321 §4.4, RFC 5322 §3.6).
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from typing import Any

from ..contracts import Client
from .mending import FIELD, LINE, LINES, TEXT_LINES, empty_line, extent, is_text, may_begin

__all__ = ("MAX_HEADER_OCTETS", "MAX_RECEIVED", "HeaderOptions", "HeaderReader", "loops", "own_lines", "protocol")

MAX_HEADER_OCTETS = 1 << 18
"""How much of a header is held. Exchange takes no more than this either."""

MAX_RECEIVED = 100
"""A message with more Received fields than this is taken for one that goes in circles (RFC 5321 §6.3)."""

_RECEIVED = re.compile(rb"\nreceived[ \t]*:")
_FROM = re.compile(rb"\nfrom[ \t]*:")
_DATE = re.compile(rb"\ndate[ \t]*:")
_MESSAGE_ID = re.compile(rb"\nmessage-id[ \t]*:")
_LINE_COLUMNS = 78
_NAME_COLUMNS = 60
_OURSELVES = "(Legacy Email Proxy)"
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._:\[\]-]+")


@dataclass(frozen=True, slots=True)
class HeaderOptions:
    """What is done to each message besides the filters. ``hostname`` is our own name."""

    hostname: str = "localhost"
    received: bool = False
    add_missing: bool = False
    add_from: bool = True
    """Whether From is among what is added: not where later filters may change the envelope."""
    remove_bcc: bool = False
    shorten_lines: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], hostname: str) -> HeaderOptions:
        """As the settings say; ``hostname`` is our own name."""
        return cls(
            hostname,
            received=settings["SMTP_ADD_RECEIVED"],
            add_missing=settings["SMTP_ADD_MISSING"],
            add_from=settings["ACCOUNTS_FILE"] is None,
            remove_bcc=settings["SMTP_REMOVE_BCC"],
            shorten_lines=settings["SMTP_LONG_LINES"] == "encode",
        )

    @property
    def works_on_headers(self) -> bool:
        """Whether any of it changes a header, or puts lines above it."""
        return self.received or self.add_missing or self.remove_bcc or self.shorten_lines


class HeaderReader:
    """Collects content until its header is over: the first line that is no field, or the empty line.

    A message whose first line is no field has no header: its text must not be taken for one. But it may be a header
    that a program has spoilt; to tell that from text, what follows is held up to the next empty line.
    ``for_bcc``: a Bcc is reason enough to take that for a header, as it must not pass.
    """

    def __init__(self, *, for_bcc: bool = False) -> None:
        self.too_long = False
        self.spoilt = False
        """Whether the block is a header that not every server can read, see :mod:`mending`."""
        self._for_bcc = for_bcc
        self._held = bytearray()
        self._decided = 0
        # Where the first line begins that is no field, if a header may go on behind it.
        self._broken: int | None = None
        self._searched = 0
        self._lines = 0

    def feed(self, piece: bytes) -> tuple[bytes, bytes] | None:
        """The header block and all that has arrived behind it; ``None`` while it goes on.

        One that is longer than :data:`MAX_HEADER_OCTETS` is cut there, and :attr:`too_long` is set.
        """
        buffer: bytes | bytearray = piece
        if self._held:
            self._held += piece
            buffer = self._held
        if self._broken is None and buffer.find(b"\n", self._decided) >= 0:
            if self._decided or FIELD.match(buffer):
                lines = LINES.match(buffer, self._decided)
                self._decided = lines.end() if lines else self._decided
            if buffer.find(b"\n", self._decided) >= 0:
                if buffer.startswith(b"\r\n", self._decided) if self._decided else not may_begin(buffer):
                    return self._cut(buffer)
                self._broken = self._searched = self._decided
        if self._broken is not None:
            if self._lines < TEXT_LINES and b"\n" in piece:
                self._lines = buffer.count(b"\n", self._broken)
                if self._lines >= TEXT_LINES and is_text(buffer, self._broken):
                    return self._cut(buffer)
            if (end := empty_line(buffer, self._broken, self._searched)) >= 0:
                return self._judged(buffer, end)
            self._searched = max(self._broken, len(buffer) - 2)
        if len(buffer) > MAX_HEADER_OCTETS:
            self.too_long = self._broken is None and self._goes_on(buffer)
            return self._cut(buffer)
        if not self._held:
            self._held += piece
        return None

    def end(self) -> tuple[bytes, bytes]:
        """What :meth:`feed` gave, for content that ended before its header did."""
        held = self._held
        if self._broken is None:
            if self._goes_on(held):
                self._decided = len(held)
            if self._decided == len(held) or not (self._decided or may_begin(held)):
                return self._cut(held)
            self._broken = self._decided
        return self._judged(held, len(held))

    def _goes_on(self, buffer: bytes | bytearray) -> bool:
        """Whether what is there of the next line belongs to the header; one without lines begins with no blank."""
        if not self._decided:
            return FIELD.match(buffer) is not None
        return self._decided == len(buffer) or LINE.match(buffer, self._decided) is not None

    def _judged(self, buffer: bytes | bytearray, end: int) -> tuple[bytes, bytes]:
        """Cut a header whose line at :attr:`_broken` is no field, but which may go on as far as ``end``."""
        place = self._broken or 0
        self._decided = extent(bytes(buffer[:end]), place, for_bcc=self._for_bcc)
        self.spoilt = self._decided > place
        return self._cut(buffer)

    def _cut(self, buffer: bytes | bytearray) -> tuple[bytes, bytes]:
        return bytes(buffer[: self._decided]), bytes(buffer[self._decided :])


def loops(block: bytes) -> bool:
    """Whether a message has passed through so many servers that it must be going in circles."""
    # Counting lines first is cheaper, and hardly any message of a device has so many.
    return block.count(b"\n") > MAX_RECEIVED and len(_RECEIVED.findall(_searchable(block))) > MAX_RECEIVED


def own_lines(options: HeaderOptions, client: Client, protocol: str, reverse_path: str, block: bytes) -> bytes:
    """The lines to put above ``block``: Received, and whatever of From, Date and Message-ID is missing in it."""
    lines = _received(options.hostname, client, protocol) if options.received else ""
    if options.add_missing:
        given = _searchable(block)
        if options.add_from and reverse_path and not _FROM.search(given):
            lines += f"From: {reverse_path}\r\n"
        if not _DATE.search(given):
            lines += f"Date: {_date()}\r\n"
        if not _MESSAGE_ID.search(given):
            lines += _message_id(reverse_path, options.hostname)
    return lines.encode()


def protocol(*, extended: bool, secured: bool, authenticated: bool) -> str:
    """The word behind ``with`` in a Received field (RFC 5321 §4.4, RFC 3848)."""
    return f"ESMTP{'S' * secured}{'A' * authenticated}" if extended or secured or authenticated else "SMTP"


def _searchable(block: bytes) -> bytes:
    return b"\n" + block.lower()


def _received(hostname: str, client: Client, protocol: str) -> str:
    """Without the login and the paths: the device gave them to us, not to everybody who reads the mail."""
    origin = _origin(client.helo, client.address, hostname, protocol)
    return f"Received: {origin}\r\n\tid {_name(client.session)}; {_date()}\r\n"


@lru_cache(maxsize=1024)
def _origin(helo: str, address: str, hostname: str, protocol: str) -> str:
    """Who sent it, and who took it: the same for all messages of a device, so it is kept."""
    words = f"from {_name(helo)}", f"({_literal(address)})", f"by {_name(hostname)}", _OURSELVES, f"with {protocol}"
    text, column = "", len("Received:")
    for word in words:
        if column + 1 + len(word) > _LINE_COLUMNS:
            text, column = f"{text}\r\n\t{word}", 8 + len(word)
        else:
            text, column = f"{text} {word}", column + 1 + len(word)
    return text.lstrip(" ")


def _name(text: str) -> str:
    """A name that a peer chose, without what could be read as another part of the line."""
    return _NOT_IN_A_NAME.sub("_", text)[:_NAME_COLUMNS] or "unknown"


def _literal(address: str) -> str:
    """An address literal (RFC 5321 §4.1.3); the zone of a link-local address means something here only."""
    bare = _NOT_IN_A_NAME.sub("_", address.partition("%")[0].removeprefix("::ffff:")) or "unknown"
    return f"[IPv6:{bare}]" if ":" in bare else f"[{bare}]"


_day: tuple[int, str] = (0, "")


def _date() -> str:
    global _day
    now = int(time.time())
    if _day[0] != now:
        _day = now, formatdate(now, localtime=True)
    return _day[1]


_numbers = itertools.count(1)
_PROCESS = os.urandom(6).hex()


def _message_id(reverse_path: str, hostname: str) -> str:
    """Unique: the time, a number that this process gives only once, and random octets that are this process's own."""
    _, at, domain = reverse_path.rpartition("@")
    if not (at and _DOMAIN.fullmatch(domain)):
        domain = hostname if _DOMAIN.fullmatch(hostname) else "localhost"
    return f"Message-ID: <{int(time.time()):x}.{next(_numbers):x}.{_PROCESS}@{domain}>\r\n"
