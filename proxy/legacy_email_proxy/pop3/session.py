"""The POP3 session as a value machine: octets and answers in, events out.

Rule: everything that decides what is valid, what is replied and what is deleted lives here, and nothing here does I/O.
:meth:`Session.next_event` says what to do next, in the words of ``requests``. An Open, Retrieve or Commit must be
answered before it is called again; commands that were pipelined behind it wait in the buffer (RFC 2449 §6.6).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import assert_never

from ..contracts import Entry
from ..replies import pop3_error, pop3_line
from .commands import COMMANDS, Command, Keyword, Mistake, State, capabilities, parse
from .listing import Listing, NoSuchMessage
from .requests import Close, Commit, Event, NeedData, Open, Reply, Request, Retrieve, Tally, Verdict
from .wire import END_OF_REPLY, ContentEncoder, LineReader, TooLong, encode_line

__all__ = ("MAX_ERRORS", "MAX_FAILED_LOGINS", "SPOKE_HTTP", "SPOKE_TLS", "Session")

MAX_ERRORS = {State.AUTHORIZATION: 3, State.TRANSACTION: 20}
"""Errors in a state; the last of them is answered with a goodbye. A device that loops must not be served forever."""

MAX_FAILED_LOGINS = 3
"""Answers of ``-ERR`` to PASS on one connection; the last one closes it."""

SPOKE_TLS = "spoke TLS to the plain POP3 port"
SPOKE_HTTP = "spoke HTTP to the plain POP3 port"

_HTTP = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|TRACE|CONNECT|PATCH|PRI) ")


class Session:
    """One session. ``implementation`` is what CAPA names."""

    def __init__(self, implementation: str) -> None:
        self.state = State.AUTHORIZATION
        self.user: str | None = None
        self.tally = Tally()
        self._implementation = implementation
        self._reader = LineReader()
        self._end_of_stream = False
        # No "<" in the greeting: it would be taken for the timestamp of APOP (RFC 1939 §7).
        self._replies: Iterator[bytes] = iter((encode_line(pop3_line("POP3 server ready", ok=True)),))
        self._request: Request | None = None
        self._close: Close | None = None
        self._errors = 0
        self._failed_logins = 0
        self._listing = Listing(())
        self._encoder: ContentEncoder | None = None
        self._failed_messages: set[int] = set()

    # Octets and events

    def receive_data(self, data: bytes) -> None:
        """Take what the client sent; ``b""`` means that it won't send any more."""
        if data:
            self._reader.feed(data)
        else:
            self._end_of_stream = True

    def next_event(self) -> Event:
        """What to do next. After :class:`Close` it is :class:`Close` for good."""
        if self._request is not None:
            raise RuntimeError(f"{type(self._request).__name__} was not answered")
        octets = next(self._replies, None)
        if octets is not None:
            return Reply(octets)
        if self._close is not None:
            return self._close
        event = self._advance()
        if isinstance(event, Request):
            self._request = event
        return event

    def end(self, verdict: Verdict, reason: str = "") -> Close:
        """End the session, from outside or from here. Nothing more is deleted; the first verdict stays."""
        self._request = None
        if self._close is None:
            self._close = Close(verdict, reason)
        return self._close

    @property
    def verdict(self) -> Close | None:
        """How the session ended, once it has."""
        return self._close

    # Answers

    def opened(self, entries: Sequence[Entry]) -> None:
        """The maildrop is open; ``entries`` stay as they are until the session ends."""
        self._answered(Open)
        self._listing = Listing(entries)
        self.state = State.TRANSACTION
        self._errors = 0
        self._say(f"maildrop has {self._drop()}")

    def open_failed(self, failure: BaseException) -> None:
        """The maildrop was not opened; the client may try again."""
        self._answered(Open)
        self.user = None
        self._failed_logins += 1
        self._say_line(pop3_error(failure))
        if self._failed_logins >= MAX_FAILED_LOGINS:
            self.end(Verdict.REFUSED, "too many failed logins")

    def message_piece(self, piece: bytes) -> bytes:
        """The octets to send for the next piece of the message; ``+OK`` stands before the first."""
        request = self._retrieving()
        started, encoder = self._begun(request)
        octets = encoder.encode(piece)
        self.tally.octets += len(octets)
        return started + octets

    @property
    def enough(self) -> bool:
        """TOP has all that it asked for; further pieces are not needed."""
        return self._encoder is not None and self._encoder.enough

    def message_end(self) -> bytes:
        """The last octets of the message. Until they are sent, the client knows that it hasn't got all of it."""
        request = self._retrieving()
        started, encoder = self._begun(request)
        self._answered(Retrieve)
        self._encoder = None
        if request.lines is None:
            self.tally.retrieved += 1
        else:
            self.tally.top += 1
        return started + encoder.finish()

    def message_failed(self, failure: BaseException) -> None:
        """The message can not be had. After ``+OK`` nothing but closing the connection tells the client so."""
        request = self._retrieving()
        self._answered(Retrieve)
        if self._encoder is not None:
            self.end(Verdict.FAILED, "the message broke off")
        elif request.message_number in self._failed_messages:
            # A client that asks forever for a message which is gone is disconnected in the end.
            self._mistake(pop3_error(failure))
        else:
            self._failed_messages.add(request.message_number)
            self._say_line(pop3_error(failure))

    def committed(self) -> None:
        """The messages are gone."""
        self.tally.deleted = len(self._listing.marked_unique_ids())
        self._answered(Commit)
        self._goodbye()

    def commit_failed(self, failure: BaseException) -> None:
        """At least one message may not be gone (RFC 1939 §6: never ``+OK`` then)."""
        self._answered(Commit)
        self._say_line(f"{pop3_error(failure)}; some deleted messages were not removed")
        self.end(Verdict.FAILED, "the deletion failed")

    def crashed(self, error: BaseException) -> None:
        """Something unexpected was raised: answer the open request if that is still possible, then close."""
        # A listing that broke off must not be completed by its final dot.
        self._replies = iter(())
        if isinstance(self._request, Commit):
            self.commit_failed(error)
        elif self._request is not None and self._encoder is None:
            self._say_line(pop3_error(error))
        self.end(Verdict.FAILED, "local error")

    # Commands

    def _advance(self) -> Event:
        if self.tally.commands == 0 and (reason := self._other_protocol()):
            self.end(Verdict.REFUSED, reason)
            return _error("this is a plain POP3 server")
        line = self._reader.next_line()
        if line is None:
            # A last line without its end is no command: a QUIT that was cut off must not delete.
            return self.end(Verdict.DROPPED) if self._end_of_stream else NeedData()
        self.tally.commands += 1
        try:
            if isinstance(line, TooLong):
                raise Mistake("line too long")
            command = parse(line)
            if self.state not in COMMANDS[command.keyword].states:
                raise Mistake(f"{command.keyword} is not valid in the {self.state} state")
            return self._execute(command)
        except (Mistake, NoSuchMessage) as mistake:
            self._mistake(pop3_line(str(mistake)))
            return self.next_event()

    def _other_protocol(self) -> str:
        start = self._reader.peek(8)
        if start.startswith(b"\x16"):
            return SPOKE_TLS
        return SPOKE_HTTP if _HTTP.match(start) else ""

    def _execute(self, command: Command) -> Event:
        match command.keyword:
            case Keyword.CAPA:
                return self._multi_line("capabilities", (encode_line(c) for c in capabilities(self._implementation)))
            case Keyword.USER:
                return self._take_user(command.user)
            case Keyword.PASS:
                if self.user is None:
                    raise Mistake("send USER first")
                return Open(self.user, command.password)
            case Keyword.STAT:
                return _ok(f"{self._listing.count} {self._listing.octets}")
            case Keyword.LIST:
                if not command.message_number:
                    return self._multi_line(self._drop(), self._listing.scan_lines())
                return _ok(f"{command.message_number} {self._listing.entry(command.message_number).octets}")
            case Keyword.UIDL:
                if not command.message_number:
                    return self._multi_line("unique-id listing follows", self._listing.unique_id_lines())
                return _ok(self._listing.unique_id_line(command.message_number).decode().rstrip())
            case Keyword.RETR:
                return self._retrieve(command.message_number, None)
            case Keyword.TOP:
                return self._retrieve(command.message_number, command.lines)
            case Keyword.DELE:
                self._listing.mark(command.message_number)
                return _ok(f"message {command.message_number} marked as deleted")
            case Keyword.RSET:
                self._listing.unmark_all()
                return _ok(f"maildrop has {self._drop()}")
            case Keyword.NOOP:
                return _ok("")
            case Keyword.QUIT:
                return self._quit()
            case _:
                assert_never(command.keyword)

    def _take_user(self, user: str) -> Event:
        if self.user is not None:
            raise Mistake("PASS is expected after USER")
        self.user = user
        # Whether there is such a user is nobody's business before the password.
        return _ok("send PASS")

    def _retrieve(self, message_number: int, lines: int | None) -> Event:
        entry = self._listing.entry(message_number)
        return Retrieve(message_number, entry.unique_id, entry.octets, lines)

    def _quit(self) -> Event:
        marked = self._listing.marked_unique_ids()
        if self.state is State.TRANSACTION:
            self.state = State.UPDATE
        if marked:
            return Commit(marked)
        self._goodbye()
        return self.next_event()

    # Replies

    def _goodbye(self) -> None:
        self._say("goodbye")
        self.end(Verdict.QUIT)

    def _mistake(self, line: str) -> None:
        self._errors += 1
        if self._errors < MAX_ERRORS[self.state]:
            self._say_line(line)
        else:
            self._say_line(pop3_line("Too many errors"))
            self.end(Verdict.ERRORS, "too many errors")

    def _multi_line(self, text: str, lines: Iterator[bytes]) -> Event:
        self._replies = chain(lines, (END_OF_REPLY,))
        return _ok(text)

    def _say(self, text: str) -> None:
        self._say_line(pop3_line(text, ok=True))

    def _say_line(self, line: str) -> None:
        self._replies = iter((encode_line(line),))

    def _drop(self) -> str:
        return f"{self._listing.count} messages ({self._listing.octets} octets)"

    # Requests

    def _answered(self, kind: type[Request]) -> None:
        if not isinstance(self._request, kind):
            raise RuntimeError(f"there is no {kind.__name__} to answer")
        self._request = None

    def _retrieving(self) -> Retrieve:
        if not isinstance(self._request, Retrieve):
            raise RuntimeError("there is no Retrieve to answer")
        return self._request

    def _begun(self, request: Retrieve) -> tuple[bytes, ContentEncoder]:
        if self._encoder is not None:
            return b"", self._encoder
        self._encoder = ContentEncoder(request.lines)
        text = f"{request.octets} octets" if request.lines is None else "top of message follows"
        return encode_line(pop3_line(text, ok=True)), self._encoder


def _ok(text: str) -> Reply:
    return Reply(encode_line(pop3_line(text, ok=True).rstrip()))


def _error(text: str) -> Reply:
    return Reply(encode_line(pop3_line(text)))
