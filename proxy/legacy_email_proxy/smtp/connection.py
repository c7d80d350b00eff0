"""One SMTP connection from greeting to close: the subclass of aiosmtpd's ``SMTP`` that has its life cycle and loop.

What it changes of aiosmtpd's, and why (each would lose a device's mail, or let one device hurt others):

* commands and content come out of one buffer (:mod:`.incoming`);
* a half-closed connection is still answered, and a client that left does not stop a message whose content has ended;
* deadlines want progress; errors are limited; an exception becomes 451 and its text stays here;
* one connection shares no limits with another, and asks no resolver for its own name.

What the commands do is in :mod:`.session`, on top of this. Pinned to aiosmtpd 1.4.x by a test that names the attributes
used here.
"""

from __future__ import annotations

import asyncio
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

from .. import events
from ..access import Admission, Refusal
from ..handshakes import HandshakeFailed, HungUp, words
from ..replies import SMTP, Reply, printable, smtp_reply
from .authentication import LOGIN_DELAY_SECONDS, Verifier
from .handshake import handshake
from .incoming import DeviceStalled, Incoming, LineTooLong

__all__ = ("MAX_CHATTER", "MAX_ERRORS", "Finished", "SMTPConnection", "SessionOptions")

_log = logging.getLogger("legacy_email_proxy.smtp")

MAX_ERRORS = 20
"""Errors of the client before it is disconnected. What the backend refuses is none."""

MAX_CHATTER = 200
"""Commands other than RCPT before the client is disconnected, counted from the last message that it sent."""

_HTTP = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI) ", re.IGNORECASE)
_TLS_HANDSHAKE = 0x16
_HELLO = (b"HELO ", b"EHLO ")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_labels = itertools.count(1)
_PARTING_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What all sessions share. Without ``tls`` there is no STARTTLS, without a ``verifier`` no AUTH."""

    hostname: str
    max_octets: int
    idle_seconds: float
    admission: Admission
    tls: ssl.SSLContext | None = None
    verifier: Verifier | None = None
    login_delay_seconds: float = LOGIN_DELAY_SECONDS


class LabelledSession(AiosmtpdSession):
    """aiosmtpd's session with what the log needs: a label, the octets of each message relayed, TLS version and user."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.label = f"s{next(_labels)}"
        self.relayed: list[int] = []
        self.tls = self.user = ""


class Finished(Exception):
    """Raised by a command that ends the session; the argument is the verdict for the log."""


