"""The two commands that a device has only where settings offer them: STARTTLS (RFC 3207) and AUTH (RFC 4954)."""

from __future__ import annotations

import asyncio
import logging

from .. import log, sasl
from ..contracts import Failure, LoginRefused
from ..replies import SMTP
from .arguments import Rejected
from .authentication import KEYWORDS, anybody, authenticate
from .buffer import LineTooLong
from .connection import SMTPConnection
from .reading import Finished

__all__ = ("ProtectedConnection",)

_log = logging.getLogger("legacy_email_proxy.smtp")


class ProtectedConnection(SMTPConnection):
    """A connection with these two commands."""

    def protection_keywords(self) -> list[str]:
        """What EHLO announces of them at the moment."""
        starttls = ["STARTTLS"] if self._options.tls and not self.session.tls else []
        return [*starttls, *KEYWORDS] if self._options.verifier else starttls

    async def smtp_STARTTLS(self, argument: str) -> None:
        if self._options.tls is None:
            return self.error(SMTP.NOT_IMPLEMENTED)
        if argument:
            return self.error(SMTP.SYNTAX)
        if self.session.tls or self._in_transaction:
            return self.error(SMTP.BAD_SEQUENCE)
        # Whatever was said in the clear may have been put there by somebody on the way.
        self.session.host_name = None
        self.session.extended_smtp = self.session.authenticated = False
        self.session.user = ""
        self.reply(SMTP.READY_FOR_TLS)
        return await self.start_tls()

    async def smtp_AUTH(self, argument: str) -> None:
        verifier = self._options.verifier
        if verifier is None:
            return self.error(SMTP.NOT_IMPLEMENTED)
        if self.session.host_name is None:
            return self.error(SMTP.HELLO_FIRST)
        if self._in_transaction or self.session.authenticated:
            return self.error(SMTP.BAD_SEQUENCE)
        try:
            login = await authenticate(argument, self._ask, judged=verifier is not anybody)
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
        self.session.authenticated = True
        self.session.user = login.user
        return self.reply(SMTP.LOGGED_IN)

    async def _ask(self, challenge: str) -> bytes:
        self.reply(f"334 {challenge}")
        try:
            line = await self._incoming.line(self._options.patience.idle_seconds, sasl.MAX_RESPONSE_OCTETS)
        except LineTooLong:
            raise Rejected(SMTP.RESPONSE_TOO_LONG) from None
        except TimeoutError:
            raise self._out_of_time() from None
        if line is None:
            raise Finished("dropped")
        return line

    def _login_failed(self, failure: Failure) -> None:
        peer = self.session.peer[0] if self.session.peer else ""
        log.failure(_log, "smtp login failed", failure, session=self.session.label, client=peer)
