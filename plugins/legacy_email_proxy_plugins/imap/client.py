"""IMAPClient and imaplib over our wire, put in at the points that both document for it."""

from __future__ import annotations

import base64
import imaplib
import re
from collections.abc import Iterable, Mapping
from types import MethodType
from typing import Any, cast

from imapclient import IMAPClient, SocketTimeout
from imapclient.response_parser import parse_fetch_response

from legacy_email_proxy.contracts import Disconnected

from ..redaction import without_secrets
from ..sasl import Mechanism, decoded
from .batch import Batch
from .body import Body, Parts
from .listing import Listing
from .server import Server
from .wire import Wire

__all__ = ("ANSWER_OCTETS", "IMAP4", "Client", "check", "parsed", "text_of")

ANSWER_OCTETS = 262_144
"""Enough for the answer to any command but a listing, literals apart."""

_TEXT_OCTETS = 300
_MAX_LITERAL_OCTETS = 0xFFFF_FFFF
"""RFC 9051 §4.3: a literal's size is a 32-bit number."""

_LITERAL_MARK = re.compile(rb"\{\d+\}$")


class IMAP4(imaplib.IMAP4):
    """imaplib over our wire, through its documented override points."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._line = b""
        self.completion = ("", "")
        self.secrets: tuple[str, ...] = ()
        self.listing: Listing | None = None
        self.body: Body | None = None
        self.batch: Batch | None = None
        self._put_back: list[bytes] = []
        super().__init__()

    def open(self, host: str = "", port: int = 0, timeout: float | None = None) -> None:
        self.host, self.port = host, port
        self.sock = self._wire.socket

    def readline(self) -> bytes:
        if self.listing is not None:
            line = self._unlisted(self.listing)
        elif self.batch is not None:
            line = self._put_back.pop(0) if self._put_back else self._unbatched(self.batch)
        else:
            line = self._wire.readline()
            if self.state == "NONAUTH" and line.endswith(b"\n"):
                # GNU imap4d ends its OK to AUTHENTICATE with a bare LF, to imaplib the end of the connection.
                line = line.removesuffix(b"\n").removesuffix(b"\r") + b"\r\n"
        self._line = line.removesuffix(b"\r\n")
        if self.tagged_commands and (match := cast("re.Pattern[bytes]", self.tagre).match(self._line)):
            self.completion = (match["type"].decode("ascii", "replace"), text_of(match["data"], self.secrets))
        return line

    def _unlisted(self, listing: Listing) -> bytes:
        # A folder's listing has one line per message. What looks any different is left to the ordinary parser.
        while True:
            self._wire.skip(listing.take)
            # The next line ends beyond the block, or is none of the usual ones.
            line = self._wire.readline()
            if not listing.take(line):
                return line

    def _unbatched(self, batch: Batch) -> bytes:
        # Likewise with messages: the ordinary parser would take most of the time that they need.
        while True:
            line = self._wire.readline()
            announced = batch.announced(line)
            if announced is None:
                return line
            uid, size = announced
            octets, rest = self._literal(batch, size), self._wire.readline()
            if rest != b")\r\n":
                self._put_back = [octets, rest]
                return line
            batch.put(uid, octets)

    def _literal(self, batch: Batch, size: int) -> bytes:
        batch.expect(size)
        return b"".join(self._wire.pieces(size))

    def read(self, size: int) -> bytes:
        if size > _MAX_LITERAL_OCTETS:
            raise Disconnected(f"the server announces a literal of {size} octets")
        if self.body is not None and self.body.wants(self._line):
            for piece in self._wire.pieces(size):
                self.body.take(piece)
            return b""
        if self.batch is not None:
            return self._put_back.pop(0) if self._put_back else self._literal(self.batch, size)
        if size > ANSWER_OCTETS:
            raise Disconnected(f"the server announces a literal of {size} octets where none is expected")
        # One by one they are small enough; together they could still fill the memory.
        self._wire.spend(size)
        return b"".join(self._wire.pieces(size))

    def authenticate_with(self, exchange: Mechanism) -> None:
        """The AUTHENTICATE command. Raises imaplib's error if it is refused.

        Not by imaplib's own, to which a challenge that is no base64 is the end of the connection.
        """

        def answer(exchange: Mechanism, challenge: bytes | None) -> bytes:
            response = exchange.answer(decoded(challenge or b""))
            self.secrets = tuple(dict.fromkeys((*self.secrets, *exchange.secrets)))
            return b"*" if response is None else base64.b64encode(response)

        # What is to be called for each challenge imaplib knows by its type.
        self.literal = cast("Any", MethodType(answer, exchange))
        check(self._simple_command("AUTHENTICATE", exchange.name))

    def log_in_with(self, parts: list[bytes]) -> None:
        """The LOGIN command, each part but the first a literal. Raises imaplib's error if it is refused."""
        tag = self._new_tag()
        self.send(b"%b %b" % (tag, parts[0]))
        for part in parts[1:]:
            while self._get_response():
                if self.tagged_commands[tag]:
                    raise imaplib.IMAP4.error("the literal was refused")
            self.send(part)
        check(self._command_complete("LOGIN", tag))

    def send(self, data: Any) -> None:
        self._wire.send(bytes(data))

    def shutdown(self) -> None:
        self._wire.close()


class Client(IMAPClient):  # type: ignore[misc]  # imapclient has no types
    """IMAPClient over :class:`IMAP4`. The connection and its TLS are made before."""

    def __init__(self, server: Server, wire: Wire) -> None:
        self._wire = wire
        timeout = SocketTimeout(connect=server.patience.connect, read=server.patience.read)
        super().__init__(server.host, server.port, ssl=wire.tls_version != "", timeout=timeout)
        # IMAPClient sets 5: imaplib then formats every line and every message for a log that nobody reads.
        self._imap.debug = 0

    def _create_IMAP4(self) -> IMAP4:  # noqa: N802 (IMAPClient's name)
        return IMAP4(self._wire)


def text_of(octets: object, secrets: Iterable[str] = ()) -> str:
    """What a server said, fit for a log: short, and without the secrets that it may have quoted."""
    words = octets.decode("ascii", "backslashreplace") if isinstance(octets, bytes) else str(octets)
    return without_secrets(words, secrets)[:_TEXT_OCTETS]


def check(answer: tuple[str, list[Any]]) -> list[Any]:
    """The data of an answer that is OK. Raises imaplib's error."""
    status, data = answer
    if status != "OK":
        raise imaplib.IMAP4.error(f"answered {status}")
    return data


def parsed(row: Parts) -> Mapping[bytes, Any]:
    """One FETCH response by IMAPClient's parser. A literal that went to a :class:`Body` shows as an empty string."""
    parts = [
        (_LITERAL_MARK.sub(b"{0}", part[0]), b"") if isinstance(part, tuple) and not part[1] else part for part in row
    ]
    responses = list(parse_fetch_response(parts, uid_is_key=False).values())
    if len(responses) != 1:
        raise ValueError("a FETCH response that is not one")
    return cast("Mapping[bytes, Any]", responses[0])
