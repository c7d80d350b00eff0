"""One message body on its way out of a FETCH: only the one that was asked for, and never all of it before it is proven.

A server may put the UID before or after the octets, mention other messages in between, answer with a quoted string,
with NIL, or with OK and nothing. So the last piece is held back until the whole response has been seen to be right: a
reader then never mistakes another's message, or a part of one, for the message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from legacy_email_proxy.contracts import Disconnected, Failure, MessageGone, MessageUnavailable

from .verdicts import is_busy, overloaded, response_code

__all__ = ("Body", "Parts", "rows")

_LITERAL = re.compile(rb"BODY\[(?:HEADER)?\](?:<\d+>)? \{\d+\}$", re.IGNORECASE)
_UID = re.compile(rb"[( ]UID (\d+)(?=[ )])", re.IGNORECASE)
_STRING = re.compile(rb'BODY\[(?:HEADER)?\](?:<\d+>)? "', re.IGNORECASE)
_NIL = re.compile(rb"BODY\[(?:HEADER)?\](?:<\d+>)? NIL(?=[ )])", re.IGNORECASE)
_EXPUNGED = "EXPUNGEISSUED"
_BESIDES = frozenset({b"SEQ", b"UID", b"FLAGS", b"MODSEQ"})

Parts = list[tuple[bytes, bytes] | bytes]
"""One FETCH response as imaplib keeps it: a text with the literal behind it, any number of times, and a last text."""


class Body:
    """Gets the octets of ``section`` (such as ``BODY[]<0>``) of message ``uid`` and hands them to ``sink``."""

    def __init__(self, uid: int, section: bytes, sink: Callable[[bytes], None]) -> None:
        self._uid = uid
        self._section = section
        self._sink = sink
        self._held: bytes | None = None
        self._seen = False
        self._passed = 0

    def wants(self, line: bytes) -> bool:
        """Whether the literal that ``line`` announces is a body. Raises :class:`Disconnected` for a wrong one."""
        if not _LITERAL.search(line):
            return False
        if self._seen:
            raise Disconnected("the server sent two bodies where one was asked for")
        other = _UID.search(line)
        if other and int(other[1]) != self._uid:
            raise Disconnected(f"asked for UID {self._uid}, the server sent UID {int(other[1])}")
        self._seen = True
        return True

    def take(self, piece: bytes) -> None:
        """One piece more; the one before it goes out."""
        self._hand_on()
        self._held = piece

    def _hand_on(self) -> None:
        if self._held:
            self._passed += len(self._held)
            self._sink(self._held)
        self._held = None

    def refused(self, status: str, text: str) -> Failure:
        """What a NO or BAD to the FETCH means."""
        detail = f"the server refused UID {self._uid}: {status} {text}"
        if status == "BAD" or self._passed:
            return Disconnected(detail)
        if is_busy(text):
            return overloaded(text)
        return MessageGone(detail) if response_code(text) == _EXPUNGED else MessageUnavailable(detail)

    def finish(self, rows: Iterable[Parts], parse: Callable[[Parts], Mapping[bytes, Any]], ok: str) -> None:
        """Judge the FETCH responses that came, and the text of the OK behind them, then let go of the last piece.

        Raises :class:`MessageGone` if there was no body, :class:`MessageUnavailable` if it was NIL, and
        :class:`Disconnected` if it was not what was asked for.
        """
        found = False
        for row in rows:
            attributes = parse(row)
            if self._section not in attributes:
                if any(name.startswith(b"BODY") for name in attributes):
                    raise Disconnected(f"asked for {self._section!r}, the server sent {sorted(attributes)!r}")
                continue
            if attributes.get(b"UID") != self._uid or attributes.keys() - _BESIDES - {self._section}:
                raise Disconnected(f"asked for UID {self._uid}, the server sent {attributes.get(b'UID')!r}")
            if found:
                raise Disconnected("the server sent two bodies where one was asked for")
            found = True
            if not isinstance(row[0], tuple):
                self._take_string(row[0], attributes[self._section], ok)
        if not found:
            raise MessageGone(f"the server has no message with UID {self._uid} any more")
        self._hand_on()

    def _take_string(self, text: bytes, value: object, ok: str) -> None:
        if _NIL.search(text):
            if response_code(ok) == _EXPUNGED:  # Dovecot tells it so.
                raise MessageGone(f"the server has expunged UID {self._uid}")
            raise MessageUnavailable(f"the server answers NIL for UID {self._uid}")
        if not (_STRING.search(text) and isinstance(value, bytes)):
            raise Disconnected("the server sent a body that is no string")
        self.take(value)


def rows(data: Iterable[Any]) -> list[Parts]:
    """imaplib's flat list of what came, cut into responses."""
    found: list[Parts] = []
    row: Parts = []
    for part in data:
        if part is None:
            continue
        row.append(part)
        if isinstance(part, bytes):
            found.append(row)
            row = []
    return found
