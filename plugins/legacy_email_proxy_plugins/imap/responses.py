"""What an IMAP server says, cut into its parts (RFC 9051 §9), and the message bodies in it.

Servers differ in upper and lower case, in blanks, in what a response holds besides the answer, and in its order. All of
it is read here by one rule. What can not be read is told apart from what is not there: a device must never get an
empty message, or another one, because a server wrote something in an unusual way.

Of a body that comes in pieces it is also told here how much TOP needs (RFC 1939 §7).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol, TypeAlias

from legacy_email_proxy.contracts import Disconnected, Failure, MessageGone, MessageUnavailable

from .response_codes import is_busy, overloaded, response_code

__all__ = (
    "LITERAL_OCTETS",
    "Attributes",
    "Batch",
    "Body",
    "Fetched",
    "Literals",
    "Tokens",
    "TopCounter",
    "Value",
    "announced",
    "code_in",
    "is_open",
    "mailbox_in",
    "number",
    "small_literal",
)

LITERAL_OCTETS = 262_144
"""The longest literal that is read where none was asked for."""

Value: TypeAlias = "str | bytes | tuple[Value, ...] | None"
"""An atom or a number; a quoted string or a literal; a list; NIL."""

Attributes: TypeAlias = Mapping[str, Value]
"""One FETCH response: the names are in upper case, and ``BODY[]<0.65536>`` is ``BODY[]<0>`` as it should be."""

# Nothing in it can match the same octets in two ways, so the time it takes grows with the octets and no faster. What is
# no token comes as an octet alone.
_TOKENS = re.compile(
    rb'[ \t]*(\(|\)|"[^"\\]*(?:\\.[^"\\]*)*"|(?:BODY|BINARY)\[[^\]]{0,999}\](?:<[\d.]+>)?|[^\s()"][^\s()]*|.)',
    re.IGNORECASE | re.DOTALL,
)
_LITERAL = re.compile(rb"(?:\A|(?<=[ \t(\]>]))~?\{(\d{1,20})\+?\}\Z")
_QUOTED = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
# A flag may hold "]" (Gmail's do), so a list within the code does not end it.
_CODE = re.compile(rb'\[([^\s\]()"]+)(?:[ \t]((?:[^\]()"]|"(?:[^"\\]|\\.)*"|\([^()]*\))*))?\]', re.DOTALL)
_SIMPLE_CODE = re.compile(rb"\[([^\s\]]+)(?:[ \t]([^\]]*))?\]")
_MAILBOX = re.compile(rb'\(([^()]*)\)[ \t]+(?:"(?:[^"\\]|\\.)*"|[^\s"]+)[ \t]+(.*)', re.DOTALL)
_BLANK_LINE = re.compile(rb"(?:\A|\n)\r?\n")
_ORIGIN = re.compile(r"<(\d+)\.\d+>\Z")
_MAX_DEPTH = 50
_ODD_SHOWN = 3
_ODD_OCTETS = 100
_MAX_ATTRIBUTES = 100
_EXPUNGED = "EXPUNGEISSUED"


def announced(text: bytes) -> tuple[bytes, int] | None:
    """What stands before the literal that ``text`` ends with, and its octets; ``None`` if none follows."""
    if not text.endswith(b"}"):
        return None
    start = text.rfind(b"{")
    match = _LITERAL.search(text, start - 1 if text[:start].endswith(b"~") else start)
    return (text[: match.start()], int(match[1])) if match else None


def is_open(text: bytes) -> bool:
    """Whether a quoted string in ``text`` has not ended."""
    return b'"' in _TOKENS.findall(text)


def code_in(text: bytes) -> tuple[str, bytes] | None:
    """The response code (RFC 9051 §7.1) that ``text`` begins with, in upper case, and what it says."""
    match = _CODE.match(text) or _SIMPLE_CODE.match(text)
    return (match[1].decode("ascii", "replace").upper(), (match[2] or b"").strip()) if match else None


def mailbox_in(parts: tuple[bytes, ...]) -> tuple[frozenset[bytes], bytes] | None:
    """Attributes, in lower case, and name in one LIST response, given as text, literal, text …; ``None`` if unreadable.

    The name is as the server wrote it: what it can be in a command, only the server knows.
    """
    match = _MAILBOX.match(parts[0])
    if match is None:
        return None
    name = match[2].strip()
    if len(parts) > 1 and not name:
        name = parts[1]
    elif (quoted := _QUOTED.match(name)) and (quoted.end() == len(name) or name[quoted.end() :].lstrip()[:1] == b"("):
        name = _ESCAPED.sub(rb"\1", quoted[1])
    else:
        # No legal name, if it has a blank. What RFC 5258 puts behind a name stands in parentheses.
        name = name.partition(b" (")[0].strip()
    return frozenset(match[1].lower().split()), name


def number(value: Value) -> int | None:
    """The number that ``value`` is; ``None`` for anything else."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 30 else None


