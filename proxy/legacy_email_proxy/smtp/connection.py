"""One SMTP connection from greeting to close: the subclass of aiosmtpd's ``SMTP`` that has its life cycle and loop.

What it changes of aiosmtpd's, and why (each would lose a device's mail, or let one device hurt others):

* commands and content come out of one buffer (:mod:`.buffer`), and replies that need not go out at once wait for the
  ones that follow;
* a half-closed connection is still answered, and a client that left does not stop a message whose content has ended;
* deadlines want progress; errors are limited; an exception becomes 451 and its text stays here;
* one connection shares no limits with another, and asks no resolver for its own name.

What the commands do is in :mod:`.session`, on top of this. Pinned to aiosmtpd 1.4.x by a test that names the attributes
used here.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiosmtpd.smtp import SMTP as AiosmtpdSMTP
from aiosmtpd.smtp import Envelope
from aiosmtpd.smtp import Session as AiosmtpdSession

from .. import log
from ..access import Admission, Network, Refusal
from ..replies import SMTP, Reply, printable, smtp_reply
from ..tls import HandshakeFailed, HungUp
from .authentication import LOGIN_DELAY_SECONDS, Verifier
from .buffer import Incoming, LineTooLong
from .reading import Finished, Interruption, Patience
from .tls_handshake import handshake

__all__ = ("MAX_CHATTER", "MAX_ERRORS", "SMTPConnection", "SessionOptions", "parted")

_log = logging.getLogger("legacy_email_proxy.smtp")

MAX_ERRORS = 20
"""Errors of the client before it is disconnected. What the backend refuses is none."""

MAX_CHATTER = 200
"""Commands other than RCPT and BDAT before the client is disconnected, counted from the last message that it sent."""

_HTTP = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI) ", re.IGNORECASE)
_TLS_HANDSHAKE = 0x16
_HELLO = (b"HELO", b"EHLO")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_labels = itertools.count(1)
_PARTING_SECONDS = 1.0
_IN_ORDER = ("quit", "drained", "idle", "dropped")
_COMMANDS_IN_A_ROW = 16
_REPLIES_IN_A_ROW = 256


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What all sessions share: limits, deadlines, and what devices are offered. Without ``tls``, which is asked for
    each handshake's context, there is no STARTTLS, without a ``verifier`` no AUTH.
    """

    hostname: str
    max_octets: int
    patience: Patience
    admission: Admission
    lf_end_networks: tuple[Network, ...] = ()
    tls: Callable[[], ssl.SSLContext] | None = None
    verifier: Verifier | None = None
    login_delay_seconds: float = LOGIN_DELAY_SECONDS


