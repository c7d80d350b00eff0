"""POP3 commands: a line becomes a value, and one table says which command is valid in which state.

The table in ``proxy/docs/pop3-imap.md``, CAPA and the session all read :data:`COMMANDS`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import NamedTuple

from .. import sasl
from ..contracts import Secret
from ..replies import printable
from ..sasl import Malformed, Mechanism, credential
from .options import Options

__all__ = (
    "COMMANDS",
    "MAX_NUMBER",
    "Arguments",
    "Command",
    "Keyword",
    "Mistake",
    "Row",
    "State",
    "capabilities",
    "parse",
)

MAX_NUMBER = 2**32 - 1
"""Clients hold message-numbers and counts in 32 bits; a larger number is a mistake."""


class State(StrEnum):
    """The states of RFC 1939 §3."""

    AUTHORIZATION = "AUTHORIZATION"
    TRANSACTION = "TRANSACTION"
    UPDATE = "UPDATE"


class Keyword(StrEnum):
    """The commands that are known."""

    CAPA = "CAPA"
    USER = "USER"
    PASS = "PASS"  # noqa: S105 (a keyword)
    QUIT = "QUIT"
    STAT = "STAT"
    LIST = "LIST"
    UIDL = "UIDL"
    RETR = "RETR"
    TOP = "TOP"
    DELE = "DELE"
    RSET = "RSET"
    NOOP = "NOOP"
    AUTH = "AUTH"
    STLS = "STLS"
    LAST = "LAST"
    XTND = "XTND"


class Arguments(Enum):
    """What follows the keyword; the value is how it is written in a usage line."""

    NONE = ""
    NAME = " name"
    PASSWORD = " string"  # noqa: S105 (a placeholder)
    NUMBER = " msg"
    OPTIONAL_NUMBER = " [msg]"
    NUMBER_AND_LINES = " msg n"
    MECHANISM = " [mechanism [initial-response]]"
    HEADER = " XLST header [msg]"


@dataclass(frozen=True, slots=True)
class Row:
    """One command: where it is valid, what it takes, and the capability that announces it (RFC 2449 §6)."""

    keyword: Keyword
    states: frozenset[State]
    arguments: Arguments = Arguments.NONE
    capability: str = ""

    @property
    def usage(self) -> str:
        """For example ``TOP msg n``."""
        return f"{self.keyword}{self.arguments.value}"


_BEFORE = frozenset({State.AUTHORIZATION})
_AFTER = frozenset({State.TRANSACTION})

COMMANDS = {
    row.keyword: row
    for row in (
        Row(Keyword.CAPA, _BEFORE | _AFTER),
        Row(Keyword.TOP, _AFTER, Arguments.NUMBER_AND_LINES, capability="TOP"),
        Row(Keyword.USER, _BEFORE, Arguments.NAME, capability="USER"),
        Row(Keyword.PASS, _BEFORE, Arguments.PASSWORD),
        Row(Keyword.AUTH, _BEFORE, Arguments.MECHANISM, capability=f"SASL {' '.join(Mechanism)}"),
        Row(Keyword.STLS, _BEFORE, capability="STLS"),
        Row(Keyword.UIDL, _AFTER, Arguments.OPTIONAL_NUMBER, capability="UIDL"),
        Row(Keyword.STAT, _AFTER),
        Row(Keyword.LIST, _AFTER, Arguments.OPTIONAL_NUMBER),
        Row(Keyword.RETR, _AFTER, Arguments.NUMBER),
        Row(Keyword.DELE, _AFTER, Arguments.NUMBER),
        Row(Keyword.RSET, _AFTER),
        Row(Keyword.NOOP, _AFTER),
        Row(Keyword.LAST, _AFTER),
        Row(Keyword.XTND, _AFTER, Arguments.HEADER),
        Row(Keyword.QUIT, _BEFORE | _AFTER),
    )
}

_ROWS = {row.keyword.encode(): row for row in COMMANDS.values()}

_BEHAVIOUR = ("RESP-CODES", "AUTH-RESP-CODE", "PIPELINING")
"""Capabilities without a command: RFC 2449 §6.4, RFC 3206 §6, RFC 2449 §6.6."""


def capabilities(options: Options, state: State, *, secured: bool) -> tuple[str, ...]:
    """The lines of CAPA: the same in both states, because clients ask before the login and remember the answer.

    Only STLS differs: it is listed where it can be used (RFC 2595 §4), before the login and before TLS.
    """
    stls = options.stls and state is State.AUTHORIZATION and not secured
    of_commands = (row.capability for row in COMMANDS.values() if row.keyword is not Keyword.STLS or stls)
    expire = (f"EXPIRE {options.expire}",) if options.expire else ()
    return (*filter(None, of_commands), *_BEHAVIOUR, *expire, f"IMPLEMENTATION {options.implementation}")


class Mistake(Exception):
    """The line is no valid command. The text has nothing of what the client sent, so the client may read it."""


class Command(NamedTuple):
    """A well-formed command. ``message_number`` is 0 where it was optional and left out."""

    keyword: Keyword
    message_number: int = 0
    lines: int = 0
    user: str = ""
    password: Secret = Secret("")
    mechanism: str = ""
    initial_response: Secret | None = None
    header: str = ""


_SHOWN = re.compile(
    rb"(?:CAPA|TOP|USER|UIDL|STAT|LIST|RETR|DELE|RSET|NOOP|LAST|XTND|QUIT|STLS)(?: .*)?"
    rb"|AUTH|PASS|APOP",
    re.IGNORECASE,
)


def shown(line: bytes) -> str:
    """A command as the log may show it: without passwords, and a line that is no command not at all, because a client
    whose AUTH was refused may send its password as the next line. ``***`` stands for a response to a challenge.
    """
    if line == b"***":
        return "***"
    found = _SHOWN.match(line)
    if found is None or line[found.end() : found.end() + 1].isalnum():
        return "(no POP3 command)"
    command = printable(found[0].decode("latin-1"))
    if command.upper() != "AUTH":
        return command
    return f"AUTH {sasl.shown(line[found.end() :].decode('latin-1'))}".rstrip()


_MAX_DIGITS = 10
_MECHANISM = re.compile(rb"[A-Za-z0-9_-]{1,20}")
_FIELD_NAME = re.compile(rb"[\x21-\x39\x3b-\x7e]{1,70}")


def parse(line: bytes) -> Command:
    """Read one line without its line end. Raises :class:`Mistake`.

    Keywords are case-insensitive and trailing blanks don't matter, except that the argument of PASS is everything after
    the one space (RFC 1939 §7). It may be empty, because a device without a password still has to say PASS.
    """
    stripped = line.rstrip(b" \t")
    word, _, rest = stripped.partition(b" ")
    row = _ROWS.get(word.upper())
    if row is None:
        raise Mistake("unknown command")
    match row.arguments:
        case Arguments.NUMBER:  # First: RETR is most of what a session says.
            return Command(row.keyword, _message_number(rest, row))
        case Arguments.NONE:
            if rest:
                raise Mistake(f"{row.keyword} takes no argument")
            return Command(row.keyword)
        case Arguments.NAME:
            if not rest:
                raise Mistake(f"usage: {row.usage}")
            return Command(row.keyword, user=_credential(rest, row))
        case Arguments.PASSWORD:
            return Command(row.keyword, password=Secret(_credential(line[len(word) + 1 :], row)))
        case Arguments.OPTIONAL_NUMBER:
            return Command(row.keyword, _message_number(rest, row) if rest else 0)
        case Arguments.NUMBER_AND_LINES:
            first, _, second = rest.partition(b" ")
            return Command(row.keyword, _message_number(first, row), _number(second, row))
        case Arguments.MECHANISM:
            return _auth(row, rest)
        case Arguments.HEADER:
            return _xtnd(row, rest)


def _auth(row: Row, rest: bytes) -> Command:
    if not rest:
        return Command(row.keyword)
    mechanism, blank, initial = rest.partition(b" ")
    if not _MECHANISM.fullmatch(mechanism):
        raise Mistake(f"usage: {row.usage}")
    secret = Secret(initial.decode("latin-1")) if blank else None
    return Command(row.keyword, mechanism=mechanism.decode().upper(), initial_response=secret)


def _xtnd(row: Row, rest: bytes) -> Command:
    extension, _, arguments = rest.partition(b" ")
    header, _, number = arguments.partition(b" ")
    if extension.upper() != b"XLST" or not _FIELD_NAME.fullmatch(header):
        raise Mistake(f"usage: {row.usage}")
    return Command(row.keyword, _message_number(number, row) if number else 0, header=header.decode())


def _credential(octets: bytes, row: Row) -> str:
    try:
        return credential(octets)
    except Malformed as malformed:
        raise Mistake(f"{malformed} in {row.keyword}") from None


def _number(argument: bytes, row: Row) -> int:
    # int() alone would take "+1", "1_0" and " 1".
    if not argument.isdigit() or len(argument) > _MAX_DIGITS or (number := int(argument)) > MAX_NUMBER:
        raise Mistake(f"usage: {row.usage}")
    return number


def _message_number(argument: bytes, row: Row) -> int:
    number = _number(argument, row)
    if number == 0:
        raise Mistake("message-numbers start at 1")
    return number
