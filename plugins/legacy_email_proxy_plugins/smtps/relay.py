"""The relay contract over a pool of connections: one backend's verdicts, passed on while they matter."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from legacy_email_proxy.contracts import (
    Client,
    Context,
    Disconnected,
    Finding,
    Parameters,
    Receipt,
    Refused,
    RelayCapabilities,
    Transaction,
)

from .connection import Connection
from .endpoint import Encryption, Endpoint
from .login import Breaker
from .pool import Limits, Loan, Pool
from .probe import probe
from .timeouts import Timeouts

__all__ = ("SMTPSRelay",)


class SMTPSRelay:
    """Relays through an SMTP server, with TLS and a login (entry point ``smtps``). See :class:`contracts.Relay`."""

    def __init__(self, context: Context, *, timeouts: Timeouts | None = None, limits: Limits | None = None) -> None:
        self._endpoint = Endpoint.from_context(context)
        self._logger = context.logger
        self._timeouts = timeouts or Timeouts()
        self._breaker = Breaker(self._logger, time.monotonic)
        self._pool = Pool(self._connect, self._endpoint.max_connections, self._timeouts.slot, limits)
        self._capabilities = RelayCapabilities()
        if self._endpoint.encryption is Encryption.NONE and self._endpoint.user is not None:
            self._logger.warning(
                "password or token for %s goes over the network in the clear (see BACKEND_SMTP_USE_SSL or _USE_TLS)",
                self._endpoint,
            )

    async def _connect(self) -> Connection:
        connection = await self._open()
        try:
            await connection.login(self._breaker)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _open(self) -> Connection:
        connection = await Connection.open(self._endpoint, self._timeouts, self._logger)
        self._capabilities = RelayCapabilities(connection.extensions.max_octets)
        return connection

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """See :meth:`contracts.Relay.transaction`. A refused sender is told here, at MAIL."""
        async with self._pool.lend() as loan:
            try:
                await _mail(loan, reverse_path, parameters)
                yield _Transaction(loan.connection)
            except Exception:
                await loan.connection.reset()
                raise
            except BaseException:
                # Cancelled: nobody has the time to be polite.
                loan.connection.abort()
                raise
            await loan.connection.reset()

    def capabilities(self) -> RelayCapabilities:
        """See :meth:`contracts.Relay.capabilities`: what the last EHLO said."""
        return self._capabilities

    async def probe(self) -> Sequence[Finding]:
        """See :meth:`contracts.Relay.probe`: a connection of its own, without a transaction."""
        return await probe(self._endpoint, self._open, self._breaker, self._timeouts.probe)

    async def aclose(self) -> None:
        """See :meth:`contracts.Relay.aclose`."""
        await self._pool.aclose()


async def _mail(loan: Loan, reverse_path: str, parameters: Parameters) -> None:
    try:
        await loan.connection.mail(reverse_path, parameters)
    except Disconnected:
        if not loan.reused or loan.connection.timed_out:
            raise
        # The backend closed it while it was idle. Nothing of this message was accepted there, so a second try makes no
        # second copy; from the first accepted RCPT on, nobody could know that.
        await loan.renew()
        await loan.connection.mail(reverse_path, parameters)


class _Transaction:
    """See :class:`contracts.Transaction`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._accepted = 0

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        await self._connection.rcpt(forward_path)
        self._accepted += 1

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        if not self._accepted:
            raise Refused(554, "5.5.1", "No valid recipients")
        return await self._connection.data(content)
