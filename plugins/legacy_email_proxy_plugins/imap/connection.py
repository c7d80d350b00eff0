"""One connection to the IMAP server: synchronous, for one thread at a time. Only this module imports an IMAP library.

IMAPClient and imaplib speak the protocol; what they read and write goes through :class:`.wire.Wire`, put in at the
points that imaplib documents for it. Every failure that leaves this module is one of the contracts'.
"""

from __future__ import annotations

import imaplib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata
from typing import Any, cast

from imapclient import IMAPClient, SocketTimeout
from imapclient.response_parser import parse_fetch_response

from legacy_email_proxy.contracts import (
    Disconnected,
    Failure,
    Login,
    MessageGone,
    MessageUnavailable,
    Unreachable,
    Unusable,
    Unverified,
)

from .body import Body, Parts, rows
from .credentials import disguises, is_sendable, login_parts, plain_response
from .index import MAX_UID, Listing, Mailbox
from .server import Security, Server
from .verdicts import is_busy, login_failure, overloaded, refusal
from .wire import Wire

__all__ = ("Connection",)

_NAME = "legacy-email-proxy"
_TEXT_OCTETS = 300
_ANSWER_OCTETS = 262_144
"""Enough for the answer to any command but a listing, literals apart."""
_ROW_OCTETS = 256
_MAX_MESSAGES = 4_000_000
_MAX_LITERAL_OCTETS = 0xFFFF_FFFF
"""RFC 9051 §4.3: a literal's size is a 32-bit number."""

_LITERAL_MARK = re.compile(rb"\{\d+\}$")


