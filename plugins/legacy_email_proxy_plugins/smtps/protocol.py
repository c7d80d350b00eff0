"""What is said to the backend, without I/O: what it offers decides which commands it gets (RFC 5321 §4.1).

What a client gave becomes part of a command here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from legacy_email_proxy.contracts import Parameters, Refused

from .replies import Reply

__all__ = ("Extensions", "command", "mail_command", "rcpt_command")

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
    if parameters and "DSN" in extensions:
        words += _valid(parameters, _DSN_OF_MAIL)
    return command(*words)


def rcpt_command(
    forward_path: str, parameters: Parameters, mail_parameters: Parameters, extensions: Extensions
) -> bytes:
    """``RCPT TO`` with what the client gave for this recipient and the backend knows.

    Raises :class:`Refused` for what is no address, before anything is on the wire.
    """
    words = [f"RCPT TO:<{_path(forward_path, mail_parameters, '5.1.3')}>"]
    if parameters and "DSN" in extensions:
        words += _valid(parameters, _DSN_OF_RCPT)
    return command(*words)


def _valid(parameters: Parameters, known: Mapping[str, re.Pattern[str]]) -> list[str]:
    """Those of ``parameters`` that are known and have a legal value. The others were wishes, and no reason to fail."""
    given = ((keyword, pattern, parameters.get(keyword)) for keyword, pattern in known.items())
    return [f"{keyword}={value}" for keyword, pattern, value in given if value and pattern.fullmatch(value)]


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
