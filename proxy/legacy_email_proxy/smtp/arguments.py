"""What follows MAIL, RCPT and BDAT: something that can be acted upon, or the reply that says why not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..replies import SMTP, Reply
from .paths import BadParameter, BadPath, parse

__all__ = ("Chunk", "Rejected", "chunk", "forward_path", "reverse_path")

# RFC 3461 §4 wants the hexadecimal digits in upper case, and "=" as "+3D". Not all clients know; see _strict.
_XTEXT = r"(?:[\x21-\x2a\x2c-\x7e]|\+[0-9A-Fa-f]{2})"
_SLOPPY = re.compile(r"=|\+[0-9A-Fa-f]{2}")
_MAIL = {
    "SIZE": re.compile(r"[0-9]{1,20}"),
    "BODY": re.compile(r"7BIT|8BITMIME", re.IGNORECASE),
    "SMTPUTF8": re.compile(""),
    "RET": re.compile(r"FULL|HDRS", re.IGNORECASE),
    "ENVID": re.compile(rf"(?=.{{1,100}}$){_XTEXT}+"),
    "AUTH": re.compile(r".*"),
}
_RCPT = {
    "NOTIFY": re.compile(r"NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY))*", re.IGNORECASE),
    "ORCPT": re.compile(rf"(?=.{{1,500}}$)[A-Za-z0-9-]+;{_XTEXT}*"),
}
# RFC 3461 §4.2 and §4.4 forbid to change what these two say.
_VERBATIM = ("ENVID", "ORCPT")
_CHUNK = re.compile(r"([0-9]{1,20})(?:[ \t]+(LAST))?", re.IGNORECASE)


class Rejected(ValueError):
    """The argument can not be used; ``reply`` tells the client why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a BDAT announces: so many octets of content, the ``last`` of the message or not."""

    octets: int
    last: bool


def reverse_path(argument: str) -> tuple[str, list[str]]:
    """``FROM:<path> KEY=value …`` → path (``""`` is the null one) and the options that count.

    ``AUTH=``, which some clients send to whom never offered it, is taken and dropped (RFC 4954 §5: we trust nobody's).
    """
    path, options = _split("FROM:", argument, SMTP.BAD_PATH, _MAIL)
    if not path.isascii() and "SMTPUTF8" not in options:
        raise Rejected(SMTP.NEEDS_SMTPUTF8)
    return path, [option for option in options if not option.startswith("AUTH")]


def forward_path(argument: str) -> tuple[str, list[str]]:
    """``TO:<path> KEY=value …`` → path, never empty, and options."""
    path, options = _split("TO:", argument, SMTP.BAD_FORWARD_PATH, _RCPT)
    if not path:
        raise Rejected(SMTP.BAD_FORWARD_PATH)
    return path, options


def chunk(argument: str) -> Chunk | None:
    """``octets [LAST]`` → what follows; ``None`` if that can not be told, so that nobody knows where it ends."""
    found = _CHUNK.fullmatch(argument)
    return Chunk(int(found[1]), found[2] is not None) if found else None


def _split(keyword: str, argument: str, bad_path: Reply, forms: Mapping[str, re.Pattern[str]]) -> tuple[str, list[str]]:
    if argument[: len(keyword)].upper() != keyword:
        raise Rejected(SMTP.SYNTAX)
    try:
        path, parameters = parse(argument[len(keyword) :])
    except BadPath:
        raise Rejected(bad_path) from None
    except BadParameter:
        raise Rejected(SMTP.SYNTAX) from None
    return path, [_option(key, value, forms) for key, value in parameters.items()]


def _option(key: str, value: str | None, forms: Mapping[str, re.Pattern[str]]) -> str:
    if key not in forms:
        raise Rejected(SMTP.UNKNOWN_PARAMETER)
    # With nothing behind its "=" a parameter is malformed, but for AUTH, of which nothing is read.
    if not forms[key].fullmatch(value or "") or (value == "" and key != "AUTH"):
        raise Rejected(SMTP.SYNTAX)
    if value is None:
        return key
    return f"{key}={_strict(value) if key in _VERBATIM else value.upper()}"


def _strict(xtext: str) -> str:
    """The same, written as a backend may insist on."""
    return _SLOPPY.sub(lambda found: "+3D" if found[0] == "=" else found[0].upper(), xtext)
