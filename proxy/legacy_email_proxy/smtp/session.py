"""One SMTP session: what each command does, and the replies that it gets.

aiosmtpd's own commands are replaced, because they would lose or garble a device's mail: DATA streams to the handler
instead of being collected line by line; addresses are passed on as they are (:mod:`.arguments`); ``MAIL FROM:<>`` names
the null reverse-path, ``RCPT TO:<>`` nobody. Life cycle and command loop are in :mod:`.connection`.
"""

from __future__ import annotations

import asyncio
import logging

from .. import events, sasl
from ..contracts import Failure, LoginRefused
from ..replies import SMTP, printable
from .arguments import Rejected, forward_path, reverse_path
from .authentication import KEYWORDS, authenticate
from .connection import Finished, SMTPConnection
from .incoming import IncomingContent, LineTooLong

__all__ = ("MAX_RECIPIENTS", "SMTPSession")

_log = logging.getLogger("legacy_email_proxy.smtp")

MAX_RECIPIENTS = 1000
"""Recipients of one message; more are told to come in another one (RFC 5321 §4.5.3.1.10)."""


class SMTPSession(SMTPConnection):
    """The commands of one connection."""

    _refused_recipients = 0

    async def smtp_HELO(self, hostname: str) -> None:
        await self._hello(hostname, extended=False)

    async def smtp_EHLO(self, hostname: str) -> None:
        await self._hello(hostname, extended=True)

    async def _hello(self, hostname: str, *, extended: bool) -> None:
        # Some devices have no name to give, and nothing here depends on it.
        self.envelope = self._create_envelope()
        self.session.extended_smtp = extended
        name = printable(hostname, limit=255)
        if not extended:
            return self.reply(await self._call_handler_hook("HELO", name))
        keywords = ["PIPELINING", f"SIZE {self.data_size_limit}", "8BITMIME", "ENHANCEDSTATUSCODES"]
        if self._options.tls and not self.session.tls:
            keywords.append("STARTTLS")
        if self._options.verifier:
            keywords.extend(KEYWORDS)
        keywords.append("HELP")
        lines = [f"250-{self.hostname}", *(f"250-{keyword}" for keyword in keywords)]
        lines = await self._call_handler_hook("EHLO", name, lines)
        return self.reply("\r\n".join([*lines[:-1], lines[-1].replace("250-", "250 ", 1)]))

    async def smtp_MAIL(self, argument: str) -> None:
        if self.session.host_name is None:
            return self.error(SMTP.HELLO_FIRST)
        if self._in_transaction:
            return self.error(SMTP.BAD_SEQUENCE)
        try:
            path, options = reverse_path(argument)
        except Rejected as rejected:
            return self.error(rejected.reply)
        self._refused_recipients = 0
        return self.reply(await self._call_handler_hook("MAIL", path or "<>", options))

    async def smtp_RCPT(self, argument: str) -> None:
        if not self._in_transaction:
            return self.error(SMTP.BAD_SEQUENCE)
        try:
            path, options = forward_path(argument)
        except Rejected as rejected:
            return self.error(rejected.reply)
        before = len(self.envelope.rcpt_tos)
        if before >= MAX_RECIPIENTS:
            return self.reply(SMTP.TOO_MANY_RECIPIENTS)
        self.reply(await self._call_handler_hook("RCPT", path, options))
        self._refused_recipients += len(self.envelope.rcpt_tos) == before
        return None

    async def smtp_DATA(self, argument: str) -> None:
        if argument:
            return self.error(SMTP.SYNTAX)
        if not self.envelope.rcpt_tos:
            return self.reply(SMTP.NO_VALID_RECIPIENTS) if self._refused_recipients else self.error(SMTP.BAD_SEQUENCE)
        self.reply(SMTP.GO_AHEAD)
        content = IncomingContent(self._incoming, self._commit)
        self.envelope.content = content  # type: ignore[assignment]
        try:
            try:
                status = await self._call_handler_hook("DATA")
            except ConnectionError:
                raise
            except Exception as error:
                # Caught here and not further out: the rest of the content has to be read before the next command is.
                status = await self.handle_exception(error)
            whole = await content.discard(self._options.max_octets)
        finally:
            self._committed = False
            self.envelope = self._create_envelope()
        self.reply(status)
        if not whole:
            raise Finished("message without end")
        if self.transport is None:
            raise Finished("device left before it was told the outcome")
        return None

    def _commit(self) -> None:
        self._committed = True
        self._chatter = 0

    async def smtp_RSET(self, argument: str) -> None:
        self.envelope = self._create_envelope()
        self.reply(await self._call_handler_hook("RSET"))

    async def smtp_NOOP(self, argument: str) -> None:
        self.reply(SMTP.OK)

    async def smtp_QUIT(self, argument: str) -> None:
        self.reply(await self._call_handler_hook("QUIT"))
        raise Finished("quit")

    async def smtp_VRFY(self, argument: str) -> None:
        self.reply(SMTP.CANNOT_VERIFY)

    async def smtp_EXPN(self, argument: str) -> None:
        self.error(SMTP.NOT_IMPLEMENTED)

    async def smtp_HELP(self, argument: str) -> None:
        self.reply(SMTP.HELP)

    async def smtp_STARTTLS(self, argument: str) -> None:
        if self._options.tls is None:
            return self.error(SMTP.NOT_IMPLEMENTED)
        if argument:
            return self.error(SMTP.SYNTAX)
        if self.session.tls:
            return self.error(SMTP.BAD_SEQUENCE)
        await self._call_handler_hook("RSET")
        self.reply(SMTP.READY_FOR_TLS)
        # No wait in between: what the client sends after it has read this is the handshake's.
        return await self.start_tls()

    async def smtp_AUTH(self, argument: str) -> None:
        verifier = self._options.verifier
        if verifier is None:
            return self.error(SMTP.NOT_IMPLEMENTED)
        if self.session.host_name is None:
            return self.error(SMTP.HELLO_FIRST)
        if self._in_transaction or self.session.user:
            return self.error(SMTP.BAD_SEQUENCE)
        try:
            login = await authenticate(argument, self._ask)
            await verifier(login)
        except Rejected as rejected:
            return self.error(rejected.reply)
        except LoginRefused as refused:
            self._login_failed(refused)
            await asyncio.sleep(self._options.login_delay_seconds)
            return self.error(SMTP.LOGIN_REFUSED)
        except Failure as failure:
            self._login_failed(failure)
            return self.reply(SMTP.LOGIN_NOT_JUDGED)
        self.session.user = login.user
        return self.reply(SMTP.LOGGED_IN)

    async def _ask(self, challenge: str) -> bytes:
        self.reply(f"334 {challenge}")
        try:
            line = await self._incoming.line(sasl.MAX_RESPONSE_OCTETS)
        except LineTooLong:
            raise Rejected(SMTP.RESPONSE_TOO_LONG) from None
        except TimeoutError:
            raise Finished(self._out_of_time()) from None
        if line is None:
            raise Finished("dropped")
        return line

    def _login_failed(self, failure: Failure) -> None:
        peer = self.session.peer[0] if self.session.peer else ""
        events.failure(_log, "smtp login failed", failure, session=self.session.label, client=peer)
