"""The relay contract over a pool of connections: one backend's verdicts, passed on while they matter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from legacy_email_proxy.contracts import (
    Client,
    Context,
    Disconnected,
    Finding,
    Parameters,
    Receipt,
    Recipient,
    Refused,
    RelayCapabilities,
)

from ..breaker import Breaker
from .connection import Connection, State
from .endpoint import Encryption, Endpoint
from .envelope import Envelope
from .opening import log_in, open_connection
from .pool import Limits, Loan, Pool
from .probe import probe
from .sending import send_chunks, send_data
from .timeouts import Timeouts

__all__ = ("SMTPSRelay",)


class SMTPSRelay:
    """Relays through an SMTP server, with TLS and a login (entry point ``smtps``). See :class:`contracts.Relay`."""

    def __init__(self, context: Context, *, timeouts: Timeouts | None = None, limits: Limits | None = None) -> None:
        self._endpoint = Endpoint.from_context(context)
        self._logger = context.logger
        self._timeouts = timeouts or Timeouts()
        self._breaker = Breaker(self._logger)
        self._pool = Pool(self._connect, self._endpoint.max_connections, self._timeouts.slot, limits)
        self._capabilities = RelayCapabilities()
        if self._endpoint.encryption is Encryption.NONE and self._endpoint.user is not None:
            self._logger.warning(
                "password or token for %s goes over the network in the clear (see BACKEND_SMTP_USE_SSL or _USE_TLS)",
                self._endpoint,
            )

    async def _connect(self) -> Connection:
        connection, _ = await log_in(self._endpoint, self._open, self._breaker)
        return connection

    async def _open(self) -> Connection:
        connection = await open_connection(self._endpoint, self._timeouts, self._logger)
        offered = connection.extensions
        self._capabilities = RelayCapabilities(offered.max_octets, "SMTPUTF8" in offered, "DSN" in offered)
        return connection

    def transaction(self, client: Client, reverse_path: str, parameters: Parameters) -> _Transaction:
        """See :meth:`contracts.Relay.transaction`. A refused sender is told at MAIL or at the first recipient."""
        # What comes out of a spool is bounded there, and in order: what one device may have is no concern of it.
        address = "" if client.spooled else client.address
        return _Transaction(self._pool, address, reverse_path, parameters)

    def capabilities(self) -> RelayCapabilities:
        """See :meth:`contracts.Relay.capabilities`: what the last EHLO said."""
        return self._capabilities

    async def probe(self) -> Sequence[Finding]:
        """See :meth:`contracts.Relay.probe`: a connection of its own, without a transaction."""
        return await probe(self._endpoint, self._open, self._breaker, self._timeouts.probe)

    async def aclose(self) -> None:
        """See :meth:`contracts.Relay.aclose`."""
        await self._pool.aclose()


class _Transaction:
    """See :class:`contracts.PipeliningTransaction`. Entering it borrows a connection, leaving it gives that back."""

    def __init__(self, pool: Pool, address: str, reverse_path: str, parameters: Parameters) -> None:
        self._pool = pool
        self._address = address
        self._reverse_path = reverse_path
        self._parameters = parameters
        self._loan: Loan
        self._envelope: Envelope

    async def __aenter__(self) -> Self:
        self._loan = await self._pool.lend(self._address)
        try:
            try:
                await self._mail()
            except Disconnected:
                if not self._may_begin_again:
                    raise
                await self._begin_again()
        except BaseException as error:
            self._leave(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        try:
            if error is None or isinstance(error, Exception):
                self._envelope.leave()
            else:
                # Cancelled: nobody has the time to be polite.
                self._loan.connection.abort()
        finally:
            self._pool.give_back(self._loan)

    async def _mail(self) -> None:
        self._envelope = Envelope(self._loan.connection, self._reverse_path, self._parameters)
        await self._envelope.mail()

    @property
    def _may_begin_again(self) -> bool:
        """Whether the backend closed the connection while it was idle, and has accepted nothing of this message.

        A second try then makes no second copy; from the first accepted command on, nobody could know that.
        """
        return self._loan.reused and self._envelope.untouched and not self._loan.connection.timed_out

    async def _begin_again(self) -> None:
        await self._loan.renew()
        await self._mail()

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        """See :meth:`contracts.Transaction.add_recipient`."""
        (refused,) = await self.add_recipients((Recipient(forward_path, parameters),), content_follows=False)
        if refused is not None:
            raise refused

    async def add_recipients(
        self, recipients: Sequence[Recipient], *, content_follows: bool
    ) -> Sequence[Refused | None]:
        """See :meth:`contracts.PipeliningTransaction.add_recipients`."""
        try:
            return await self._envelope.rcpt(recipients, content_follows=content_follows)
        except Disconnected:
            if not self._may_begin_again:
                raise
        try:
            await self._begin_again()
        except Refused as refused:
            # The new connection does without PIPELINING, or does not take such a sender.
            return [refused] * len(recipients)
        return await self._envelope.rcpt(recipients, content_follows=content_follows)

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        """See :meth:`contracts.Transaction.send`."""
        connection, envelope = self._loan.connection, self._envelope
        if not envelope.accepted and connection.state is not State.FINISHED:
            raise Refused(554, "5.5.1", "No valid recipients")
        if connection.chunking:
            return await send_chunks(connection, content)
        go_ahead, envelope.go_ahead = envelope.go_ahead, None
        return await send_data(connection, content, go_ahead)
