"""POP3 commands: a line becomes a value, and one table says which command is valid in which state.

README's table, CAPA and the session all read :data:`COMMANDS`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from ..contracts import Secret

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


class Arguments(Enum):
    """What follows the keyword; the value is how it is written in a usage line."""

    NONE = ""
    NAME = " name"
    PASSWORD = " string"  # noqa: S105 (a placeholder)
    NUMBER = " msg"
    OPTIONAL_NUMBER = " [msg]"
    NUMBER_AND_LINES = " msg n"


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
        Row(Keyword.UIDL, _AFTER, Arguments.OPTIONAL_NUMBER, capability="UIDL"),
        Row(Keyword.STAT, _AFTER),
        Row(Keyword.LIST, _AFTER, Arguments.OPTIONAL_NUMBER),
        Row(Keyword.RETR, _AFTER, Arguments.NUMBER),
        Row(Keyword.DELE, _AFTER, Arguments.NUMBER),
        Row(Keyword.RSET, _AFTER),
        Row(Keyword.NOOP, _AFTER),
        Row(Keyword.QUIT, _BEFORE | _AFTER),
    )
}

_ROWS = {row.keyword.encode(): row for row in COMMANDS.values()}

_BEHAVIOUR = ("RESP-CODES", "AUTH-RESP-CODE", "PIPELINING")
"""Capabilities that no command stands for: RFC 2449 §6.4, RFC 3206 §6, RFC 2449 §6.6."""


def capabilities(implementation: str) -> tuple[str, ...]:
    """The lines of CAPA, the same in both states because clients ask before the login and remember the answer."""
    of_commands = tuple(row.capability for row in COMMANDS.values() if row.capability)
    return (*of_commands, *_BEHAVIOUR, f"IMPLEMENTATION {implementation}")


class Mistake(Exception):
    """The line is no command; the text is fixed and may be told to the client."""


@dataclass(frozen=True, slots=True)
class Command:
    """A well-formed command. ``message_number`` is 0 where it was optional and left out."""

    keyword: Keyword
    message_number: int = 0
    lines: int = 0
    user: str = ""
    password: Secret = field(default_factory=lambda: Secret(""))


_NUMBER = re.compile(rb"[0-9]{1,10}")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


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
        case Arguments.NONE:
            if rest:
                raise Mistake(f"{row.keyword} takes no argument")
            return Command(row.keyword)
        case Arguments.NAME:
            if not rest:
                raise Mistake(f"usage: {row.usage}")
            return Command(row.keyword, user=_text(rest, row))
        case Arguments.PASSWORD:
            return Command(row.keyword, password=Secret(_text(line[len(word) + 1 :], row)))
        case Arguments.NUMBER:
            return Command(row.keyword, _message_number(rest, row))
        case Arguments.OPTIONAL_NUMBER:
            return Command(row.keyword, _message_number(rest, row) if rest else 0)
        case Arguments.NUMBER_AND_LINES:
            first, _, second = rest.partition(b" ")
            return Command(row.keyword, _message_number(first, row), _number(second, row))


def _text(argument: bytes, row: Row) -> str:
    # A CR or NUL that passed here could end the backend's command early and begin another one.
    if _CONTROL.search(argument):
        raise Mistake(f"control characters are not allowed in {row.keyword}")
    # Octets that are no UTF-8 survive as surrogates, so that a Latin-1 password reaches the backend as it was typed.
    return argument.decode("utf-8", "surrogateescape")


def _number(argument: bytes, row: Row) -> int:
    # int() alone would take "+1", "1_0", " 1" and the digits of other scripts.
    if not _NUMBER.fullmatch(argument) or int(argument) > MAX_NUMBER:
        raise Mistake(f"usage: {row.usage}")
    return int(argument)


def _message_number(argument: bytes, row: Row) -> int:
    number = _number(argument, row)
    if number == 0:
        raise Mistake("message-numbers start at 1")
    return number
