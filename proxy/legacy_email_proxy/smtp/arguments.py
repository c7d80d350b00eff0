"""What follows MAIL, RCPT and BDAT: paths, parameters and sizes of chunks, or the reply that refuses them.

MAIL and RCPT have a path and its parameters (RFC 5321 §4.1.2). An address is never rewritten: what stands between the
brackets goes to the backend octet for octet, or the command is refused. The only repairs are of what stands around it:
brackets missing or doubled, blanks, a display name or a source route in front (``<@a,@b:c@d>``, which everybody has to
ignore); and the dot that ends a domain in the DNS but not in mail (``<a@b.>``) is taken off.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from .. import sasl
from ..contracts import Parameters
from ..replies import SMTP, Reply

__all__ = (
    "BadParameter",
    "BadPath",
    "Chunk",
    "Lines",
    "Mistake",
    "Rejected",
    "begins_content",
    "chunk",
    "forward_path",
    "parse",
    "parted",
    "recipients",
    "reverse_path",
    "shown",
)

_TOGETHER = 100
"""Recipients that are asked for at once, at most: other sessions must get their turn between many of them."""


class BadPath(ValueError):
    """There is no address in the argument that could be passed on unchanged."""


class BadParameter(ValueError):
    """A parameter is malformed."""


_QUOTED = r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e\xa0-\U0010ffff]|\\[\x20-\x7e])*"'
_UNQUOTED = r'[^\x00-\x20\x7f-\x9f<>"(),;\\]*+'
_ADDRESS = rf"{_UNQUOTED}(?:{_QUOTED}{_UNQUOTED})*"
# In front of the bracket may stand a display name, but nothing that could be an address or a parameter itself.
_NAME = r"[^<>@=]*+<"
# Left out here: a backend would do it otherwise, and then see another address than our lists were asked about.
_HOP = r'@(?:[^\x00-\x20\x7f-\x9f<>"(),;\\@:\[\]]+|\[[^\x00-\x20\x7f-\x9f<>\[\]]*\])'
_ROUTE = rf"(?:{_HOP}(?:,{_HOP})*:(?=[^ >]))?"
# Twice, where somebody wrote an address with its brackets into a device that adds some.
_BRACKETED = re.compile(rf"{_NAME}(?P<twice><)? *+{_ROUTE}(?P<path>{_ADDRESS}) *+>(?(twice)>)")
# Without brackets an empty path is a forgotten argument, not the null reverse-path.
_BARE = re.compile(rf"(?!{_NAME})(?=[^ \t])(?P<path>{_ADDRESS})(?![^ \t])")
_DOT = re.compile(r"(?<=@)([^@.]+(?:\.[^@.]+)*)\.\Z")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x7e]*))?")


def parted(line: str) -> tuple[str, str]:
    """The verb, in upper case, and its argument. Between them stands a blank, with some clients a tab."""
    verb, _, argument = line.partition(" ")
    if "\t" in verb:
        verb, _, argument = line.partition("\t")
    return verb.upper(), argument.strip()


_VERBS = re.compile(
    "HELO|EHLO|STARTTLS|MAIL|RCPT|DATA|BDAT|RSET|NOOP|QUIT|VRFY|EXPN|HELP|ETRN|TURN|SEND|SOML|SAML|XCLIENT|XFORWARD"
)
"""Those of this server and of others. Nobody has a password that reads like one of them and a blank."""


def shown(verb: str, argument: str) -> str:
    """A command as the log may show it.

    A device whose AUTH was refused often goes on with user name and password, in base64, as if it were asked for them.
    So a line that is no command is never shown.
    """
    if verb == "AUTH":
        return f"AUTH {sasl.shown(argument)}".rstrip()
    return f"{verb} {argument}".rstrip() if _VERBS.fullmatch(verb) else "(no SMTP command)"


def parse(argument: str) -> tuple[str, Parameters]:
    """Split ``<path> KEY=value …`` into the path without brackets and the parameters.

    The null reverse-path ``<>`` comes out as ``""``. Raises :class:`BadPath` or :class:`BadParameter`.
    """
    argument = argument.strip(" \t")
    found = _BRACKETED.match(argument) or _BARE.match(argument)
    if not found:
        raise BadPath(argument)
    return _DOT.sub(r"\1", found["path"]), _parameters(argument[found.end() :])


def _parameters(text: str) -> Parameters:
    found: dict[str, str | None] = {}
    if text and not text.startswith((" ", "\t")):
        raise BadParameter(text)
    for word in text.split():
        match = _PARAMETER.fullmatch(word)
        if not match or match.group(1).upper() in found:
            raise BadParameter(word)
        found[match.group(1).upper()] = match.group(2)
    return found


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


# The same few devices send from the same addresses to the same ones again and again.
_remembered = functools.lru_cache(200)


@_remembered
def reverse_path(argument: str) -> tuple[str, tuple[str, ...]]:
    """``FROM:<path> KEY=value …`` → path (``""`` is the null one) and the options that count.

    ``AUTH=``, which some clients send without having been offered it, is taken and dropped, as RFC 4954 §5 wants it for
    clients that are not trusted to say who logged in.
    """
    path, options = _split("FROM:", argument, SMTP.BAD_PATH, _MAIL)
    if not path.isascii() and "SMTPUTF8" not in options:
        raise Rejected(SMTP.NEEDS_SMTPUTF8)
    return path, tuple(option for option in options if not option.startswith("AUTH"))


@_remembered
def forward_path(argument: str) -> tuple[str, tuple[str, ...]]:
    """``TO:<path> KEY=value …`` → path, never empty, and options."""
    path, options = _split("TO:", argument, SMTP.BAD_FORWARD_PATH, _RCPT)
    if not path:
        raise Rejected(SMTP.BAD_FORWARD_PATH)
    return path, options


class Lines(Protocol):
    """Command lines that have arrived."""

    def peek(self) -> bytes | None:
        """The next one, left where it is; ``None`` if it is not whole."""

    def skip(self) -> None:
        """Use up the line that was peeked at."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """An argument of RCPT that names nobody, and the reply to it."""

    argument: str
    reply: Reply


def recipients(argument: str, lines: Lines) -> tuple[list[tuple[str, tuple[str, ...]] | Mistake], str | None]:
    """The recipient of this RCPT and those in whole lines behind it, which are used up; and the command that stands
    behind them, if it has arrived and is printable ASCII.
    """
    found = [_recipient(argument)]
    while (line := lines.peek()) is not None and line[:5].upper() == b"RCPT ":
        if not _plain(line) or len(found) == _TOGETHER:
            break
        lines.skip()
        found.append(_recipient(line[5:].decode().strip()))
    return found, None if line is None or not _plain(line) else line.decode()


def begins_content(line: str | None, max_octets: int) -> bool:
    """Whether content follows this command, which is still to be carried out."""
    verb, argument = parted(line or "")
    if verb == "BDAT":
        announced = chunk(argument)
        return announced is not None and announced.octets <= max_octets
    return verb == "DATA" and not argument


def _recipient(argument: str) -> tuple[str, tuple[str, ...]] | Mistake:
    try:
        return forward_path(argument)
    except Rejected as rejected:
        return Mistake(argument, rejected.reply)


def _plain(line: bytes) -> bool:
    return line.isascii() and line.decode().isprintable()


def chunk(argument: str) -> Chunk | None:
    """``octets [LAST]`` → what follows; ``None`` if that can not be told, so that nobody knows where it ends."""
    found = _CHUNK.fullmatch(argument)
    return Chunk(int(found[1]), found[2] is not None) if found else None


def _split(
    keyword: str, argument: str, bad_path: Reply, forms: Mapping[str, re.Pattern[str]]
) -> tuple[str, tuple[str, ...]]:
    if argument[: len(keyword)].upper() != keyword:
        raise Rejected(SMTP.SYNTAX)
    try:
        path, parameters = parse(argument[len(keyword) :])
    except BadPath:
        raise Rejected(bad_path) from None
    except BadParameter:
        raise Rejected(SMTP.SYNTAX) from None
    return path, tuple(_option(key, value, forms) for key, value in parameters.items())


def _option(key: str, value: str | None, forms: Mapping[str, re.Pattern[str]]) -> str:
    if key not in forms:
        raise Rejected(SMTP.UNKNOWN_PARAMETER)
    # With nothing behind its "=" a parameter is malformed, except AUTH, whose value nobody uses.
    if not forms[key].fullmatch(value or "") or (value == "" and key != "AUTH"):
        raise Rejected(SMTP.SYNTAX)
    if value is None:
        return key
    return f"{key}={_strict(value) if key in _VERBATIM else value.upper()}"


def _strict(xtext: str) -> str:
    """The same in the strict form, in case the backend takes no other."""
    return _SLOPPY.sub(lambda found: "+3D" if found[0] == "=" else found[0].upper(), xtext)
