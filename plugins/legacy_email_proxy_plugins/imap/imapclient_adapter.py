"""IMAPClient and imaplib over our own transport: they make the commands, and we parse what the server answers."""

from __future__ import annotations

import base64
import imaplib
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from types import MethodType
from typing import Any, cast

from imapclient import IMAPClient, SocketTimeout

from legacy_email_proxy.contracts import Disconnected

from ..redaction import without_secrets
from ..sasl import Mechanism, decoded
from .responses import Fetched, Tokens, announced, code_in, is_open, small_literal
from .settings import Server
from .transport import Wire

__all__ = ("ANSWER_OCTETS", "IMAP4", "Client", "InThread", "check", "text_of")

ANSWER_OCTETS = 262_144
"""Enough for the answer to any command but a listing, not counting literals."""

_log = logging.getLogger("legacy_email_proxy.maildrop.imap")

InThread = Callable[[Callable[[object], Any]], Awaitable[Any]]
"""Runs a function, which is given the connection, in the thread that may use it."""

_TEXT_OCTETS = 300
_MAX_LITERAL_OCTETS = 0xFFFF_FFFF
"""RFC 9051 §4.3: a literal's size is a 32-bit number."""

_STATUS = frozenset({"OK", "NO", "BAD"})
_SPOKEN = _STATUS | {"BYE", "PREAUTH"}
"""Responses that are text for people. A ``{5}`` at their end announces no literal."""
_FOLDERS = frozenset({"LIST", "XLIST"})
_COUNTED = frozenset({"EXISTS", "EXPUNGE"})
_MAX_LINE_FEEDS = 100

_TAGGED = re.compile(rb"([^\s*+]\S*)[ \t]+([^\s\[]+)[ \t]*(.*)", re.DOTALL)
_UNTAGGED = re.compile(rb"\*[ \t]+(?:(\d{1,20})[ \t]+)?([^\s()\"\[\]{}]+)[ \t]*(.*)", re.DOTALL)