class Tokens:
    """The list in one FETCH response, from the texts and the literals of which it comes. Raises ``ValueError``."""

    def __init__(self) -> None:
        self._lists: list[list[Value]] = [[]]

    def text(self, octets: bytes) -> None:
        """Take a text up to the line end, or up to the mark of a literal."""
        lists = self._lists
        values = lists[-1]
        for token in _TOKENS.findall(octets.rstrip(b" \t")):
            first = token[:1]
            if first == b"(":
                if len(lists) > _MAX_DEPTH:
                    raise ValueError("lists in lists without end")
                values = []
                lists.append(values)
            elif first == b")":
                if len(lists) == 1:
                    raise ValueError("a parenthesis that closes nothing")
                ended = tuple(lists.pop())
                values = lists[-1]
                values.append(ended)
            elif token == b'"' or first.isspace():
                raise ValueError("a string without an end, or a control character")
            elif first == b'"':
                values.append(_ESCAPED.sub(rb"\1", token[1:-1]) if b"\\" in token else token[1:-1])
            else:
                values.append(None if token.upper() == b"NIL" else token.decode("latin-1"))

    def literal(self, value: Value) -> None:
        """Take a literal."""
        self._lists[-1].append(value)

    def expected(self) -> tuple[str, int | None]:
        """What a literal that comes now is the value of (empty if that is no attribute of the message), and the UID."""
        if len(self._lists) != 2:
            return "", None
        values = self._lists[1]
        if len(values) > 2 * _MAX_ATTRIBUTES:
            raise ValueError("more attributes than a message has")
        known = dict(zip(map(_name, values[::2]), values[1::2], strict=False))
        return (_name(values[-1]) if len(values) % 2 else ""), number(known.get("UID"))

    def attributes(self) -> Attributes:
        """What the response says of its message."""
        if len(self._lists) != 1 or len(self._lists[0]) != 1 or not isinstance(self._lists[0][0], tuple):
            raise ValueError("not one list")
        values = self._lists[0][0]
        if len(values) % 2:
            raise ValueError("a name without a value")
        found: dict[str, Value] = {}
        for at in range(0, len(values), 2):
            name, value = _name(values[at]), values[at + 1]
            # Flags may be told twice. A second UID or body is a contradiction.
            if found.setdefault(name, value) != value and (name == "UID" or "[" in name):
                raise ValueError(f"two of {name}")
        return found


def _name(value: Value) -> str:
    if not isinstance(value, str):
        return ""
    name = value.upper()
    return _ORIGIN.sub(r"<\1>", name) if name.endswith(">") else name


class Literals(Protocol):
    """Where the octets of a literal come from."""

    def pieces(self, octets: int) -> Iterator[bytes]:
        """All of them, in pieces."""

    def spend(self, octets: int) -> None:
        """Count them as ones that may be too many."""


class Fetched:
    """Takes the FETCH responses that come while it is asked for something.

    Those that can not be read are left out, and so is what a server that says NO in the end could not tell.
    """

    in_blocks = False
    """Whether there is something for :meth:`take`; to show it a block costs more than to read a short line."""

    def __init__(self) -> None:
        self.rows: list[Attributes] = []
        self.refusal = ""
        """The words of a NO behind the responses."""
        self._odd: list[bytes] = []
        self._odd_rows = 0

    @property
    def fault(self) -> str:
        """Why some may be missing: what can not be read, or the server's refusal; empty if nothing is wrong."""
        faults = [self.refusal] if self.refusal else []
        if self._odd:
            shown = "; ".join(text.decode("ascii", "backslashreplace") for text in self._odd)
            faults.append(f"{self._odd_rows} rows can not be read: {shown}")
        return ", ".join(faults)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, block: bytes) -> int:
        """Take the whole responses in front of ``block`` that look as usual; how many octets they are."""
        return 0

    def read(self, name: str, uid: int | None, octets: int, source: Literals) -> Value:
        """Read the literal which is the value of ``name``, in a response that has told ``uid`` so far."""
        return small_literal(octets, source)

    def add(self, attributes: Attributes) -> None:
        """Take a response."""
        self.rows.append(attributes)

    def unreadable(self, text: bytes, reason: str) -> None:
        """Take note of a response that begins with ``text`` and can not be read."""
        self._odd_rows += 1
        if len(self._odd) < _ODD_SHOWN:
            self._odd.append(text[:_ODD_OCTETS])