class _IMAP4(imaplib.IMAP4):
    """imaplib over our wire, through its documented override points."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._line = b""
        self.completion = ("", "")
        self.listing: Listing | None = None
        self.body: Body | None = None
        super().__init__()

    def open(self, host: str = "", port: int = 0, timeout: float | None = None) -> None:
        self.host, self.port = host, port
        self.sock = self._wire.socket

    def readline(self) -> bytes:
        line = self._wire.readline()
        # A folder's listing has one line per message. What looks any different is left to the ordinary parser.
        while self.listing is not None and self.listing.take(line):
            line = self._wire.readline()
        self._line = line.removesuffix(b"\r\n")
        if self.tagged_commands and (match := cast("re.Pattern[bytes]", self.tagre).match(self._line)):
            self.completion = (match["type"].decode("ascii", "replace"), _text(match["data"]))
        return line

    def read(self, size: int) -> bytes:
        if size > _MAX_LITERAL_OCTETS:
            raise Disconnected(f"the server announces a literal of {size} octets")
        if self.body is not None and self.body.wants(self._line):
            for piece in self._wire.pieces(size):
                self.body.take(piece)
            return b""
        if size > _ANSWER_OCTETS:
            raise Disconnected(f"the server announces a literal of {size} octets where none is expected")
        return b"".join(self._wire.pieces(size))

    def send(self, data: Any) -> None:
        self._wire.send(bytes(data))

    def shutdown(self) -> None:
        self._wire.close()


class _Client(IMAPClient):  # type: ignore[misc]  # imapclient has no types
    """IMAPClient over :class:`_IMAP4`. The connection and its TLS are made before."""

    def __init__(self, server: Server, wire: Wire) -> None:
        self._wire = wire
        timeout = SocketTimeout(connect=server.patience.connect, read=server.patience.read)
        super().__init__(server.host, server.port, ssl=wire.tls_version != "", timeout=timeout)
        # IMAPClient sets 5: imaplib then formats every line and every message for a log that nobody reads.
        self._imap.debug = 0

    def _create_IMAP4(self) -> _IMAP4:  # noqa: N802 (IMAPClient's name)
        return _IMAP4(self._wire)


class Connection:
    """Opened by :meth:`connect`, then :meth:`login`, :meth:`select`. :meth:`abort` may be called from any thread.

    ``usable`` tells whether the last exchange ended cleanly, so that another may follow.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._wire = Wire(server.patience)
        self._client: _Client
        self._imap: _IMAP4
        self._secrets: tuple[str, ...] = ()
        self._in_step = False
        self.mailbox: Mailbox | None = None
        self.folder = ""  # As it stands in a command.
        self.permanent_flags: frozenset[bytes] = frozenset()
        self.capabilities: frozenset[str] = frozenset()
        self.logged_in = False

    @property
    def usable(self) -> bool:
        """Whether client and server are in step: nothing was left half read, given up or closed."""
        return self._in_step and not self._wire.aborted

    @property
    def tls_version(self) -> str:
        """Such as ``TLSv1.3``; empty without TLS."""
        return self._wire.tls_version

    # Opening

    def connect(self) -> None:
        """Connect, verify the certificate, read the greeting.

        Raises :class:`Unreachable`, :class:`Unverified`, :class:`Unusable` or :class:`Overloaded`.
        """
        server = self._server
        self._wire.allow(server.patience.connect, _ANSWER_OCTETS)
        try:
            self._wire.connect(server.host, server.port)
            if server.security is Security.IMPLICIT_TLS:
                assert server.tls is not None  # noqa: S101 (Server says so)
                self._wire.start_tls(server.tls, server.host)
            self._client = _Client(server, self._wire)
            self._imap = self._client._imap
            if self._imap.state != "NONAUTH":
                detail = f"{server.name} greets with PREAUTH: it would take anybody, and no TLS can be asked for"
                raise Unusable(detail, look_at="BACKEND_IMAP_PORT")
            if server.security is Security.STARTTLS:
                self._start_tls()
        except imaplib.IMAP4.error as error:
            text = _text(error.args[0] if error.args else b"")
            if is_busy(text):
                raise overloaded(text) from error
            detail = f"{server.name} does not greet as an IMAP server: {text}"
            raise Unreachable(detail, look_at="BACKEND_IMAP_HOST, BACKEND_IMAP_PORT") from error
        except (Disconnected, ValueError) as error:
            detail = f"{server.name} accepts the connection, but: {error}"
            raise Unreachable(detail, look_at="BACKEND_IMAP_HOST, BACKEND_IMAP_PORT") from error
        self.capabilities = frozenset(self._imap.capabilities)
        self._in_step = True

    def _start_tls(self) -> None:
        server, imap = self._server, self._imap
        look_at = "BACKEND_IMAP_USE_STARTTLS, BACKEND_IMAP_PORT"
        if "STARTTLS" not in imap.capabilities:
            raise Unverified(f"{server.name} does not offer STARTTLS", look_at=look_at)
        try:
            _check(imap._simple_command("STARTTLS"))
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error:
            detail = f"{server.name} refused STARTTLS: {' '.join(imap.completion)}"
            raise Unverified(detail, look_at=look_at) from None
        assert server.tls is not None  # noqa: S101 (Server says so)
        self._wire.start_tls(server.tls, server.host)
        imap.open(server.host, server.port)
        # What was said in the clear anybody could have said (RFC 9051 §6.2.1).
        imap.untagged_responses.clear()
        imap._get_capabilities()

    def login(self, login: Login, *, clients_own: bool) -> None:
        """Prove who we are: AUTHENTICATE PLAIN where it is offered, else LOGIN.

        Raises :class:`LoginRefused` or :class:`CredentialsRefused`, depending on ``clients_own``, only when the server
        judged the password; else :class:`Unusable`, :class:`Overloaded` or :class:`Disconnected`.
        """
        if not is_sendable(login):
            detail = "NUL or a line end in user or password: not sent"
            raise login_failure("NO", detail, clients_own=clients_own)
        plain = "AUTH=PLAIN" in self.capabilities
        if not plain and "LOGINDISABLED" in self.capabilities:
            offered = ", ".join(sorted(name for name in self.capabilities if name.startswith("AUTH="))) or "none"
            detail = f"the server takes no password (LOGINDISABLED; mechanisms: {offered})"
            raise Unusable(detail, look_at="BACKEND_IMAP_USE_SSL, BACKEND_IMAP_USE_STARTTLS")
        self._secrets = disguises(login)
        imap = self._imap
        with self._exchange("log in", refused=partial(login_failure, clients_own=clients_own)):
            if plain:
                answers = [plain_response(login)]
                # A second challenge has no answer in PLAIN; None cancels.
                imap.authenticate("PLAIN", lambda _: answers.pop() if answers else cast("bytes", None))
            else:
                self._send_login(login)
            imap.state = "AUTH"
            self.capabilities = frozenset(name.decode("ascii", "replace") for name in self._client.capabilities())
        self.logged_in = True
        self._identify()

    def _send_login(self, login: Login) -> None:
        imap = self._imap
        tag = imap._new_tag()
        parts = login_parts(tag, login)
        imap.send(parts[0])
        for part in parts[1:]:
            while imap._get_response():
                if imap.tagged_commands[tag]:
                    raise imaplib.IMAP4.error("the literal was refused")
            imap.send(part)
        _check(imap._command_complete("LOGIN", tag))

    def _identify(self) -> None:
        if "ID" not in self.capabilities:
            return
        # NetEase refuses SELECT to clients that have not said who they are; what is answered is of no interest.
        with self._exchange("say who we are"):
            try:
                self._client.id_({"name": _NAME, "version": metadata.version(_NAME), "vendor": _NAME})
            except imaplib.IMAP4.error as error:
                if isinstance(error, imaplib.IMAP4.abort):
                    raise

    @contextmanager
    def _exchange(
        self,
        doing: str,
        *,
        seconds: float | None = None,
        octets: int = _ANSWER_OCTETS,
        refused: Callable[[str, str], Failure] | None = None,
    ) -> Iterator[None]:
        """One command and its answer; ``refused`` makes the failure of a tagged NO or BAD.

        Until it has ended cleanly, the connection is not ``usable``.
        """
        imap = self._imap
        self._in_step = False
        self._raise_bye(doing)
        imap.untagged_responses.clear()
        imap.completion = ("", "")
        self._wire.allow(self._server.patience.command if seconds is None else seconds, octets)
        try:
            yield
        except (MessageGone, MessageUnavailable):
            self._in_step = True
            raise
        except imaplib.IMAP4.error as error:
            self._raise_bye(doing)
            status, text = imap.completion
            if status not in ("NO", "BAD") or isinstance(error, imaplib.IMAP4.abort):
                raise Disconnected(f"could not {doing}: {self._redacted(str(error))}") from None
            self._in_step = status == "NO"
            text = self._redacted(text)
            raise (refused or partial(refusal, doing))(status, text) from None
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            detail = f"could not {doing}, the server broke the protocol: {self._redacted(str(error))}"
            raise Disconnected(detail) from None
        self._in_step = True

    def _raise_bye(self, doing: str) -> None:
        said = self._imap.untagged_responses.get("BYE")
        if not said:
            return
        text = self._redacted(_text(said[-1]))
        if is_busy(text) and not self.logged_in:
            raise overloaded(text)
        raise Disconnected(f"could not {doing}, the server hung up: {text}")

    def _redacted(self, text: str) -> str:
        # A server may quote the command that it did not understand, and so the password, into our log.
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def select(self) -> Mailbox:
        """Open the folder, for reading and writing: EXAMINE does not fix the UIDVALIDITY on every server (Courier)."""
        folder, doing = self._server.folder, f"open folder {self._server.folder!r}"
        self.mailbox = None
        with self._exchange(doing, refused=partial(refusal, doing, look_at="BACKEND_IMAP_FOLDER")):
            try:
                answer = self._client.select_folder(folder)
            except imaplib.IMAP4.readonly:
                # It is selected all the same, and reading works.
                self._imap.is_readonly = True
                answer = self._client._process_select_response(self._imap.untagged_responses)
            self.folder = self._in_command(folder)
            self.permanent_flags = frozenset(answer.get(b"PERMANENTFLAGS", answer.get(b"FLAGS", ())))
            uidvalidity, exists = answer.get(b"UIDVALIDITY", 0), answer[b"EXISTS"]
        if not 0 < uidvalidity <= MAX_UID:
            detail = f"folder {folder!r} has no UIDVALIDITY, so its messages have no lasting identity"
            raise Failure(detail, look_at="BACKEND_IMAP_FOLDER")
        self.mailbox = Mailbox(uidvalidity, exists, read_only=self._imap.is_readonly)
        return self.mailbox

    def listing(self) -> dict[int, int]:
        """UID → octets of every message in the selected folder; 0 octets where the server does not say."""
        exists = self.mailbox.exists if self.mailbox else 0
        if not exists:
            return {}  # A range over nothing is an error to some servers.
        octets = _ANSWER_OCTETS + _ROW_OCTETS * min(exists, _MAX_MESSAGES)
        self._imap.listing = listing = Listing()
        try:
            with self._exchange("list the folder", seconds=self._server.patience.listing, octets=octets):
                for row in self._uid("FETCH", "1:*", "(UID RFC822.SIZE)"):
                    listing.add(_parsed(row))
        finally:
            self._imap.listing = None
        return listing.octets_by_uid

    def fetch(self, uid: int, item: str, sink: Callable[[bytes], None]) -> None:
        """Hand ``item`` of one message to ``sink``, in pieces, the last one only when all is seen to be right.

        ``item`` is ``BODY.PEEK[]``, ``BODY.PEEK[HEADER]`` or ``BODY.PEEK[]<offset.octets>``. Raises
        :class:`MessageGone`, :class:`MessageUnavailable` or :class:`Disconnected`.
        """
        section = re.sub(r"\.\d+>", ">", item.replace(".PEEK", "")).encode()
        self._imap.body = body = Body(uid, section, sink)
        try:
            with self._exchange(f"read UID {uid}", refused=body.refused):
                rows = self._uid("FETCH", str(uid), f"(UID {item})")
                body.finish(rows, _parsed, self._imap.completion[1])
        finally:
            self._imap.body = None

    def uid(self, doing: str, command: str, *arguments: str, octets: int = _ANSWER_OCTETS) -> list[Parts]:
        """One command by UID and the FETCH responses to it; see :mod:`.actions`."""
        with self._exchange(doing, octets=octets):
            return self._uid(command, *arguments)

    def folders(self, command: str, *options: str) -> list[tuple[Collection[bytes], str]]:
        """Attributes and name, as it stands in a command, of every folder; ``command`` is LIST or XLIST."""
        with self._exchange("list the folders", octets=16 * _ANSWER_OCTETS):
            _check(self._imap._simple_command(command, '""', '"*"', *options))
            found = self._client._proc_folder_list(self._imap.untagged_responses.get(command, []))
            return [(flags, self._in_command(name)) for flags, _, name in found]

    def _in_command(self, folder: str) -> str:
        return bytes(self._client._normalise_folder(folder)).decode("ascii")

    def _uid(self, command: str, *arguments: str) -> list[Parts]:
        return rows(_check(self._imap.uid(command, *arguments)))

    # The end

    def logout(self) -> None:
        """Say goodbye if that goes quickly, and close; never fails."""
        if self.usable:
            with suppress(Exception):
                self._wire.allow(self._server.patience.logout, _ANSWER_OCTETS)
                self._imap.logout()
        self.close()

    def close(self) -> None:
        """Close without a word; again does nothing."""
        self._in_step = False
        self._wire.close()

    def abort(self) -> None:
        """End whatever is going on, from any thread: the thread that waits in here fails at once."""
        self._wire.abort()


def _check(answer: tuple[str, list[Any]]) -> list[Any]:
    status, data = answer
    if status != "OK":
        raise imaplib.IMAP4.error(f"answered {status}")
    return data


def _parsed(row: Parts) -> Mapping[bytes, Any]:
    """One FETCH response by IMAPClient's parser. A literal that went to a :class:`Body` shows as an empty string."""
    parts = [
        (_LITERAL_MARK.sub(b"{0}", part[0]), b"") if isinstance(part, tuple) and not part[1] else part for part in row
    ]
    responses = list(parse_fetch_response(parts, uid_is_key=False).values())
    if len(responses) != 1:
        raise ValueError("a FETCH response that is not one")
    return cast("Mapping[bytes, Any]", responses[0])


def _text(octets: object) -> str:
    return (octets.decode("ascii", "backslashreplace") if isinstance(octets, bytes) else str(octets))[:_TEXT_OCTETS]
