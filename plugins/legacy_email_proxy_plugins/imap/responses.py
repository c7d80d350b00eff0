"""Parses what an IMAP server sends (RFC 9051 §9), and takes the message bodies out of it.

Servers differ in upper and lower case, in blanks, in the order of attributes, and in what they send besides the answer.
One parser reads all of it. A response that can not be parsed is never treated like a missing one: a device must not get
an empty message, or a wrong one, because a server writes something in an unusual way.

:class:`TopCounter` decides how much of a body TOP needs (RFC 1939 §7).
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
"""The longest literal that is accepted where none was asked for."""

Value: TypeAlias = "str | bytes | tuple[Value, ...] | None"
"""An atom or a number; a quoted string or a literal; a list; NIL."""

Attributes: TypeAlias = Mapping[str, Value]
"""One FETCH response. Names are in upper case. Some servers write ``BODY[]<0.65536>``: here it is ``BODY[]<0>``."""

# No octets can match in two ways, so the time grows only in proportion to the length. An octet that begins no token is
# matched alone.
_TOKENS = re.compile(
    rb'[ \t]*(\(|\)|"[^"\\]*(?:\\.[^"\\]*)*"|(?:BODY|BINARY)\[[^\]]{0,999}\](?:<[\d.]+>)?|[^\s()"][^\s()]*|.)',
    re.IGNORECASE | re.DOTALL,
)
_LITERAL = re.compile(rb"(?:\A|(?<=[ \t(\]>]))~?\{(\d{1,20})\+?\}\Z")
_QUOTED = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
# A flag may contain "]" (Gmail's do), so a "]" within a list does not end the code.
_CODE = re.compile(rb'\[([^\s\]()"]+)(?:[ \t]((?:[^\]()"]|"(?:[^"\\]|\\.)*"|\([^()]*\))*))?\]', re.DOTALL)
_SIMPLE_CODE = re.compile(rb"\[([^\s\]]+)(?:[ \t]([^\]]*))?\]")
_MAILBOX = re.compile(rb'\(([^()]*)\)[ \t]+(?:"(?:[^"\\]|\\.)*"|[^\s"]+)[ \t]+(.*)', re.DOTALL)
_BLANK_LINE = re.compile(rb"(?:\A|\n)\r?\n")
_ORIGIN = re.compile(r"<(\d+)\.\d+>\Z")
_MAX_DEPTH = 50
_ODD_SHOWN, _ODD_OCTETS = 3, 100
_ROW_OCTETS = 200
_MAX_ATTRIBUTES = 100
_EXPUNGED = "EXPUNGEISSUED"


def announced(text: bytes) -> tuple[bytes, int] | None:
    """If ``text`` ends with the mark of a literal, such as ``{5}``: the text before it, and the literal's octets."""
    if not text.endswith(b"}"):
        return None
    start = text.rfind(b"{")
    match = _LITERAL.search(text, start - 1 if text[:start].endswith(b"~") else start)
    return (text[: match.start()], int(match[1])) if match else None


def is_open(text: bytes) -> bool:
    """Whether ``text`` ends within a quoted string."""
    return b'"' in _TOKENS.findall(text)


def code_in(text: bytes) -> tuple[str, bytes] | None:
    """The response code (RFC 9051 §7.1) at the beginning of ``text``: its name in upper case, and its arguments."""
    match = _CODE.match(text) or _SIMPLE_CODE.match(text)
    return (match[1].decode("ascii", "replace").upper(), (match[2] or b"").strip()) if match else None


def mailbox_in(parts: tuple[bytes, ...]) -> tuple[frozenset[bytes], bytes] | None:
    """Attributes (in lower case) and name from one LIST response, given as text, literal, text …; ``None`` if it can
    not be parsed.

    The name is as the server wrote it, because only in that form the server surely knows it in a command.
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
        # An unquoted name has no blank, but some servers send one. After the name RFC 5258 allows only "(…)".
        name = name.partition(b" (")[0].strip()
    return frozenset(match[1].lower().split()), name


def number(value: Value) -> int | None:
    """``value`` as a number; ``None`` if it is none."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 30 else None


