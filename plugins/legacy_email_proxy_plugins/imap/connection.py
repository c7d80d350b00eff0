"""One connection to the IMAP server: synchronous, for one thread at a time, or the event loop.

IMAPClient and imaplib speak the protocol (:mod:`.imapclient_adapter`). This module raises only the failures of
``contracts``.
"""

from __future__ import annotations

import imaplib
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata
from typing import cast

from legacy_email_proxy.contracts import (
    BearerToken,
    Disconnected,
    Failure,
    Login,
    MessageGone,
    MessageUnavailable,
    Unreachable,
    Unusable,
    Unverified,
    timed,
)

from ..backend_settings import Encryption
from ..sasl import Mechanism
from .imapclient_adapter import ANSWER_OCTETS, IMAP4, Client, InThread, check, text_of
from .listing import MAX_UID, Listing, Mailbox, uid_sets
from .login import LOGIN, LoginWays, is_sendable, login_parts, mechanism
from .response_codes import is_busy, login_failure, other_protocol, overloaded, refusal
from .responses import Batch, Body, Fetched, mailbox_in, number
from .settings import Server
from .transport import HANGS_UP, InTheClear, Wire

__all__ = ("Connection",)

_NAME = "legacy-email-proxy"
_VERSION = metadata.version(_NAME)
_ROW_OCTETS = 256
_MAX_MESSAGES = 4_000_000
_CHANGES = frozenset({"EXPUNGE", "VANISHED"})
_PLACE = "BACKEND_IMAP_HOST, BACKEND_IMAP_PORT"
_TOO_MANY = f"{_PLACE}, BACKEND_IMAP_MAX_CONNECTIONS"
_BYE = re.compile(rb"\*[ \t]+BYE(?!\S)(.*)", re.IGNORECASE | re.DOTALL)