class LabelledSession(AiosmtpdSession):
    """aiosmtpd's session with what the log needs: a label, the octets of each message relayed, TLS version and user."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.label = f"s{next(_labels)}"
        self.relayed: list[int] = []
        self.tls = self.user = ""


def parted(line: str) -> tuple[str, str]:
    """The verb, in upper case, and its argument. Between them stands a blank, with some clients a tab."""
    verb, _, argument = line.partition(" ")
    if "\t" in verb:
        verb, _, argument = line.partition("\t")
    return verb.upper(), argument.strip()


@functools.cache
def _names(kind: type, prefix: str) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith(prefix))


class SMTPConnection(AiosmtpdSMTP):
    """One connection, from greeting to close."""

    session: LabelledSession
    envelope: Envelope

    def __init__(
        self,
        handler: Any,
        options: SessionOptions,
        on_begin: Callable[[SMTPConnection], None] = lambda _: None,
        on_end: Callable[[SMTPConnection], None] = lambda _: None,
        *,
        secured: bool = False,
    ) -> None:
        # Not aiosmtpd's constructor: it looks through all members of this object and of the handler, which takes
        # longer than all the commands of a message. The same test holds these attributes against its.
        self.loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=self.loop)
        asyncio.StreamReaderProtocol.__init__(self, reader, self._cb_client_connected, self.loop)
        self.event_handler = handler
        self.data_size_limit = options.max_octets
        self.hostname = options.hostname
        self.__ident__ = "Legacy Email Proxy"
        self._handle_hooks = {name[7:]: getattr(handler, name) for name in _names(type(handler), "handle_")}  # type: ignore[arg-type]
        self._smtp_methods = {name[5:]: getattr(self, name) for name in _names(type(self), "smtp_")}  # type: ignore[arg-type]
        self.transport = self._handler_coroutine = self._original_transport = None
        self._options = options
        self._on_begin = on_begin
        self._on_end = on_end
        self._incoming: Incoming
        self._replies: list[bytes] = []
        self._errors = self._chatter = 0
        self._in_a_row = 0
        self._secured = secured
        self._handshaking = self._draining = False
        self._aborted = ""
        # While this is set the device has handed over its message: the outcome is no longer its to abort.
        self._committed = False

    # ------------------------------------------------------------------------------------------- aiosmtpd's life cycle

    def _create_session(self) -> LabelledSession:
        return LabelledSession(self.loop)

    def _reset_timeout(self, duration: float | None = None) -> None:
        """aiosmtpd's timer cuts a long DATA and a slow backend; the deadlines are in :mod:`.buffer` instead."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._secured:
            # Until the handshake takes over: what comes first is the client's part of it.
            self._writer.transport.pause_reading()  # type: ignore[attr-defined]
        self._incoming = Incoming(self._writer.transport, self.flush)  # type: ignore[arg-type]
        assert self._handler_coroutine is not None  # noqa: S101 (for the type checker: super made it)
        self._handler_coroutine.add_done_callback(lambda _: self._on_end(self))
        self._on_begin(self)

    def data_received(self, octets: bytes) -> None:
        """What comes goes into our own buffer: through a StreamReader's each octet would be copied three times."""
        self._incoming.feed(octets)

    def eof_received(self) -> bool | None:
        """A half-close means "no more commands", not "forget the ones I sent": ``nc < file`` must be answered."""
        self._incoming.end()
        return asyncio.StreamReaderProtocol.eof_received(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Stop the transaction of a client that left, unless its content has ended: then it is delivered, once."""
        asyncio.StreamReaderProtocol.connection_lost(self, error)
        self.transport = None
        self._incoming.end()
        if self._handler_coroutine is not None and not self._committed:
            self._handler_coroutine.cancel()

    async def _handle_client(self) -> None:
        peer = self.session.peer[0] if self.session.peer else ""
        refusal = self._options.admission.admit(peer)
        try:
            verdict = await self._live(peer, refusal)
            await self._part()
            # Somebody who only looks whether we are there, as a health check does all day, is no news.
            silent = verdict.startswith("dropped") and self.session.host_name is None and not self._errors
            # A device that speaks the wrong protocol or loops is what an operator looks for with LOG_LEVEL=warning.
            level = logging.DEBUG if silent else logging.INFO if verdict.startswith(_IN_ORDER) else logging.WARNING
            log.event(
                _log, level, "smtp session ended", session=self.session.label, client=peer,
                helo=self.session.host_name or "", messages=len(self.session.relayed),
                octets=sum(self.session.relayed), **self._who(), verdict=verdict,
            )  # fmt: skip
        except BaseException:
            # A plugin that cancels us on the way out: nobody else would close the socket.
            self._writer.transport.abort()
            raise
        finally:
            self._incoming.stop_timer()
            if refusal is None:
                self._options.admission.release(peer)

    def _who(self) -> dict[str, str]:
        known = {"tls": self.session.tls, "user": printable(self.session.user)}
        return {name: value for name, value in known.items() if value}

    async def _live(self, peer: str, refusal: Refusal | None) -> str:
        """The session from greeting to its last reply; returns the verdict for the log."""
        try:
            if refusal is not None:
                self._writer.transport.resume_reading()  # type: ignore[attr-defined]
                self.reply(SMTP.NOT_ALLOWED if refusal is Refusal.NOT_ALLOWED else SMTP.TOO_MANY_CONNECTIONS)
                return f"refused: {refusal.value}"
            if self._secured:
                await self.start_tls()
            return await self._converse()
        except Finished as finished:
            if finished.reply is not None:
                self.reply(finished.reply)
            return finished.verdict
        except asyncio.CancelledError:
            if self.transport is not None and not self._aborted:
                # Nobody here did that: a plugin's own tasks failed beneath it.
                self.reply(smtp_reply(asyncio.CancelledError()))
                return "failed: cancelled by the relay plugin"
            return self._aborted or "dropped"
        except Exception as error:
            log.failure(_log, "smtp session failed", error, session=self.session.label, client=peer)
            self.reply(smtp_reply(error))
            return "failed"
        finally:
            # From here on a client that leaves cancels nothing: the relay's transaction has to be left in this task.
            self._committed = True
            await self._call_handler_hook("CLOSE")

    async def _part(self) -> None:
        """Close, politely for a moment: with input unread the kernel would reset the connection, last reply and all."""
        self.flush()
        transport = self._writer.transport
        deadline = self.loop.time() + _PARTING_SECONDS
        try:
            async with asyncio.timeout_at(deadline):
                await self._writer.drain()
            if not transport.is_closing() and transport.can_write_eof():
                transport.write_eof()
                await self._incoming.ignore_rest(deadline)
            if not transport.is_closing():
                transport.close()
                async with asyncio.timeout_at(deadline):
                    # TLS says farewell, and waits for the client's.
                    await self._writer.wait_closed()
        except (TimeoutError, OSError):
            # A client that doesn't read would pin the socket for ever: close() waits for the buffer to empty.
            transport.abort()

    def drain(self) -> None:
        """No new transaction from now on; an idle session ends with 421 at once."""
        self._draining = True
        if self._handshaking:
            self.abort()
        elif not self._in_transaction:
            self._incoming.interrupt()

    def abort(self) -> None:
        """End the session now."""
        if self._handshaking or not self._in_transaction:
            self._aborted = "drained"
        else:
            self._aborted = "stopped in the middle of a message (see DRAIN_SECONDS)"
        if self._handler_coroutine is not None:
            self._handler_coroutine.cancel()
        self._writer.transport.abort()

    async def start_tls(self) -> None:
        """Speak TLS from here on. Raises :class:`Finished` when that fails."""
        assert self._options.tls is not None  # noqa: S101 (for the type checker: else there is neither way to get here)
        # No wait from here to the handshake: what arrived by now was sent before the client could read our reply,
        # perhaps by somebody on the way (RFC 3207 §6); what arrives from now on is TLS.
        self.flush()
        self._incoming.leave()
        # Already now: a client's farewell may come together with the end of its handshake.
        self._handshaking = self._over_ssl = True
        try:
            transport = await handshake(self._writer.transport, self, self._options.tls())
        except HandshakeFailed as failed:
            raise Finished(f"{'dropped' if isinstance(failed, HungUp) else 'no TLS'}: {failed}") from None
        self._handshaking = False
        self.transport = self._writer._transport = transport  # type: ignore[attr-defined]
        self._incoming.settle(transport)  # type: ignore[arg-type]
        # What aiosmtpd's handlers look at, and what our log shows.
        self.session.ssl = {"ssl_object": transport.get_extra_info("ssl_object")}
        self.session.tls = self.session.ssl["ssl_object"].version()

    @property
    def _in_transaction(self) -> bool:
        return self.envelope.mail_from is not None

    # ------------------------------------------------------------------------------------------------ the conversation

    async def _converse(self) -> str:
        self.reply(f"220 {self.hostname} ESMTP {self.__ident__}")
        try:
            if self._draining:
                raise TimeoutError
            # Some speak before they are greeted: with the last of the handshake what they said is here already.
            if len(self._incoming) or await self._incoming.more(self.loop.time() + self._options.patience.idle_seconds):
                self._look_for_tls()
            while (line := await self._next_command()) is not None:
                await self._obey(line)
        except TimeoutError:
            raise self._out_of_time() from None
        return "dropped"

    def _out_of_time(self) -> Finished:
        return Finished("drained", SMTP.SHUTTING_DOWN) if self._draining else Finished("idle", SMTP.TIMEOUT)

    async def _next_command(self) -> bytes | None:
        """The next line that can be one. Raises :class:`TimeoutError` when it is not there in time."""
        if self._draining and not self._in_transaction:
            raise TimeoutError
        await self._keep_pace()
        patience = self._options.patience
        while True:
            held = self._in_transaction and patience.progress_seconds < patience.idle_seconds
            try:
                return await self._incoming.line(patience.progress_seconds if held else patience.idle_seconds)
            except LineTooLong as too_long:
                self._look_for_http(too_long.beginning)
                self.error(SMTP.LINE_TOO_LONG)
            except TimeoutError:
                if not held or not await self._let_go():
                    raise
                patience = Patience(patience.idle_seconds, patience.idle_seconds)

    async def _let_go(self) -> bool:
        """Free what the device holds at the backend without using it; false if there is nothing."""
        return False

    async def _keep_pace(self) -> None:
        """Let a client read before more is written, and others have their turn while one pipelines."""
        if len(self._replies) >= _REPLIES_IN_A_ROW:
            self.flush()
        if self._writer.transport.get_write_buffer_size():
            async with asyncio.timeout(self._options.patience.idle_seconds):
                await self._writer.drain()
        self._in_a_row += 1
        if self._in_a_row >= _COMMANDS_IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)

    async def _obey(self, line: bytes) -> None:
        self._look_for_http(line)
        try:
            # The name of a machine may be spelt as it likes: it is only shown, and what can't be shown is left out.
            text = line.decode("ascii", "ignore") if line[:4].upper() in _HELLO else line.decode()
        except UnicodeDecodeError:
            return self.error(SMTP.NOT_ASCII)
        if not text.isprintable() and _CONTROL.search(text):
            return self.error(SMTP.SYNTAX)
        verb, argument = parted(text)
        method = self._smtp_methods.get(verb)
        if method is None:
            return self._not_a_command()
        if not text.isascii() and verb not in ("MAIL", "RCPT"):
            return self.error(SMTP.NOT_ASCII)
        # A session that only says NOOP would live for ever, and each MAIL before a RSET costs the backend something.
        self._chatter += verb not in ("RCPT", "BDAT")
        if self._chatter > MAX_CHATTER:
            raise Finished("too many commands without a message", SMTP.TOO_MUCH_CHATTER)
        try:
            await method(argument)
        except Interruption:
            raise
        except Exception as error:
            self.reply(await self.handle_exception(error))
        return None

    def _not_a_command(self) -> None:
        self.error(SMTP.UNKNOWN_COMMAND)

    def reply(self, reply: Reply | str) -> None:
        """Queue a reply; it goes out when the device has to speak next."""
        self._replies.append(f"{reply}\r\n".encode("ascii", "replace"))

    def flush(self) -> None:
        """Send the queued replies, all in one."""
        if self._replies:
            octets = b"".join(self._replies)
            self._replies.clear()
            if self.transport is not None and not self.transport.is_closing():
                self._writer.write(octets)

    def error(self, reply: Reply) -> None:
        """Queue a reply to a mistake of the client. Raises :class:`Finished` at one too many."""
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            raise Finished("too many errors", SMTP.TOO_MANY_ERRORS)
        self.reply(reply)

    def mistake(self, command: str, reply: Reply) -> None:
        """The same where the command named an address, which the operator has to find in the device's settings."""
        peer = self.session.peer[0] if self.session.peer else ""
        log.event(
            _log, logging.WARNING, "smtp command refused", session=self.session.label, client=peer,
            command=printable(command), reply=str(reply),
        )  # fmt: skip
        self.error(reply)

    async def push(self, status: Any) -> None:
        """aiosmtpd's own way to reply."""
        self.reply(status.decode("ascii", "replace") if isinstance(status, bytes) else status)

    def _look_for_tls(self) -> None:
        if self._incoming.first_octet == _TLS_HANDSHAKE:
            self._wrong_protocol("TLS")

    def _look_for_http(self, line: bytes) -> None:
        if self.session.host_name is None and _HTTP.match(line):
            self._wrong_protocol("HTTP")

    def _wrong_protocol(self, protocol: str) -> None:
        # Closed before its next line is looked at: the body of an HTTP request could hold SMTP commands.
        raise Finished(f"spoke {protocol} to the plain SMTP port", SMTP.WRONG_PROTOCOL)