class Tokens:
    """Builds the list of one FETCH response from its texts and literals, in order. Raises ``ValueError``."""

    def __init__(self) -> None:
        self._lists: list[list[Value]] = [[]]

    def text(self, octets: bytes) -> None:
        """Add the text up to the line end or up to the mark of a literal."""
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
        """Add a literal."""
        self._lists[-1].append(value)

    def expected(self) -> tuple[str, int | None]:
        """The name of the attribute whose value comes next (empty if it is no attribute of the message), and the UID
        if that has come already.
        """
        if len(self._lists) != 2:
            return "", None
        values = self._lists[1]
        if len(values) > 2 * _MAX_ATTRIBUTES:
            raise ValueError("more attributes than a message has")
        known = dict(zip(map(_name, values[::2]), values[1::2], strict=False))
        return (_name(values[-1]) if len(values) % 2 else ""), number(known.get("UID"))

    def attributes(self) -> Attributes:
        """The attributes of the message, after the end of the response."""
        if len(self._lists) != 1 or len(self._lists[0]) != 1 or not isinstance(self._lists[0][0], tuple):
            raise ValueError("not one list")
        values = self._lists[0][0]
        if len(values) % 2:
            raise ValueError("a name without a value")
        found: dict[str, Value] = {}
        for at in range(0, len(values), 2):
            name, value = _name(values[at]), values[at + 1]
            # Flags may come twice. A second UID or body with another value is an error.
            if found.setdefault(name, value) != value and (name == "UID" or "[" in name):
                raise ValueError(f"two of {name}")
        return found


def _name(value: Value) -> str:
    if not isinstance(value, str):
        return ""
    name = value.upper()
    return _ORIGIN.sub(r"<\1>", name) if name.endswith(">") else name


class Literals(Protocol):
    """The connection, as far as literals are read from it."""

    def pieces(self, octets: int) -> Iterator[bytes]:
        """Exactly ``octets`` octets, in pieces."""

    def spend(self, octets: int) -> None:
        """Count these octets against the limit of the command. Raises :class:`Disconnected` beyond it."""


class Fetched:
    """Collects the FETCH responses that come during a command.

    Responses that can not be parsed are left out. A NO at the end is kept in ``refusal``, with the responses before it.
    """

    in_blocks = False
    """Whether :meth:`take` is to be called with blocks. Where it takes nothing, reading line by line is faster."""

    def __init__(self) -> None:
        self.rows: list[Attributes] = []
        self.refusal = ""
        """The text of a NO after the responses."""
        self._odd: list[bytes] = []
        self._odd_rows = 0

    @property
    def fault(self) -> str:
        """Why responses may be missing: a refusal, or responses that can not be parsed. Empty if nothing is wrong."""
        faults = [self.refusal] if self.refusal else []
        if self._odd:
            shown = "; ".join(text.decode("ascii", "backslashreplace") for text in self._odd)
            faults.append(f"{self._odd_rows} rows can not be read: {shown}")
        return ", ".join(faults)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, block: bytes) -> int:
        """Take the complete responses of the usual form at the beginning of ``block``. Returns their octets."""
        return 0

    def missing(self, block: bytes) -> int:
        """How many octets at least must follow before :meth:`take` takes ``block``; 0 if it will not take it."""
        return 0

    def read(self, name: str, uid: int | None, octets: int, source: Literals) -> Value:
        """Read the literal that is the value of ``name``; ``uid`` is the response's UID if it came before."""
        return small_literal(octets, source)

    def add(self, attributes: Attributes) -> None:
        """Add a response."""
        self.rows.append(attributes)

    def unreadable(self, text: bytes, reason: str) -> None:
        """Note a response that begins with ``text`` and can not be parsed."""
        self._odd_rows += 1
        if len(self._odd) < _ODD_SHOWN:
            self._odd.append(text[:_ODD_OCTETS])


def small_literal(octets: int, source: Literals) -> bytes:
    """Read a literal that nobody asked for. Raises :class:`Disconnected` if it is large."""
    if octets > LITERAL_OCTETS:
        raise Disconnected(f"the server announces a literal of {octets} octets where none is expected")
    # Each literal is small, but many of them could fill the memory.
    source.spend(octets)
    return b"".join(source.pieces(octets))


class _Bodies(Fetched):
    """Takes one ``section`` (such as ``BODY[]<0>``) of messages. Any other section is an error."""

    def __init__(self, section: str) -> None:
        super().__init__()
        self._section = section

    def _is_wanted(self, name: str) -> bool:
        """Whether ``name`` is the section. Raises :class:`Disconnected` for another section of a message."""
        if name != self._section and name.startswith(("BODY[", "BINARY[")):
            raise Disconnected(f"asked for {self._section}, the server sent {name}")
        return name == self._section

    def unreadable(self, text: bytes, reason: str) -> None:
        """Raises ``ValueError``: the response may be the one that was asked for."""
        raise ValueError(reason)