class IMAP4(imaplib.IMAP4):
    """imaplib's commands over our transport. Responses are parsed by :mod:`.responses`.

    imaplib's own patterns know only one form of each response. Servers use more.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.completion = ("", "")
        self.secrets: tuple[str, ...] = ()
        self.logging_in = False
        """What is sent now holds passwords or tokens, so the log must not have it."""
        self.codes: dict[str, bytes] = {}
        """The response codes that came with the answer: name → the text of the last one of that name."""
        self.fetched = Fetched()
        """Takes the FETCH responses."""
        super().__init__()

    def open(self, host: str = "", port: int = 0, timeout: float | None = None) -> None:
        self.host, self.port = host, port
        self.sock = self._wire.socket

    def authenticate_with(self, exchange: Mechanism) -> None:
        """The AUTHENTICATE command. Raises imaplib's error if it is refused.

        imaplib's own command would end the connection at a challenge that is not base64.
        """

        def answer(exchange: Mechanism, challenge: bytes | None) -> bytes:
            response = exchange.answer(decoded(challenge or b""))
            self.secrets = tuple(dict.fromkeys((*self.secrets, *exchange.secrets)))
            return b"*" if response is None else base64.b64encode(response)

        # imaplib calls ``literal`` for each challenge only if it is of exactly this type.
        self.literal = cast("Any", MethodType(answer, exchange))
        check(self._simple_command("AUTHENTICATE", exchange.name))

    def log_in_with(self, parts: list[bytes]) -> None:
        """The LOGIN command. Before each part but the first, it waits until the server asks for the literal. Raises
        imaplib's error if the login is refused.
        """
        tag = self._new_tag()
        self.send(b"%b %b" % (tag, parts[0]))
        for part in parts[1:]:
            while self._get_response():
                if self.tagged_commands[tag]:
                    raise imaplib.IMAP4.error("the literal was refused")
            self.send(part)
        check(self._command_complete("LOGIN", tag))

    async def command_in_loop(
        self, name: str, *arguments: str, octets: int, in_thread: InThread
    ) -> tuple[str, list[Any]]:
        """A command whose answer is read in the event loop; ``in_thread``, from where it has not the usual form."""
        with self._wire.in_loop():
            tag = self._command(name, *arguments)
            rest = await self._wire.take_into(self.fetched, octets)

            def complete(_: object = None) -> tuple[str, list[Any]]:
                return cast("tuple[str, list[Any]]", self._command_complete(name, tag))

            if rest.startswith(tag) and rest.find(b"\n") == len(rest) - 1:
                return complete()
        return cast("tuple[str, list[Any]]", await in_thread(complete))

    def send(self, data: Any) -> None:
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("C: %s", "***" if self.logging_in else text_of(bytes(data).rstrip(), self.secrets))
        self._wire.send(bytes(data))

    def shutdown(self) -> None:
        self._wire.close()

    def _get_response(self, *_: object) -> bytes | None:
        """Read one response and store what it says; ``None`` for a continuation request. imaplib calls it in a loop."""
        line, end = self._first_line()
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("S: %s", text_of(line, self.secrets))
        if line[:1] == b"*":
            self._take_untagged(line, end)
        elif line[:1] == b"+":
            if not self.tagged_commands:
                raise self.error(f"that is no greeting: {line!r}")
            self.continuation_response = cast("str", line[1:].strip())  # The stubs have it so; it is octets.
            return None
        elif line.upper().startswith(b"[COPYUID "):
            pass  # Exchange 2013 sends this without "* OK" before it. We do not need it.
        elif match := _TAGGED.fullmatch(line):
            self._take_tagged(match[1], match[2], match[3] or b"")
        else:
            raise self.abort(f"unexpected response: {line!r}")
        return line

    def _first_line(self) -> tuple[bytes, bytes]:
        take = self.fetched.take
        while self.fetched.in_blocks:
            self._wire.skip(take)
            # The next line ends beyond the block, or does not have the usual form.
            line = self._wire.readline()
            if not take(line):
                return self._without_end(line)
        return self._line()

    def _line(self) -> tuple[bytes, bytes]:
        return self._without_end(self._wire.readline())

    def _without_end(self, line: bytes) -> tuple[bytes, bytes]:
        # GNU imap4d ends a line with a bare LF.
        for end in (b"\r\n", b"\n"):
            if line.endswith(end):
                return line[: -len(end)], end
        raise self.abort("socket error: EOF")

    def _take_tagged(self, tag: bytes, status: bytes, text: bytes) -> None:
        name = status.decode("ascii", "replace").upper()
        if tag not in self.tagged_commands or name not in _STATUS:
            raise self.abort(f"unexpected tagged response: {status!r} {text!r}")
        self._take_code(text)
        self.completion = (name, text_of(text, self.secrets))
        self.tagged_commands[tag] = cast("list[bytes]", (name, [text]))

    def _take_untagged(self, line: bytes, end: bytes) -> None:
        match = _UNTAGGED.fullmatch(line)
        if match is None:
            raise self.abort(f"unexpected response: {line!r}")
        number, text = match[1], match[3]
        name = match[2].decode("ascii", "replace").upper()
        if number is None and name in _SPOKEN:
            self._take_code(text)
            self._keep(name, text)
        elif number is None:
            parts = self._parts(text, end)
            # Only the names of folders may come as literals that we need.
            self._keep(name, parts if name in _FOLDERS else b"".join(parts))
        elif name == "FETCH":
            self._take_fetch(text, end)
        elif name in _COUNTED:
            # The last number holds: a server may send the count more than once.
            self.untagged_responses[name] = [number]

    def _take_code(self, text: bytes) -> None:
        if (code := code_in(text)) is not None:
            self.codes[code[0]] = code[1]
            if code[0] == "CAPABILITY":  # It may come as a response code or as a response of its own.
                self._keep(*code)

    def _keep(self, name: str, said: bytes | tuple[bytes, ...]) -> None:
        if name == "CAPABILITY":
            self.untagged_responses.pop(name, None)
        self.untagged_responses.setdefault(name, []).append(cast("bytes", said))

    def _closed(self, text: bytes, end: bytes) -> bytes:
        # A bare LF within quotes does not end the line: a folder's name may have one. The rest of the name must not be
        # taken for a response of the server.
        for _ in range(_MAX_LINE_FEEDS):
            if end != b"\n" or not is_open(text):
                return text
            more, end = self._line()
            text = b"%b\n%b" % (text, more)
        raise Disconnected("the server sent a string without an end")

    def _parts(self, text: bytes, end: bytes) -> tuple[bytes, ...]:
        """A response as text, literal, text, literal … text."""
        parts: list[bytes] = []
        text = self._closed(text, end)
        while (literal := announced(text)) is not None:
            parts += (literal[0], small_literal(literal[1], self._wire))
            text = self._closed(*self._line())
        return (*parts, text)

    def _take_fetch(self, text: bytes, end: bytes) -> None:
        fetched, tokens, reason = self.fetched, Tokens(), ""
        text = first = self._closed(text, end)
        while True:
            literal = announced(text)
            name, uid = "", None
            try:
                if not reason:
                    tokens.text(text if literal is None else literal[0])
                    if literal is None:
                        attributes = tokens.attributes()
                        break
                    name, uid = tokens.expected()
            except ValueError as error:
                reason = str(error)
            if literal is None:
                fetched.unreadable(first, reason)
                return
            if literal[1] > _MAX_LITERAL_OCTETS:
                raise Disconnected(f"the server announces a literal of {literal[1]} octets")
            tokens.literal(fetched.read(name, uid, literal[1], self._wire))
            text = self._closed(*self._line())
        fetched.add(attributes)


class Client(IMAPClient):  # type: ignore[misc]  # imapclient has no types
    """IMAPClient over :class:`IMAP4`. The transport must be connected, with TLS if there is to be any."""

    def __init__(self, server: Server, wire: Wire) -> None:
        self._wire = wire
        timeout = SocketTimeout(connect=server.patience.connect, read=server.patience.read)
        super().__init__(server.host, server.port, ssl=wire.tls_version != "", timeout=timeout)
        # IMAPClient sets 5, with which imaplib formats every line for a debug log that we do not use.
        self._imap.debug = 0

    def _create_IMAP4(self) -> IMAP4:  # noqa: N802 (IMAPClient's name)
        return IMAP4(self._wire)


def text_of(octets: object, secrets: Iterable[str] = ()) -> str:
    """A server's text for the log: short, and without the secrets that the server may have quoted."""
    words = octets.decode("ascii", "backslashreplace") if isinstance(octets, bytes) else str(octets)
    return without_secrets(words, secrets)[:_TEXT_OCTETS]


def check(answer: tuple[str, list[Any]]) -> list[Any]:
    """The data of an answer that is OK. Raises imaplib's error."""
    status, data = answer
    if status != "OK":
        raise imaplib.IMAP4.error(f"answered {status}")
    return data
