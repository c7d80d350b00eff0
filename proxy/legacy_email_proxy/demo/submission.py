"""The demo's SMTPS server: requires a login, and delivers all mail into the demo's mailbox, for any recipient.

But it refuses those below ``.invalid``, and puts those at ``busy.example`` off, so that both can be seen.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiosmtpd.smtp import SMTP, Envelope, LoginPassword, Session

__all__ = ("Deliver", "SubmissionSession")

Deliver = Callable[[bytes], Awaitable[None]]
"""Takes a message over; raises if it could not."""


class _Session(Session):
    # aiosmtpd's property of this name logs a warning at every login.
    login_data: Any = None


class _Handler:
    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.endswith(".invalid"):
            return "550 5.1.2 There is no such domain"
        if address.endswith("@busy.example"):
            return "450 4.2.1 This mailbox is busy, try again later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.original_content or b""
        await self._deliver(content)
        return "250 2.0.0 OK, it lies in the demo's mailbox"

    async def handle_exception(self, error: Exception) -> str:
        return "451 4.3.0 The demo's mailbox did not take this"


class SubmissionSession(SMTP):
    """One connection of the proxy, TLS from the first octet. ``connections`` holds those that are open."""

    # aiosmtpd refuses a message with a longer line, and devices send such.
    line_length_limit = 1 << 20

    def __init__(self, user: str, password: str, deliver: Deliver, connections: set[asyncio.WriteTransport]) -> None:
        self._right = LoginPassword(user.encode(), password.encode())
        self._connections = connections
        super().__init__(
            _Handler(deliver),
            enable_SMTPUTF8=True,
            hostname="localhost",
            auth_callback=self._may_log_in,
            # aiosmtpd can not tell that the listener itself speaks TLS, and would offer no AUTH.
            auth_require_tls=False,
            loop=asyncio.get_running_loop(),
        )

    def _may_log_in(self, mechanism: str, login: bytes, password: bytes) -> bool:
        return hmac.compare_digest(login, self._right.login) and hmac.compare_digest(password, self._right.password)

    def _create_session(self) -> Session:
        return _Session(self.loop)

    async def smtp_MAIL(self, arg: str | None) -> None:  # noqa: N802
        """MAIL, after AUTH only (RFC 4954 §6)."""
        # Not aiosmtpd's `auth_required`: without STARTTLS that warns at every connection.
        if self.session is not None and self.session.authenticated:
            await super().smtp_MAIL(arg)
        else:
            await self.push("530 5.7.0 Authentication required")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client, and keep the connection so that the end of the demo can abort it."""
        # Not by isinstance: uvloop's transports are no subclasses of asyncio's.
        self._connections.add(cast(asyncio.WriteTransport, transport))
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget it."""
        if self.transport is not None:
            self._connections.discard(self.transport)
        super().connection_lost(error)