class Connection:
    """Call :meth:`connect`, then :meth:`login`, then :meth:`select`. :meth:`abort` may be called from any thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._wire = Wire(server.patience)
        self._client: Client
        self._imap: IMAP4
        self._in_step = False
        self.mailbox: Mailbox | None = None
        self.folder = ""  # As it stands in a command.
        self.permanent_flags: frozenset[bytes] = frozenset()
        self.deletable = True  # RFC 9051 §7.1: without PERMANENTFLAGS, all flags can be kept.
        self.capabilities: frozenset[str] = frozenset()
        self.logged_in = False

    @property
    def usable(self) -> bool:
        """Whether another exchange may follow: the last answer was read to its end, and the connection is open."""
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
        self._wire.allow(server.patience.connect, ANSWER_OCTETS)
        try:
            with timed("pop3", "connect"):
                self._wire.connect(server.host, server.port)
            if server.encryption is Encryption.IMPLICIT:
                self._shake_hands()
            self._client = Client(server, self._wire)
            self._imap = self._client._imap
            if self._imap.state != "NONAUTH":
                detail = f"{server.name} greets with PREAUTH: it would take anybody, and no TLS can be asked for"
                raise Unusable(detail, look_at="BACKEND_IMAP_PORT")
            if server.encryption is Encryption.STARTTLS:
                self._start_tls()
        except InTheClear as error:
            self._judge_greeting(error.said)
            raise
        except imaplib.IMAP4.error as error:
            greeting = self._wire.first_line
            self._judge_greeting(greeting)
            text = text_of(error.args[0] if error.args else b"")
            if is_busy(text):
                raise overloaded(text) from error
            if not greeting:
                detail = f"{server.name} hung up without a greeting{HANGS_UP}"
                raise Unreachable(detail, look_at=_TOO_MANY) from error
            detail = f"{server.name} does not greet as an IMAP server: {text}"
            raise Unreachable(detail, look_at=_PLACE) from error
        except (Disconnected, ValueError) as error:
            if self._wire.aborted:
                raise
            detail = f"{server.name} accepts the connection, but: {error}"
            # A server that expects TLS from the first octet sends no greeting in the clear.
            tls = "" if server.encryption is Encryption.IMPLICIT else ", BACKEND_IMAP_USE_SSL"
            raise Unreachable(detail, look_at=f"{_PLACE}{tls}") from error
        self.capabilities = frozenset(self._imap.capabilities)
        self._in_step = True

    def _judge_greeting(self, greeting: bytes) -> None:
        """Raise the failure that fits a ``greeting`` that is not IMAP's usual one, if it is known what it means."""
        name = self._server.name
        if bye := _BYE.match(greeting):
            text = text_of(bye[1].strip())
            if is_busy(text):
                raise overloaded(text)
            raise Unreachable(f"{name} takes no connection now: BYE {text}", look_at=_TOO_MANY)
        if protocol := other_protocol(greeting):
            said = text_of(greeting.strip())
            raise Unreachable(f"{name} is a server for {protocol} and not for IMAP: it says {said}", look_at=_PLACE)

    def _start_tls(self) -> None:
        server, imap = self._server, self._imap
        look_at = "BACKEND_IMAP_USE_STARTTLS, BACKEND_IMAP_PORT"
        if "STARTTLS" not in imap.capabilities:
            raise Unverified(f"{server.name} does not offer STARTTLS", look_at=look_at)
        try:
            check(imap._simple_command("STARTTLS"))
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error:
            detail = f"{server.name} refused STARTTLS: {' '.join(imap.completion)}"
            raise Unverified(detail, look_at=look_at) from None
        self._shake_hands()
        imap.open(server.host, server.port)
        # Anybody on the way could have put in what came before TLS (RFC 9051 §6.2.1).
        imap.untagged_responses.clear()
        imap._get_capabilities()

    def _shake_hands(self) -> None:
        assert self._server.tls is not None  # noqa: S101 (Server says so)
        with timed("pop3", "tls"):
            self._wire.start_tls(self._server.tls, self._server.host)

    def login(self, login: Login, *, clients_own: bool, ways: LoginWays) -> None:
        """Log in: with a password in one of two ``ways``, or with a token.

        Raises :class:`LoginRefused` or :class:`CredentialsRefused`, depending on ``clients_own``, only when the server
        judged the password; else :class:`Unusable`, :class:`Overloaded`, :class:`Disconnected` or :class:`Failure`.
        """
        if not is_sendable(login):
            detail = "NUL or a line end in user or password: not sent"
            raise login_failure("NO", detail, clients_own=clients_own)
        with timed("pop3", "login"):
            ways.lead(login, self.capabilities, self._server.encryption, partial(self._try, login, clients_own))
        if "CAPABILITY" in self._imap.untagged_responses:  # Told with the answer to the login.
            self._take_capabilities()
        else:
            with self._exchange("ask what the server can do"):
                self._take_capabilities()
        self.logged_in = True
        self._identify()

    def _take_capabilities(self) -> None:
        self.capabilities = frozenset(name.decode("ascii", "replace") for name in self._client.capabilities())

    def _try(self, login: Login, clients_own: bool, way: str) -> None:
        imap = self._imap
        # The secrets of earlier tries stay in the list: a server may quote any earlier line in a later error.
        imap.secrets = (*imap.secrets, login.password.reveal())
        exchange: Mechanism | None = None

        def refused(status: str, text: str) -> Failure:
            if exchange is not None and exchange.fault:
                return Disconnected(text_of(exchange.fault, imap.secrets))
            if exchange is not None and exchange.said:
                # The server sent this text in base64. It is decoded before secrets are looked for.
                text = f"{text} ({text_of(exchange.said, imap.secrets)})"
            with_token = isinstance(login.password, BearerToken)
            tls = self._server.encryption is not Encryption.NONE
            return login_failure(status, text, clients_own=clients_own, with_token=with_token, tls=tls)

        imap.completion = ("", "")
        try:
            exchange = None if way == LOGIN else mechanism(way, login, self._server)
        except ValueError as error:
            raise refused("NO", f"not sent: {error}") from None
        with self._exchange("log in", refused=refused):
            imap.logging_in = True
            try:
                if exchange is None:
                    imap.log_in_with(login_parts(login))
                else:
                    imap.authenticate_with(exchange)
            finally:
                imap.logging_in = False
            if exchange is not None and not exchange.proven:
                detail = f"the server let us in without showing that it knows the password ({way})"
                raise Disconnected(detail)
            imap.state = "AUTH"

    def _identify(self) -> None:
        if "ID" not in self.capabilities:
            return
        # NetEase refuses SELECT to clients that have not sent ID. The answer is not needed.
        with self._exchange("say who we are"):
            try:
                self._imap._simple_command("ID", f'("name" "{_NAME}" "version" "{_VERSION}" "vendor" "{_NAME}")')
            except imaplib.IMAP4.error as error:
                if isinstance(error, imaplib.IMAP4.abort):
                    raise

    @contextmanager
    def _exchange(
        self,
        doing: str,
        *,
        seconds: float | None = None,
        octets: int = ANSWER_OCTETS,
        refused: Callable[[str, str], Failure] | None = None,
    ) -> Iterator[None]:
        """For one command and its answer. ``refused`` makes the failure for a tagged NO or BAD.

        The connection is not ``usable`` unless the block ends cleanly.
        """
        imap = self._imap
        self._in_step = False
        self._raise_bye(doing)
        imap.untagged_responses.clear()
        imap.codes.clear()
        imap.fetched = Fetched()
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
                raise Disconnected(f"could not {doing}: {text_of(str(error), self._imap.secrets)}") from None
            self._in_step = status == "NO"
            raise (refused or partial(refusal, doing))(status, text) from None
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            detail = f"could not {doing}, the server broke the protocol: {text_of(str(error), self._imap.secrets)}"
            raise Disconnected(detail) from None
        self._in_step = True

    def _raise_bye(self, doing: str) -> None:
        said = self._imap.untagged_responses.get("BYE")
        if not said:
            return
        text = text_of(said[-1], self._imap.secrets)
        if is_busy(text) and not self.logged_in:
            raise overloaded(text)
        raise Disconnected(f"could not {doing}, the server hung up: {text}")

    def select(self) -> Mailbox:
        """Open the folder with SELECT, also for reading: on some servers (Courier) EXAMINE does not store the
        UIDVALIDITY, which may then change.
        """
        folder, doing = self._server.folder, f"open folder {self._server.folder!r}"
        self.mailbox = None
        with self._exchange(doing, refused=partial(refusal, doing, look_at="BACKEND_IMAP_FOLDER")):
            self.folder = self._in_command(folder)
            check(self._imap.select(self.folder))
            said, codes = cast("dict[str, list[bytes]]", self._imap.untagged_responses), self._imap.codes
            kept = codes.get("PERMANENTFLAGS")
            self.permanent_flags = _flags(said.get("FLAGS", [b""])[-1] if kept is None else kept)
            self.deletable = kept is None or rb"\deleted" in {flag.lower() for flag in self.permanent_flags}
            uidvalidity, exists = int(codes.get("UIDVALIDITY", 0)), int(said["EXISTS"][-1])
            uidnext, read_only = number(codes.get("UIDNEXT", b"").decode("latin-1")), "READ-ONLY" in codes
        if not 0 < uidvalidity <= MAX_UID:
            detail = f"folder {folder!r} has no UIDVALIDITY, so its messages have no lasting identity"
            raise Failure(detail, look_at="BACKEND_IMAP_FOLDER")
        self.mailbox = Mailbox(uidvalidity, exists, read_only, uidnext or 0)
        return self.mailbox

    def listing(self, first: int = 1) -> Listing:
        """The size of every message in the selected folder from UID ``first`` on.

        If some rows can't be read, or the server says NO after some rows, the listing has the rows that came. Raises
        :class:`Failure` if the server refuses and no row came.
        """
        exists = self.mailbox.exists if self.mailbox else 0
        listing = Listing(first)
        if not exists:
            return listing  # Some servers answer a range with an error if the folder is empty.
        octets = ANSWER_OCTETS + _ROW_OCTETS * min(exists, _MAX_MESSAGES)
        with self._exchange("list the folder", seconds=self._server.patience.listing, octets=octets):
            self._fetch_what_can_be_told(listing, f"{first}:*", "(UID RFC822.SIZE)", all_of_it=first == 1)
        listing.undisturbed = not self._imap.untagged_responses.keys() & _CHANGES
        return listing

    def fetch(self, uid: int, item: str, sink: Callable[[bytes], None], listed: int = 0) -> None:
        """Call ``sink`` with the pieces of ``item`` of one message; with the last piece only after the whole answer was
        read and is right.

        ``item`` is ``BODY.PEEK[]``, ``BODY.PEEK[HEADER]`` or ``BODY.PEEK[]<offset.octets>``; ``listed`` the size of the
        message in the listing, 0 if it is not known. Raises :class:`MessageGone`, :class:`MessageUnavailable` or
        :class:`Disconnected`.
        """
        body = Body(uid, _section(item), sink, listed)
        with self._exchange(f"read UID {uid}", refused=body.refused):
            check(self._fetch(body, str(uid), f"(UID {item})"))
            body.finish(self._imap.completion[1])

    def attributes(self, doing: str, uid_set: str, items: str, octets: int) -> Fetched:
        """The FETCH responses for these messages, and for others if the server sent some; see :meth:`listing`."""
        fetched = Fetched()
        with self._exchange(doing, octets=octets):
            self._fetch_what_can_be_told(fetched, uid_set, items)
        return fetched

    def _fetch_what_can_be_told(self, into: Fetched, uid_set: str, items: str, *, all_of_it: bool = True) -> None:
        answer = self._fetch(into, uid_set, items)
        status, text = self._imap.completion
        if status != "OK":
            if is_busy(text) or (all_of_it and not len(into)):
                check(answer)
            into.refusal = f"{status} {text}"

    def change(self, doing: str, command: str, uid_set: str, *arguments: str, folder: bytes | None = None) -> None:
        """Send a UID command that changes messages. ``folder``, as the server writes it, is its last argument."""
        imap = self._imap
        if folder is not None and folder.isascii() and folder.decode().isprintable():
            arguments = (*arguments, _quoted(folder))
        elif folder is not None:
            imap.literal = cast("str", folder)  # The type stubs say str; imaplib wants octets.
        with self._exchange(doing):
            # Not with imaplib's uid(): newer versions of it quote the arguments themselves.
            check(imap._simple_command("UID", command, uid_set, *arguments))

    def _fetch(self, fetched: Fetched, uid_set: str, items: str) -> tuple[str, list[bytes]]:
        imap = self._imap
        imap.fetched = fetched
        try:
            return cast("tuple[str, list[bytes]]", imap._simple_command("UID", "FETCH", uid_set, items))
        finally:
            imap.fetched = Fetched()

    def fetch_batch(self, uids: Collection[int], item: str, room: int) -> dict[int, bytes]:
        """``item`` of several messages; those are left out that the server did not send whole and with their UID.

        Raises :class:`MessageUnavailable` if the server refused, :class:`Disconnected` if it sent more than ``room``
        octets or a message that was not asked for.
        """
        batch = Batch(uids, _section(item), room)
        with self._exchange(f"read {len(uids)} messages", octets=ANSWER_OCTETS + room, refused=_batch_refused):
            for uid_set in uid_sets(uids):
                check(self._fetch(batch, uid_set, f"(UID {item})"))
        return batch.messages

    async def fetch_batch_in_loop(
        self, uids: Collection[int], item: str, room: int, in_thread: InThread
    ) -> dict[int, bytes]:
        """:meth:`fetch_batch`, read in the event loop. The folder must be selected."""
        batch, imap, patience = Batch(uids, _section(item), room), self._imap, self._server.patience
        # As long as reading them one by one could last.
        seconds = patience.command + len(uids) * patience.read
        octets, doing = ANSWER_OCTETS + room, f"read {len(uids)} messages"
        with self._exchange(doing, seconds=seconds, octets=octets, refused=_batch_refused):
            imap.fetched = batch
            try:
                for uid_set in uid_sets(uids):
                    what = "UID", "FETCH", uid_set, f"(UID {item})"
                    check(await imap.command_in_loop(*what, octets=octets, in_thread=in_thread))
            finally:
                imap.fetched = Fetched()
        return batch.messages

    def folders(self, command: str, *options: str) -> list[tuple[frozenset[bytes], bytes]]:
        """Attributes (in lower case) and name (as the server writes it) of every folder. ``command``: LIST or XLIST.

        Folders whose row can't be read are left out.
        """
        with self._exchange("list the folders", octets=16 * ANSWER_OCTETS):
            check(self._imap._simple_command(command, '""', '"*"', *options))
            rows = cast("list[tuple[bytes, ...]]", self._imap.untagged_responses.get(command, []))
        return [found for row in rows if (found := mailbox_in(row)) is not None]

    def is_selected(self, folder: bytes) -> bool:
        """Whether ``folder``, as the server writes its name, is the one that is open."""
        if folder.isascii():
            return _quoted(folder) == self.folder
        # The server should have sent modified UTF-7, but sent something else: we encode it as we do our own setting.
        return self._in_command(folder.decode("utf-8", "replace")) == self.folder

    def _in_command(self, folder: str) -> str:
        return bytes(self._client._normalise_folder(folder)).decode("ascii")

    # The end

    def logout(self) -> None:
        """Log out if that goes quickly, and close. It raises nothing."""
        if self.usable:
            with suppress(Exception):
                self._wire.allow(self._server.patience.logout, ANSWER_OCTETS)
                self._imap.logout()
        self.close()

    def close(self) -> None:
        """Close without LOGOUT. It may be called again."""
        self._in_step = False
        self._wire.close()

    def abort(self) -> None:
        """End the connection from any thread. A thread that waits for the server fails at once."""
        self._wire.abort()


def _section(item: str) -> str:
    """The name under which the answer to a FETCH has ``item``: without ``.PEEK`` and without the length."""
    return re.sub(r"\.\d+>", ">", item.replace(".PEEK", ""))


def _quoted(folder: bytes) -> str:
    return '"%s"' % folder.decode("ascii").replace("\\", "\\\\").replace('"', '\\"')


def _flags(text: bytes) -> frozenset[bytes]:
    return frozenset(text.strip().removeprefix(b"(").removesuffix(b")").split())


def _batch_refused(status: str, text: str) -> Failure:
    kind = MessageUnavailable if status == "NO" else Disconnected
    return kind(f"the server refused to send several messages at once: {status} {text}")