def small_literal(octets: int, source: Literals) -> bytes:
    """Read a literal that nobody asked for. Raises :class:`Disconnected` if it is large."""
    if octets > LITERAL_OCTETS:
        raise Disconnected(f"the server announces a literal of {octets} octets where none is expected")
    # One by one they are small enough; together they could still fill the memory.
    source.spend(octets)
    return b"".join(source.pieces(octets))


class _Bodies(Fetched):
    """Takes ``section`` (such as ``BODY[]<0>``) of messages, and nothing that could be mistaken for it."""

    def __init__(self, section: str) -> None:
        super().__init__()
        self._section = section

    def _is_wanted(self, name: str) -> bool:
        """Raises :class:`Disconnected` for another part of a message."""
        if name != self._section and name.startswith(("BODY[", "BINARY[")):
            raise Disconnected(f"asked for {self._section}, the server sent {name}")
        return name == self._section

    def unreadable(self, text: bytes, reason: str) -> None:
        """It may be what was asked for. Raises ``ValueError``."""
        raise ValueError(reason)


BEYOND_LISTING_OCTETS = 64 << 20
"""So much more than twice its size in the listing a message may have."""


class Body(_Bodies):
    """Hands the octets of ``section`` (such as ``BODY[]<0>``) of message ``uid`` to ``sink``.

    A server may put the UID before or after the octets, mention other messages in between, answer with a quoted
    string, with NIL, or with OK and nothing. So the last piece is held back until the whole response has been seen to
    be right: a reader then never mistakes another's message, or a part of one, for the message.

    ``listed`` is the size in the listing, 0 where the server told none. Servers are wrong about it, but one that
    announces gigabytes for a message of a hundred octets would fill the line for hours.
    """

    def __init__(self, uid: int, section: str, sink: Callable[[bytes], None], listed: int = 0) -> None:
        super().__init__(section)
        self._listed = listed
        self._uid = uid
        self._sink = sink
        self._held: bytes | None = None
        self._streamed = False
        self._found = False
        self._nil = False
        self._passed = 0

    def read(self, name: str, uid: int | None, octets: int, source: Literals) -> Value:
        """Hand on the body, piece by piece. Raises :class:`Disconnected` for a wrong one."""
        if not self._is_wanted(name):
            return small_literal(octets, source)
        if self._streamed:
            raise Disconnected("the server sent two bodies where one was asked for")
        if uid is not None and uid != self._uid:
            raise Disconnected(f"asked for UID {self._uid}, the server sent UID {uid}")
        if self._listed and octets > 2 * self._listed + BEYOND_LISTING_OCTETS:
            raise Disconnected(f"UID {self._uid} is listed with {self._listed} octets, the server announces {octets}")
        self._streamed = True
        for piece in source.pieces(octets):
            self._hold(piece)
        return b""

    def _hold(self, piece: bytes) -> None:
        self._hand_on()
        self._held = piece

    def _hand_on(self) -> None:
        if self._held:
            self._passed += len(self._held)
            self._sink(self._held)
        self._held = None

    def add(self, attributes: Attributes) -> None:
        """Judge a response. Raises :class:`Disconnected` for a body that was not asked for."""
        if not [name for name in attributes if self._is_wanted(name)]:
            return
        if number(attributes.get("UID")) != self._uid:
            raise Disconnected(f"asked for UID {self._uid}, the server sent UID {attributes.get('UID')!r}")
        if self._found:
            raise Disconnected("the server sent two bodies where one was asked for")
        self._found = True
        value = attributes[self._section]
        if value is None:
            self._nil = True
        elif not isinstance(value, bytes):
            raise Disconnected("the server sent a body that is no string")
        elif not self._streamed:
            self._hold(value)

    def finish(self, ok: str) -> None:
        """Judge what came in all, and the text of the OK behind it, then let go of the last piece.

        Raises :class:`MessageGone` if there was no body, :class:`MessageUnavailable` if it was NIL.
        """
        if not self._found:
            raise MessageGone(f"the server has no message with UID {self._uid} any more")
        if self._nil:
            if response_code(ok) == _EXPUNGED:  # Dovecot tells it so.
                raise MessageGone(f"the server has expunged UID {self._uid}")
            raise MessageUnavailable(f"the server answers NIL for UID {self._uid}")
        self._hand_on()

    def refused(self, status: str, text: str) -> Failure:
        """What a NO or BAD to the FETCH means."""
        detail = f"the server refused UID {self._uid}: {status} {text}"
        if status == "BAD" or self._passed:
            return Disconnected(detail)
        if is_busy(text):
            return overloaded(text)
        return MessageGone(detail) if response_code(text) == _EXPUNGED else MessageUnavailable(detail)