class SMTPConnection(AiosmtpdSMTP):
    """One connection, from greeting to close."""

    # The StreamReader holds at most twice this before the transport stops reading: it bounds what a session costs.
    line_length_limit = 1 << 16

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
        super().__init__(
            handler,
            data_size_limit=options.max_octets,
            hostname=options.hostname,
            ident="Legacy Email Proxy",
            loop=asyncio.get_running_loop(),
        )
        self._options = options
        self._on_begin = on_begin
        self._on_end = on_end
        self._incoming: Incoming
        self._errors = self._chatter = 0
        self._secured = secured
        self._handshaking = self._draining = self._aborted = False
        self._lost: Exception | None = None
        # While this is set the device has handed over its message: the outcome is no longer its to abort.
        self._committed = False

    # ------------------------------------------------------------------------------------------- aiosmtpd's life cycle

    def _create_session(self) -> LabelledSession:
        return LabelledSession(self.loop)

    def _reset_timeout(self, duration: float | None = None) -> None:
        """aiosmtpd's timer cuts a long DATA and a slow backend; the deadlines are in :mod:`.incoming` instead."""

    def eof_received(self) -> bool | None:
        """A half-close means "no more commands", not "forget the ones I sent": ``nc < file`` must be answered."""
        return asyncio.StreamReaderProtocol.eof_received(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._secured:
            # Until the handshake takes over: what comes first is the client's part of it.
            self._reader._transport.pause_reading()  # type: ignore[attr-defined]
        self._incoming = Incoming(self._reader, self._options.idle_seconds)
        assert self._handler_coroutine is not None  # noqa: S101 (for the type checker: super made it)
        self._handler_coroutine.add_done_callback(lambda _: self._on_end(self))
        self._on_begin(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Stop the transaction of a client that left, unless its content has ended: then it is delivered, once."""
        asyncio.StreamReaderProtocol.connection_lost(self, error)
        self.transport = None
        self._lost = error
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
            level = logging.DEBUG if silent else logging.INFO
            events.event(
                _log, level, "smtp session ended", session=self.session.label, client=peer,
                helo=self.session.host_name or "", messages=len(self.session.relayed),
                octets=sum(self.session.relayed), **self._who(), verdict=verdict,
            )  # fmt: skip
        finally:
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
            return str(finished)
        except DeviceStalled as stalled:
            self.reply(SMTP.TIMEOUT)
            return str(stalled)
        except HandshakeFailed as failed:
            return f"{'dropped' if isinstance(failed, HungUp) else 'no TLS'}: {failed}"
        except ConnectionError as error:
            return f"dropped: {error}"
        except asyncio.CancelledError:
            if self.transport is not None and not self._aborted:
                # Nobody here did that: a plugin's own tasks failed beneath it.
                self.reply(smtp_reply(asyncio.CancelledError()))
                return "failed: cancelled by the relay plugin"
            if isinstance(self._lost, ssl.SSLError):
                # With TLS 1.3 a client tells only after the handshake that it doesn't like our certificate.
                return f"no TLS: {words(self._lost)}"
            return "drained" if self._handshaking else "dropped"
        except Exception as error:
            events.failure(_log, "smtp session failed", error, session=self.session.label, client=peer)
            self.reply(smtp_reply(error))
            return "failed"
        finally:
            # From here on a client that leaves cancels nothing: the relay's transaction has to be left in this task.
            self._committed = True
            await self._call_handler_hook("CLOSE")

    async def _part(self) -> None:
        """Close, politely for a moment: with input unread the kernel would reset the connection, last reply and all."""
        transport = self._writer.transport
        try:
            async with asyncio.timeout(_PARTING_SECONDS):
                await self._writer.drain()
                if not transport.is_closing() and transport.can_write_eof():
                    transport.write_eof()
                    await self._incoming.ignore_rest()
                if not transport.is_closing():
                    transport.close()
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
        self._aborted = True
        if self._handler_coroutine is not None:
            self._handler_coroutine.cancel()
        self._writer.transport.abort()

    async def start_tls(self) -> None:
        """Speak TLS from here on, in a session that begins afresh. Raises :class:`HandshakeFailed`."""
        assert self._options.tls is not None  # noqa: S101 (for the type checker: else there is neither way to get here)
        # What was pipelined in the clear may have been put there by somebody on the way (RFC 3207 §6).
        self._reader._buffer.clear()  # type: ignore[attr-defined]
        self._incoming = Incoming(self._reader, self._options.idle_seconds)
        self.envelope = self._create_envelope()
        self.session.host_name = None
        self.session.user = ""
        self._handshaking = True
        transport = await handshake(self._writer.transport, self, self._options.tls)
        self._handshaking = False
        self.transport = self._writer._transport = self._reader._transport = transport  # type: ignore[attr-defined]
        self._over_ssl = True
        self.session.tls = transport.get_extra_info("ssl_object").version()

    @property
    def _in_transaction(self) -> bool:
        return self.envelope.mail_from is not None

    # ------------------------------------------------------------------------------------------------ the conversation

    async def _converse(self) -> str:
        self.reply(f"220 {self.hostname} ESMTP {self.__ident__}")
        try:
            if self._draining:
                raise TimeoutError
            if await self._incoming.first_octet() == _TLS_HANDSHAKE:
                self._wrong_protocol("TLS")
            while (line := await self._next_command()) is not None:
                await self._obey(line)
                # Pipelined commands come out of the buffer without waiting: others need their turn too.
                await asyncio.sleep(0)
        except TimeoutError:
            return self._out_of_time()
        return "dropped"

    def _out_of_time(self) -> str:
        self.reply(SMTP.SHUTTING_DOWN if self._draining else SMTP.TIMEOUT)
        return "drained" if self._draining else "idle"

    async def _next_command(self) -> bytes | None:
        if self._draining and not self._in_transaction:
            raise TimeoutError
        async with asyncio.timeout(self._options.idle_seconds):
            await self._writer.drain()
        while True:
            try:
                return await self._incoming.line()
            except LineTooLong as too_long:
                self._look_for_http(too_long.beginning)
                self.error(SMTP.LINE_TOO_LONG)

    async def _obey(self, line: bytes) -> None:
        self._look_for_http(line)
        if _CONTROL.search(line):
            return self.error(SMTP.SYNTAX)
        try:
            # The name of a machine may be spelt as it likes: it is only shown, and what can't be shown is left out.
            spelling = "ignore" if line[:5].upper() in _HELLO else "strict"
            text = line.decode("ascii" if not self.enable_SMTPUTF8 else "utf-8", spelling)
        except UnicodeDecodeError:
            return self.error(SMTP.NOT_ASCII)
        verb, _, argument = text.partition(" ")
        method = self._smtp_methods.get(verb.upper())
        if method is None:
            return self.error(SMTP.UNKNOWN_COMMAND)
        # A session that only says NOOP would live for ever, and each MAIL before a RSET costs the backend something.
        self._chatter += verb.upper() != "RCPT"
        if self._chatter > MAX_CHATTER:
            self.reply(SMTP.TOO_MUCH_CHATTER)
            raise Finished("too many commands without a message")
        try:
            await method(argument.strip())
        except (Finished, ConnectionError, HandshakeFailed):
            raise
        except Exception as error:
            self.reply(await self.handle_exception(error))
        return None

    def reply(self, reply: Reply | str) -> None:
        """Queue a reply; it goes out at once unless the client does not read."""
        if self.transport is not None and not self.transport.is_closing():
            self._writer.write(f"{reply}\r\n".encode("ascii", "replace"))

    def error(self, reply: Reply) -> None:
        """Queue a reply to a mistake of the client. Raises :class:`Finished` at one too many."""
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            self.reply(SMTP.TOO_MANY_ERRORS)
            raise Finished("too many errors")
        self.reply(reply)

    async def push(self, status: Any) -> None:
        """aiosmtpd's own way to reply."""
        self.reply(status.decode("ascii", "replace") if isinstance(status, bytes) else status)

    def _look_for_http(self, line: bytes) -> None:
        if self.session.host_name is None and _HTTP.match(line):
            self._wrong_protocol("HTTP")

    def _wrong_protocol(self, protocol: str) -> None:
        # Closed before its next line is looked at: the body of an HTTP request could hold SMTP commands.
        self.reply(SMTP.WRONG_PROTOCOL)
        raise Finished(f"spoke {protocol} to the plain SMTP port")