BEYOND_LISTING_OCTETS = 64 << 20
"""A message may be larger than twice its size in the listing by this much, and no more."""


class Body(_Bodies):
    """Hands the octets of ``section`` (such as ``BODY[]<0>``) of message ``uid`` to ``sink``.

    A server may send the UID before or after the octets, send responses about other messages in between, or answer with
    a quoted string, with NIL, or with OK and no message. So the last piece is held back until the whole answer is known
    to be right. A client then never takes another message, or a part of one, for the message.

    ``listed`` is the size in the listing, 0 if the server gave none. Listed sizes are often a little wrong. But a
    server that announces gigabytes for a message of a hundred octets would keep the connection busy for hours.
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
        """Hand on the body, piece by piece. Raises :class:`Disconnected` if it is not the one that was asked for."""
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
        """Check a response. Raises :class:`Disconnected` for a body that was not asked for."""
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
        """Check the whole answer; ``ok`` is the text of its OK. Then hand on the last piece.

        Raises :class:`MessageGone` if there was no body, :class:`MessageUnavailable` if it was NIL.
        """
        if not self._found:
            raise MessageGone(f"the server has no message with UID {self._uid} any more")
        if self._nil:
            if response_code(ok) == _EXPUNGED:  # Dovecot answers in this way.
                raise MessageGone(f"the server has expunged UID {self._uid}")
            raise MessageUnavailable(f"the server answers NIL for UID {self._uid}")
        self._hand_on()

    def refused(self, status: str, text: str) -> Failure:
        """The failure for a NO or BAD to the FETCH."""
        detail = f"the server refused UID {self._uid}: {status} {text}"
        if status == "BAD" or self._passed:
            return Disconnected(detail)
        if is_busy(text):
            return overloaded(text)
        return MessageGone(detail) if response_code(text) == _EXPUNGED else MessageUnavailable(detail)


class Batch(_Bodies):
    """Collects ``section`` of the messages ``uids``; together they may have ``room`` octets at most.

    Only messages that came whole and under their own UID are kept. A message that is left out is asked for alone later
    (:class:`Body`), and a failure then says what is wrong with it.
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
        """Take the messages that are complete in ``block``: to parse each by tokens would take four times as long."""
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

    def missing(self, block: bytes) -> int:
        """See :meth:`Fetched.missing`."""
        if (match := self._usual.match(block)) is None:
            return int(b"\n" not in block and len(block) < _ROW_OCTETS)
        end = match.end() + int(match[2])
        return end + 3 - len(block) if b")\r\n".startswith(block[end : end + 3]) else 0

    def read(self, name: str, uid: int | None, octets: int, source: Literals) -> Value:
        """Read a whole message. Raises :class:`Disconnected` if there is no room for it."""
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
        """Add a message. Raises :class:`Disconnected` for one that was not asked for."""
        if not [name for name in attributes if self._is_wanted(name)]:
            return
        octets = attributes[self._section]
        if octets is not self._literal or not isinstance(octets, bytes):
            return  # NIL or a quoted string: the message is asked for alone later.
        self._put(number(attributes.get("UID")), octets)

    def _put(self, uid: int | None, octets: bytes) -> None:
        if uid is None or uid not in self._left:
            raise Disconnected(f"the server sent UID {uid}, which was not asked for or came already")
        self._left.discard(uid)
        self.messages[uid] = octets


class TopCounter:
    """Counts the lines of the body. A line ends at LF, with or without CR: the core repairs line ends later."""

    def __init__(self, lines: int) -> None:
        self._missing = lines
        self._header = b""
        self._in_body = False

    def is_enough(self, octets: bytes) -> bool:
        """Add ``octets``. Returns whether the header, the blank line and the wanted lines have come."""
        if not self._in_body:
            # The blank line may be split between two pieces, so the last two octets are kept for the next call. The
            # "x" before them shows that they are not the beginning of the message.
            text = self._header + octets
            blank = _BLANK_LINE.search(text)
            if blank is None:
                self._header = text if len(text) <= 2 else b"x" + text[-2:]
                return False
            self._in_body = True
            octets = text[blank.end() :]
        self._missing -= octets.count(b"\n")
        return self._missing <= 0
