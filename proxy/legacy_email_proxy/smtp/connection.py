"""One SMTP connection from greeting to close: replies, errors, deadlines, TLS, and how it ends.

Replies that need not go out at once wait for the ones that follow, so that a pipelining client gets them in one piece.
A client is disconnected after too many errors. An unexpected exception becomes a 451, and its text is only logged. A
session that is drained ends with 421 as soon as no transaction is open. The commands in between are carried out by the
session, which owns its connection (:mod:`.session`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from .. import advice, log
from ..access import Admission, Network
from ..contracts import bound
from ..replies import SMTP, Reply, printable, smtp_reply
from ..tls import HandshakeFailed, HungUp
from .aiosmtpd_adapter import LabelledSession, SMTPProtocol
from .arguments import shown
from .authentication import LOGIN_DELAY_SECONDS, Verifier
from .buffer import Incoming, LineTooLong
from .reading import Finished, Patience
from .tls_handshake import handshake

__all__ = ("MAX_ERRORS", "SESSION_SECONDS", "Connection", "SessionOptions")

_log = logging.getLogger("legacy_email_proxy.smtp")

MAX_ERRORS = 20
"""Errors of the client before it is disconnected. What the backend refuses does not count."""

SESSION_SECONDS = 3600.0
"""A session in which no message has ended for this long is closed like an idle one. Otherwise a client could hold its
connection for ever with a RCPT now and then."""

_HTTP = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI) ", re.IGNORECASE)
_TLS_HANDSHAKE = 0x16
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
    looks: log.Looks = field(default_factory=lambda: log.Looks(_log, "smtp"))


class Connection:
    """One connection. ``converse`` is the whole conversation, from the greeting on: it returns, or raises
    :class:`Finished`, with the verdict for the log. ``secured``: TLS from the first octet on.
    """

    def __init__(
        self,
        handler: Any,
        options: SessionOptions,
        converse: Callable[[], Awaitable[str]],
        on_begin: Callable[[Connection], None],
        on_end: Callable[[Connection], None],
        *,
        secured: bool,
    ) -> None:
        self.options = options
        self.protocol = SMTPProtocol(
            handler,
            options.hostname,
            options.max_octets,
            on_connected=self._connected,
            serve=self._serve,
            before_waiting=self._turn_over,
            on_end=lambda: on_end(self),
        )
        self._converse = converse
        self._on_begin = on_begin
        self._secured = secured
        self._replies: list[bytes] = []
        self._errors = 0
        self._in_a_row = 0
        self._seconds = max(SESSION_SECONDS, options.patience.idle_seconds)
        self._end = self.protocol.loop.time() + self._seconds
        self._handshaking = self._draining = False
        self._aborted = ""
        self._last_refusal: Reply | None = None
        self.command = ("", "")
        """The verb and the argument that are being carried out, for the log."""

    @property
    def incoming(self) -> Incoming:
        """What the device has sent."""
        return self.protocol.incoming

    @property
    def session(self) -> LabelledSession:
        """Who is at the other end, for the handler and the log."""
        return self.protocol.session

    @property
    def peer(self) -> str:
        """The address at the other end; empty if the client left before anybody could ask."""
        return str(self.session.peer[0]) if self.session.peer else ""

    @property
    def in_transaction(self) -> bool:
        """Whether there was a MAIL whose message has not ended."""
        return self.protocol.envelope.mail_from is not None

    @property
    def over(self) -> bool:
        """Whether nobody reads replies any more."""
        return self.protocol.transport is None

    # ----------------------------------------------------------------------------------------------------- life cycle

    def _connected(self) -> None:
        if self._secured:
            # The first octets belong to the TLS handshake, which reads them itself.
            self._transport.pause_reading()
        self._on_begin(self)

    @property
    def _transport(self) -> Any:
        return self.protocol.writer.transport

    async def _serve(self) -> None:
        with bound(session=self.session.label, client=self.peer):
            try:
                verdict = await self._live()
                await self._part()
                self._log_end(verdict)
            except BaseException:
                # For example, a plugin cancelled this task while the session ended: nobody else would close the socket.
                self._transport.abort()
                raise
            finally:
                self.incoming.stop_timer()

    def _log_end(self, verdict: str) -> None:
        # A client that only connects and leaves, as a health check does all day, is not worth a line.
        silent = verdict.startswith("dropped") and self.session.host_name is None and not self._errors
        # A device that speaks the wrong protocol or loops is what an operator looks for with LOG_LEVEL=warning.
        if silent:
            self.options.looks.count(self.peer)
        level = logging.DEBUG if silent else logging.INFO if verdict.startswith(_IN_ORDER) else logging.WARNING
        known = {"tls": self.session.tls, "user": printable(self.session.user)}
        log.event(
            _log, level, "smtp session ended", helo=self.session.host_name or "", messages=len(self.session.relayed),
            octets=sum(self.session.relayed), **{name: value for name, value in known.items() if value},
            verdict=verdict, **self._parting_facts(verdict),
        )  # fmt: skip

    def _parting_facts(self, verdict: str) -> dict[str, object]:
        """The reply that ended the session, where that was a refusal, and what to change."""
        if self._last_refusal is None or verdict.startswith(_IN_ORDER):
            return {}
        spoke = re.match(r"spoke (TLS|HTTP)", verdict)
        change = advice.for_wrong_protocol(spoke[1]) if spoke else advice.for_reply(self._last_refusal)
        return {"reply": str(self._last_refusal), **({"advice": change} if change else {})}

    async def _live(self) -> str:
        """The session from greeting to its last reply; returns the verdict for the log."""
        try:
            if self._secured:
                # The event loop may have read already, in spite of _connected().
                await self.start_tls(self.incoming.take())
            return await self._converse()
        except Finished as finished:
            if finished.reply is not None:
                self.reply(finished.reply)
                if isinstance(finished.reply, Reply) and finished.reply.code >= 400:
                    self._last_refusal = finished.reply
            return finished.verdict
        except asyncio.CancelledError:
            if not self.over and not self._aborted:
                # Not cancelled by the proxy: a task group of the relay plugin failed, and cancelled this task.
                self.reply(smtp_reply(asyncio.CancelledError()))
                return "failed: cancelled by the relay plugin"
            return self._aborted or "dropped"
        except Exception as error:
            log.failure(_log, "smtp session failed", error)
            self.reply(smtp_reply(error))
            return "failed"
        finally:
            # From here on a client that leaves must not cancel this task: it still has to leave the transaction.
            self.protocol.committed = True
            await self.protocol.hook("CLOSE")

    async def _part(self) -> None:
        """Close, and read for a moment what the client still sends.

        With unread input the kernel would reset the connection, and the client might never read our last reply.
        """
        self.flush()
        transport = self._transport
        deadline = self.protocol.loop.time() + _PARTING_SECONDS
        try:
            async with asyncio.timeout_at(deadline):
                await self.protocol.writer.drain()
            if not transport.is_closing() and transport.can_write_eof():
                transport.write_eof()
                await self.incoming.ignore_rest(deadline)
            if not transport.is_closing():
                transport.close()
                async with asyncio.timeout_at(deadline):
                    # TLS sends its close_notify, and waits for the client's.
                    await self.protocol.writer.wait_closed()
        except (TimeoutError, OSError):
            # A client that reads nothing would hold the socket for ever: close() waits until all is sent.
            transport.abort()

    def drain(self) -> None:
        """No new transaction from now on; an idle session ends with 421 at once."""
        self._draining = True
        if self._handshaking:
            self.abort()
        elif not self.in_transaction:
            self.incoming.interrupt()

    def abort(self) -> None:
        """End the session now."""
        if self._handshaking or not self.in_transaction:
            self._aborted = "drained"
        else:
            self._aborted = "stopped in the middle of a message (see DRAIN_SECONDS)"
        self.protocol.cancel()
        self._transport.abort()

    async def start_tls(self, early: bytes = b"") -> None:
        """Speak TLS from here on; ``early`` has come and belongs to it. Raises :class:`Finished` when that fails."""
        assert self.options.tls is not None  # noqa: S101 (for the type checker: without it nobody calls this)
        # No wait from here to the handshake: what arrived by now was sent before the client could read our reply,
        # perhaps by somebody on the way (RFC 3207 §6); what arrives from now on is TLS.
        self.flush()
        self._handshaking = True
        self.protocol.expect_tls()
        try:
            if self.incoming.ended:
                raise HungUp("the client hung up")
            transport = await handshake(self._transport, self.protocol, self.options.tls(), early)
        except HandshakeFailed as failed:
            raise Finished(f"{'dropped' if isinstance(failed, HungUp) else 'no TLS'}: {failed}") from None
        self._handshaking = False
        self.protocol.secured(transport)

    # ---------------------------------------------------------------------------------------------- lines and deadlines

    async def greet(self) -> None:
        """Greet, and look whether the client speaks TLS. Raises :class:`Finished`; :class:`TimeoutError` when it says
        nothing.
        """
        self.reply(f"220 {self.protocol.hostname} ESMTP {self.protocol.__ident__}")
        self.check_drain()
        # Some clients speak first: then their octets have arrived already, together with the end of the handshake.
        deadline = self.protocol.loop.time() + self.options.patience.idle_seconds
        if (len(self.incoming) or await self.incoming.more(deadline)) and self.incoming.first_octet == _TLS_HANDSHAKE:
            self._wrong_protocol("TLS")

    async def line(self, seconds: float) -> bytes | None:
        """The next command line; ``None`` when the device has left. One that is too long is answered here.

        Raises :class:`TimeoutError` when it is not whole within ``seconds``.
        """
        time, protocol = self.protocol.loop.time, self.protocol
        while True:
            try:
                line = await protocol.incoming.line(min(time() + seconds, self._end))
            except TimeoutError:
                if time() >= self._end:
                    raise Finished(f"idle: no message ended within {self._seconds:g} s", SMTP.TIMEOUT) from None
                raise
            except LineTooLong as too_long:
                if protocol.session.host_name is None:
                    self._look_for_http(too_long.beginning)
                self.command = "", ""
                self.error(SMTP.LINE_TOO_LONG)
            else:
                if protocol.session.host_name is None and line is not None:
                    self._look_for_http(line)
                return line

    def _look_for_http(self, line: bytes) -> None:
        if _HTTP.match(line):
            self._wrong_protocol("HTTP")

    def _wrong_protocol(self, protocol: str) -> None:
        # Closed before its next line is looked at: the body of an HTTP request could hold SMTP commands.
        raise Finished(f"spoke {protocol} to the plain SMTP port", SMTP.WRONG_PROTOCOL)

    def message_ended(self) -> None:
        """A message has ended: :data:`SESSION_SECONDS` begin anew."""
        self._end = self.protocol.loop.time() + self._seconds

    def check_drain(self) -> None:
        """Raises :class:`TimeoutError` when a transaction may no longer begin."""
        if self._draining and not self.in_transaction:
            raise TimeoutError

    def out_of_time(self) -> Finished:
        """The end of a session that is drained, or whose client said nothing for too long."""
        return Finished("drained", SMTP.SHUTTING_DOWN) if self._draining else Finished("idle", SMTP.TIMEOUT)

    def count(self, commands: int) -> bool:
        """Count commands that are obeyed one after the other. True when :meth:`keep_pace` has to come next: the client
        does not read its replies, or it pipelines and other sessions wait for their turn.
        """
        self._in_a_row += commands
        transport = self.protocol.transport
        return (
            self._in_a_row >= _COMMANDS_IN_A_ROW
            or len(self._replies) >= _REPLIES_IN_A_ROW
            or (transport is not None and transport.get_write_buffer_size() > 0)
        )

    async def keep_pace(self) -> None:
        """Wait until the client reads its replies, and give other sessions their turn."""
        if len(self._replies) >= _REPLIES_IN_A_ROW:
            self.flush()
        if self._transport.get_write_buffer_size():
            async with asyncio.timeout(self.options.patience.idle_seconds):
                await self.protocol.writer.drain()
        if self._in_a_row >= _COMMANDS_IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)

    # --------------------------------------------------------------------------------------------------------- replies

    def reply(self, reply: Reply | str) -> None:
        """Queue a reply; it goes out when the device has to speak next."""
        if _log.isEnabledFor(logging.DEBUG):
            for line in str(reply).splitlines():
                log.dialogue(_log, "S", line)
        self._replies.append(f"{reply}\r\n".encode("ascii", "replace"))

    def _turn_over(self) -> None:
        """The device has to speak next: it gets its replies, and other sessions run meanwhile."""
        self._in_a_row = 0
        if self._replies:
            self.flush()

    def flush(self) -> None:
        """Send the queued replies, all in one."""
        octets = b"".join(self._replies)
        self._replies.clear()
        transport = self.protocol.transport
        if octets and transport is not None and not transport.is_closing():
            transport.write(octets)

    def begin(self, verb: str, argument: str) -> None:
        """Note the command that is carried out now, and log it for those who watch the dialogue."""
        self.command = verb, argument
        if _log.isEnabledFor(logging.DEBUG):
            log.dialogue(_log, "C", shown(verb, argument))

    def error(self, reply: Reply, level: int = logging.INFO) -> None:
        """Queue a reply to a mistake of the client, and log it. Raises :class:`Finished` at one too many."""
        self._errors += 1
        verb, argument = self.command
        change = advice.for_reply(reply, verb)
        log.event(
            _log, level, "smtp command refused", command=shown(verb, argument)[:400], reply=str(reply),
            **({"advice": change} if change else {}),
        )  # fmt: skip
        if self._errors >= MAX_ERRORS:
            raise Finished("too many errors", SMTP.TOO_MANY_ERRORS)
        self.reply(reply)
