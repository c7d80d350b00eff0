"""The POP3 session without I/O: it takes octets and answers, and gives events.

Everything that decides what is valid, what is replied and what is deleted stands here. :meth:`Session.next_event` says
what to do next; its events are in ``requests``. A request must be answered before it is called again; commands that
were pipelined behind it wait in the buffer (RFC 2449 §6.6). After STLS that buffer and the user who was named before
are dropped: otherwise an attacker on the network could put commands in front of the protected session.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import assert_never

from ..contracts import Entry, MessageGone, MessageUnavailable
from ..replies import pop3_error, pop3_line
from .authorization import Authorization
from .commands import COMMANDS, Command, Keyword, Mistake, State, capabilities, parse, shown
from .encoded import Encoded, EncodedMessages
from .header_line import HeaderLine
from .listing import Listing, NoSuchMessage
from .options import Options
from .requests import Close, Commit, Event, NeedData, Open, Reply, Request, Retrieve, StartTLS, Tally, Verdict
from .wire import END_OF_REPLY, ContentEncoder, LineReader, TooLong, encode_line

__all__ = (
    "MAX_COMMANDS_BEFORE_LOGIN",
    "MAX_ERRORS",
    "MAX_FAILED_LOGINS",
    "MAX_XLST_MESSAGES",
    "SPOKE_HTTP",
    "SPOKE_TLS",
    "Session",
)

MAX_ERRORS = {State.AUTHORIZATION: 3, State.TRANSACTION: 20}
"""How many errors a state allows; with the last one the session is closed. A device that repeats a mistake without end
must not be served forever."""

MAX_FAILED_LOGINS = 3
"""Failed logins on one connection; the last one closes it."""

MAX_COMMANDS_BEFORE_LOGIN = 50
"""How many commands a client may send before it logs in; no client needs more than ten."""

MAX_XLST_MESSAGES = 1000
"""XTND XLST asks the backend for each header; a client with a larger maildrop has UIDL, which costs nothing."""

SPOKE_TLS = "spoke TLS to the plain POP3 port"
SPOKE_HTTP = "spoke HTTP to the POP3 port"

_NEED_DATA = NeedData()
_HTTP = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|TRACE|CONNECT|PATCH|PRI) ")


class Session:
    """One session. ``secured``: TLS is there from the first octet. ``encoded`` is what sessions share."""

    def __init__(self, options: Options, *, secured: bool = False, encoded: EncodedMessages | None = None) -> None:
        self.state = State.AUTHORIZATION
        self.tally = Tally()
        self._options = options
        self._secured = secured
        self._new_encoder = partial(
            ContentEncoder, replace_nul=options.replace_nul, add_blank_line=options.add_blank_line, shared=encoded
        )
        self._reader = LineReader()
        self._end_of_stream = False
        # No "<" in the greeting: it would be taken for the timestamp of APOP (RFC 1939 §7).
        self._replies: Iterator[bytes] = iter((encode_line(pop3_line("POP3 server ready", ok=True)),))
        self._request: Request | None = None
        self._close: Close | None = None
        self._errors = 0
        self.refused: tuple[str, str] | None = None
        """The last command that was a mistake of the client, and the reply to it; whoever logs it sets this back."""
        self._line = b""
        self._failed_logins = 0
        self._authorization = Authorization(judged=self._options.ask_backend)
        self._listing = Listing(())
        self._last = 0
        self._encoder: ContentEncoder | HeaderLine | None = None
        """Makes the reply from the message that is being fetched."""
        self._status = b""
        """The ``+OK`` that stands before its first octets, until they are there: a failure before them is an ``-ERR``.
        Empty also where the reply began before the message, as that of XTND XLST does."""
        self._prepared: Encoded | None = None
        """What :meth:`prepare` was given, for the next encoder."""
        self._header_lines: Iterator[Retrieve] | None = None
        # Message-number → how many lines of the body the client asked for and did not get.
        self._not_got: dict[int, float] = {}

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
        event = self._advance() if self._header_lines is None else self._next_header_line(self._header_lines)
        if isinstance(event, (Retrieve, Open, Commit, StartTLS)):  # Each Request; a union takes longer.
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

    @property
    def command(self) -> str:
        """The last command, as the log may show it."""
        return shown(self._line)

    @property
    def user(self) -> str | None:
        """Whom the client named, if it did."""
        return self._authorization.user

    # Answers

    def tls_started(self) -> None:
        """TLS is there. What was said in the clear is forgotten, and what was sent ahead of TLS is not read."""
        self._answered(StartTLS)
        # Commands behind STLS may be an attacker's; they must not run in the protected session.
        self._reader = LineReader()
        self._authorization = Authorization(judged=self._options.ask_backend)
        self._secured = True

    def opened(self, entries: Sequence[Entry]) -> None:
        """The maildrop is open; ``entries`` stay as they are until the session ends."""
        # First: the entries come from a plugin, and if this raises, the request must still be open to be answered.
        listing = Listing(entries)
        self._answered(Open)
        self._listing = listing
        self.state = State.TRANSACTION
        self._errors = 0
        self._say(f"maildrop has {self._drop_listing()}")

    def open_failed(self, failure: BaseException) -> None:
        """The maildrop was not opened; the client may try again."""
        self._answered(Open)
        self._authorization.user = None
        self._failed_logins += 1
        self._say_line(pop3_error(failure))
        if self._failed_logins >= MAX_FAILED_LOGINS:
            self.end(Verdict.REFUSED, "too many failed logins")

    def message_piece(self, piece: bytes) -> bytes:
        """The octets to send for the next piece of the message; ``+OK`` stands before the first."""
        _, encoder = self._retrieving()
        octets = encoder.encode(piece)
        self.tally.octets += len(octets)
        return self._take_status() + octets if self._status else octets

    @property
    def enough(self) -> bool:
        """Further pieces of the message are not needed."""
        return self._encoder is not None and self._encoder.enough and not self._status

    def message_end(self) -> bytes:
        """The last octets of the message. Until they are sent, the client knows that it hasn't got all of it."""
        request, encoder = self._retrieving()
        self._request = self._encoder = None
        number = request.message_number
        if self._not_got and _lines(request) >= self._not_got.get(number, 0):
            self._not_got.pop(number, None)
        if request.lines is None:
            self.tally.retrieved += 1
            if number > self._last:
                self._last = number
        else:
            self.tally.top += 1
        octets = encoder.finish()
        return self._take_status() + octets if self._status else octets

    def following(self, message_number: int) -> Entry | None:
        """The message behind this one, for which most clients ask next."""
        return self._listing.following(message_number)

    def prepare(self, piece: bytes) -> None:
        """Encode the whole message for which the client will probably ask next."""
        if not self._options.add_blank_line:  # with it, an encoder must know more than is kept
            self._prepared = self._new_encoder().prepare(piece)

    def message_failed(self, failure: BaseException) -> None:
        """The message could not be read. After ``+OK`` only closing the connection tells the client so.

        Many devices send DELE without looking at the reply to RETR, and this may be the only copy. So QUIT does not
        delete the message until the client has got as much of it as it asked for here.
        """
        request, _ = self._retrieving()
        self._request = self._encoder = None
        begun = not self._take_status()
        self.tally.failed += 1
        number, again = request.message_number, request.message_number in self._not_got
        self._not_got[number] = max(_lines(request), self._not_got.get(number, 0))
        if self._header_lines is not None and isinstance(failure, MessageGone | MessageUnavailable):
            return
        if begun:
            self.end(Verdict.FAILED, "the message broke off")
        elif again:
            # Asked again, it counts as an error, so that a client which asks forever is disconnected in the end.
            self._mistake(pop3_error(failure))
        else:
            self._say_line(pop3_error(failure))

    def committed(self) -> None:
        """The messages are gone."""
        self.tally.deleted = len(self._listing.marked_unique_ids(but=self._not_got))
        self._answered(Commit)
        self._goodbye()

    def commit_failed(self, failure: BaseException) -> None:
        """At least one message may not be gone (RFC 1939 §6: never ``+OK`` then)."""
        self._answered(Commit)
        self._say_line(f"{pop3_error(failure)}; some deleted messages were not removed")
        self.end(Verdict.FAILED, "the deletion failed")

    def crashed(self, error: BaseException) -> None:
        """Something unexpected was raised: answer the open request if that is still possible, then close."""
        # A listing that broke off must not get its final dot: the client would take it for complete.
        self._replies = iter(())
        if isinstance(self._request, Commit):
            self.commit_failed(error)
        elif isinstance(self._request, Open) or (self._encoder is not None and self._status):
            self._say_line(pop3_error(error))
        self.end(Verdict.FAILED, "local error")

    # Commands

    def _advance(self) -> Event:
        before_login = self.state is State.AUTHORIZATION
        if before_login:
            if self.tally.commands == 0 and (reason := self._other_protocol()):
                self.end(Verdict.REFUSED, reason)
                return _error("this is a plain POP3 server")
            line = self._reader.next_line(self._authorization.max_line_octets)
        else:
            line = self._reader.next_line()
        if line is None:
            # A last line without its end is no command: a QUIT that was cut off must not delete.
            return self.end(Verdict.DROPPED) if self._end_of_stream else _NEED_DATA
        self.tally.commands += 1
        self._line = b"" if isinstance(line, TooLong) else line
        exchange = None
        if before_login:
            if self.tally.commands > MAX_COMMANDS_BEFORE_LOGIN:
                self.end(Verdict.ERRORS, "too many commands without a login")
                return _error("too many commands")
            exchange = self._authorization.take_exchange()
            if exchange is not None:
                self._line = b"***"
        try:
            if isinstance(line, TooLong):
                raise Mistake("line too long")
            if exchange is not None:
                return self._authorization.respond(exchange, line)
            command = parse(line)
            if command.keyword is Keyword.STLS and not self._options.stls:
                raise Mistake("unknown command")
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
            case Keyword.RETR | Keyword.TOP:  # First, because nearly all commands of a session are these.
                return self._retrieve(command)
            case Keyword.CAPA:
                lines = capabilities(self._options, self.state, secured=self._secured)
                return self._multi_line("capabilities", map(encode_line, lines))
            case Keyword.USER:
                return self._authorization.take_user(command.user)
            case Keyword.PASS:
                return self._authorization.take_password(command)
            case Keyword.AUTH:
                event = self._authorization.authenticate(command)
                if isinstance(event, Reply) and event.octets.startswith(b"-ERR"):
                    self.refused = (self.command, event.octets.decode().rstrip())
                return event
            case Keyword.STLS:
                if self._secured:
                    raise Mistake("TLS is active already")
                return StartTLS(encode_line(pop3_line("begin TLS", ok=True)))
            case Keyword.STAT:
                return _ok(f"{self._listing.count} {self._listing.octets}")
            case Keyword.LIST:
                if not command.message_number:
                    return self._multi_line(self._drop_listing(), self._listing.scan_lines())
                return _ok(f"{command.message_number} {self._listing.entry(command.message_number).octets}")
            case Keyword.UIDL:
                if not command.message_number:
                    return self._multi_line("unique-id listing follows", self._listing.unique_id_lines())
                return _ok(self._listing.unique_id_line(command.message_number).decode().rstrip())
            case Keyword.DELE:
                self._listing.mark(command.message_number)
                return _ok(f"message {command.message_number} marked as deleted")
            case Keyword.RSET:
                self._listing.unmark_all()
                self._last = 0
                return _ok(f"maildrop has {self._drop_listing()}")
            case Keyword.LAST:
                return _ok(str(self._last))
            case Keyword.XTND:
                return self._list_headers(command)
            case Keyword.NOOP:
                return _ok("")
            case Keyword.QUIT:
                return self._quit()
            case _:
                assert_never(command.keyword)

    # Messages

    def _retrieve(self, command: Command) -> Event:
        entry = self._listing.entry(command.message_number)
        lines = command.lines if command.keyword is Keyword.TOP else None
        self._encoder = self._new_encoder(lines, prepared=self._prepared)
        self._prepared = None if lines is None else self._prepared
        self._status = b"+OK top of message follows\r\n" if lines is not None else b"+OK %d octets\r\n" % entry.octets
        return Retrieve(command.message_number, entry.unique_id, entry.octets, lines)

    def _list_headers(self, command: Command) -> Event:
        if command.message_number:
            self._listing.entry(command.message_number)
            numbers = iter((command.message_number,))
        elif self._listing.count > MAX_XLST_MESSAGES:
            raise Mistake("too many messages for XTND XLST, use UIDL")
        else:
            numbers = self._listing.numbers()
        self._header_lines = self._header_line_requests(numbers, command.header)
        return _ok("headers follow")

    def _header_line_requests(self, numbers: Iterator[int], header: str) -> Iterator[Retrieve]:
        for number in numbers:
            entry = self._listing.entry(number)
            self._encoder = HeaderLine(number, header)
            yield Retrieve(number, entry.unique_id, entry.octets, 0)

    def _next_header_line(self, requests: Iterator[Retrieve]) -> Event:
        request = next(requests, None)
        if request is not None:
            return request
        self._header_lines = None
        return Reply(END_OF_REPLY)

    def _quit(self) -> Event:
        marked = self._listing.marked_unique_ids()
        deleted = self._listing.marked_unique_ids(but=self._not_got)
        self.tally.withheld = len(marked) - len(deleted)
        if self.state is State.TRANSACTION:
            self.state = State.UPDATE
        if deleted:
            return Commit(deleted)
        self._goodbye()
        return self.next_event()

    # Replies

    def _goodbye(self) -> None:
        if self.tally.withheld:
            # The reply of RFC 1939 §6 for this case. "+OK" would be untrue: the next session lists the message again.
            text = "some deleted messages were not removed, because they could not be read before"
            self._say_line(pop3_line(text, code="SYS/TEMP"))
            self.end(Verdict.FAILED, "messages that the client could not get were not deleted")
            return
        self._say("goodbye")
        self.end(Verdict.QUIT)

    def _mistake(self, line: str) -> None:
        self._errors += 1
        self.refused = (self.command, line)
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

    def _drop_listing(self) -> str:
        return f"{self._listing.count} messages ({self._listing.octets} octets)"

    # Requests

    def _answered(self, kind: type[Request]) -> None:
        if not isinstance(self._request, kind):
            raise RuntimeError(f"there is no {kind.__name__} to answer")
        self._request = None

    def _retrieving(self) -> tuple[Retrieve, ContentEncoder | HeaderLine]:
        if not isinstance(self._request, Retrieve) or self._encoder is None:
            raise RuntimeError("there is no Retrieve to answer")
        return self._request, self._encoder

    def _take_status(self) -> bytes:
        status, self._status = self._status, b""
        return status


def _lines(request: Retrieve) -> float:
    return math.inf if request.lines is None else request.lines


def _ok(text: str) -> Reply:
    return Reply(encode_line(pop3_line(text, ok=True).rstrip()))


def _error(text: str) -> Reply:
    return Reply(encode_line(pop3_line(text)))