class Batch(_Bodies):
    """Collects ``section`` of the messages ``uids``, of not more than ``room`` octets together.

    Only those count that came whole and under their own UID. What is left out is asked for alone when its turn comes,
    and that (:class:`Body`) says what is wrong with it.
    """

    in_blocks = True

    def __init__(self, uids: Collection[int], section: str, room: int) -> None:
        super().__init__(section)
        self.messages: dict[int, bytes] = {}
        self._left = set(uids)
        self._room = room
        self._literal: Value = None
        row = rb"\* \d{1,10} FETCH \(UID (\d{1,10}) %b \{(\d{1,10})\}\r\n"
        self._usual = re.compile(row % re.escape(section.encode()), re.IGNORECASE)

    def take(self, block: bytes) -> int:
        """Take the messages that are whole in ``block``: reading each by its tokens would take four times as long."""
        taken = 0
        while match := self._usual.match(block, taken):
            start, octets = match.end(), int(match[2])
            end = start + octets
            if block[end : end + 3] != b")\r\n":
                break
            self._make_room(octets)
            self._put(int(match[1]), block[start:end])
            taken = end + 3
        return taken

    def read(self, name: str, uid: int | None, octets: int, source: Literals) -> Value:
        """Read a message whole. Raises :class:`Disconnected` if it is too much."""
        if not self._is_wanted(name):
            return small_literal(octets, source)
        self._make_room(octets)
        self._literal = b"".join(source.pieces(octets))
        return self._literal

    def _make_room(self, octets: int) -> None:
        self._room -= octets
        if self._room < 0:
            raise Disconnected("the server sends much more than the messages' sizes")

    def add(self, attributes: Attributes) -> None:
        """Take a message. Raises :class:`Disconnected` for one that nobody asked for."""
        if not [name for name in attributes if self._is_wanted(name)]:
            return
        octets = attributes[self._section]
        if octets is not self._literal or not isinstance(octets, bytes):
            return  # NIL and quoted strings are not for a batch.
        self._put(number(attributes.get("UID")), octets)

    def _put(self, uid: int | None, octets: bytes) -> None:
        if uid is None or uid not in self._left:
            raise Disconnected(f"the server sent UID {uid}, which was not asked for or came already")
        self._left.discard(uid)
        self.messages[uid] = octets


class TopCounter:
    """Counts the body's lines. A line ends at LF, with or without CR: the core repairs bare ones after us."""

    def __init__(self, lines: int) -> None:
        self._missing = lines
        self._header = b""
        self._in_body = False

    def is_enough(self, octets: bytes) -> bool:
        """Whether the header, the blank line and the lines asked for have come, now that ``octets`` have."""
        if not self._in_body:
            # The blank line may lie across the border of two pieces, so what is kept begins where a line ended.
            text = self._header + octets
            blank = _BLANK_LINE.search(text)
            if blank is None:
                self._header = text if len(text) <= 2 else b"x" + text[-2:]
                return False
            self._in_body = True
            octets = text[blank.end() :]
        self._missing -= octets.count(b"\n")
        return self._missing <= 0
