"""Implements the relay contract with a pool of connections to one backend, and passes on the backend's verdicts."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from time import perf_counter
from types import TracebackType
from typing import Self

from legacy_email_proxy.contracts import (
    Client,
    Context,
    Disconnected,
    Failure,
    Figure,
    Finding,
    Parameters,
    PipeliningTransaction,
    Receipt,
    Recipient,
    Refused,
    RelayCapabilities,
    took,
)

from ..backend_settings import Encryption
from ..backoff import Breaker, RepeatedReplies
from ..places import connection_figures
from .connecting import log_in, open_connection
from .connection import Connection, State
from .pool import Limits, Loan, Pool
from .probe import probe
from .protocol import Reply
from .settings import Endpoint, Timeouts
from .transaction import Envelope, NotUnderstood, Replayable, send_chunks, send_data

__all__ = ("SMTPSRelay",)


class SMTPSRelay:
    """Relays through an SMTP server, with TLS and a login (entry point ``smtps``). See :class:`contracts.Relay`."""

    def __init__(self, context: Context, *, timeouts: Timeouts | None = None, limits: Limits | None = None) -> None:
        self._endpoint = Endpoint.from_context(context)
        self._logger = context.logger
        self._timeouts = timeouts or Timeouts()
        self._breaker = Breaker(self._logger)
        self._clock_offset: float | None = None
        self._pool = Pool(self._connect, self._endpoint.max_connections, self._timeouts.slot, self._logger, limits)
        self._repeated = RepeatedReplies()
        # Offered until the first connection: if the backend does not take these, it is told at MAIL.
        self._capabilities = RelayCapabilities(smtputf8=True, dsn=True)
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
        offered, self._clock_offset = connection.extensions, connection.clock_offset
        self._capabilities = RelayCapabilities(offered.max_octets, "SMTPUTF8" in offered, "DSN" in offered)
        return connection

    def transaction(self, client: Client, reverse_path: str, parameters: Parameters) -> _Transaction:
        """See :meth:`contracts.Relay.transaction`. A refused sender is told at MAIL or at the first recipient."""
        # The spool limits and orders its own messages, so the share of one device does not apply to them.
        address = "" if client.spooled else client.address
        return _Transaction(self._pool, self._repeated, address, reverse_path, parameters, self._logger)

    def capabilities(self) -> RelayCapabilities:
        """See :meth:`contracts.Relay.capabilities`: what the last EHLO offered; before the first one, everything."""
        return self._capabilities

    async def probe(self) -> Sequence[Finding]:
        """See :meth:`contracts.Relay.probe`: a connection of its own, without a transaction."""
        return await probe(self._endpoint, self._open, self._breaker, self._timeouts)

    async def figures(self) -> Sequence[Figure]:
        """See :meth:`contracts.Observed.figures`."""
        told = [*connection_figures(*self._pool.counts), Figure("backend_paused_seconds", self._breaker.left)]
        return told if self._clock_offset is None else [*told, Figure("clock_offset_seconds", self._clock_offset)]

    async def aclose(self) -> None:
        """See :meth:`contracts.Relay.aclose`."""
        await self._pool.aclose()


class _Transaction(PipeliningTransaction):
    """See :class:`contracts.PipeliningTransaction`. Entering it borrows a connection, leaving it gives that back.

    As long as the backend has accepted nothing of the message, it may begin again on another connection, once for each
    of two reasons: the connection was closed while it was idle, or all replies on it are 4yz.

    While others wait for a connection and the device lets us wait, its own is lent to them, as long as nothing of the
    content was sent. When the device goes on, the envelope is sent again on the next connection that is free.
    """

    def __init__(
        self,
        pool: Pool,
        repeated: RepeatedReplies,
        address: str,
        reverse_path: str,
        parameters: Parameters,
        logger: logging.Logger,
    ) -> None:
        self._pool = pool
        self._repeated = repeated
        self._address = address
        self._reverse_path = reverse_path
        self._parameters = parameters
        self._logger = logger
        self._may_ask_elsewhere = True
        self._suspended = False
        self._loan: Loan
        self._envelope: Envelope
        self._content: Replayable

    async def __aenter__(self) -> Self:
        self._loan = await self._pool.lend(self._address)
        try:
            await self._open()
        except BaseException as error:
            self._leave(error)
            raise
        self._wait_for_device()
        return self

    async def _open(self) -> None:
        envelope = self._begin()
        try:
            await envelope.mail()
        except Disconnected:
            if not self._may_begin_again:
                raise
            await self._begin_again()
        except Refused as refused:
            # If another connection gives a verdict, it replaces this one.
            if not await self._begun_elsewhere():
                raise refused from None

    def _begin(self) -> Envelope:
        self._envelope = envelope = Envelope(self._loan.connection, self._reverse_path, self._parameters)
        return envelope

    def _wait_for_device(self) -> None:
        self._loan.suspend = self._suspend
        self._loan.wait_for_client()

    def _suspend(self) -> None:
        """Lend the connection to others, between two commands of the device."""
        self._leave(None)
        self._suspended = True

    def _suspend_content(self) -> None:
        """The same while the device sends content. The backend may be waiting for it, so the connection is closed: who
        goes on with it reads ``Disconnected``.
        """
        self._suspended = True
        self._loan.connection.abort()
        self._pool.give_back(self._loan)

    async def _borrow_again(self, *, content_follows: bool) -> None:
        """The device has gone on, and its connection was lent to others meanwhile."""
        taken = self._envelope.taken
        self._loan = await self._pool.lend(self._address)
        self._suspended = False
        await self._open()
        if taken:
            await self._address_again(taken, content_follows=content_follows)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        if self._suspended:
            return
        try:
            if error is None or isinstance(error, Exception):
                self._envelope.leave()
            else:
                # Cancelled: there is no time for RSET.
                self._loan.connection.abort()
        finally:
            # What it refers to refers to it, as with the content in send().
            self._loan.suspend = None
            put_off = self._envelope.put_off
            self._loan.spent = put_off is not None and not self._is_repeated(put_off)
            self._pool.give_back(self._loan)

    @property
    def _may_begin_again(self) -> bool:
        """Whether the backend closed the connection while it was idle, and has accepted nothing of this message.

        Then a second try can not make a second copy; after an accepted command this would not be certain.
        """
        return self._loan.reused and self._envelope.untouched and not self._loan.connection.timed_out

    async def _begin_again(self) -> None:
        await self._pool.renew(self._loan)
        await self._begin().mail()

    async def _begun_elsewhere(self) -> bool:
        """Whether the transaction was begun again on another connection because all replies on this one are 4yz: some
        servers limit the messages per connection, or want a client to come back (postscreen). Raises the refusal of the
        sender there; if no other connection can be had, the first verdict is kept.
        """
        put_off = self._envelope.put_off
        if put_off is None or self._is_repeated(put_off) or not self._may_ask_elsewhere:
            return False
        self._may_ask_elsewhere = False
        self._envelope.leave()
        try:
            await self._begin_again()
        except Refused:
            self._compare(put_off)
            raise
        except Failure as failure:
            self._logger.info("no other connection for what was answered with 4yz: %s", failure)
            return False
        return True

    def _compare(self, first: Reply) -> None:
        """Remember the reply if the second connection gave the same as the first."""
        if second := self._envelope.put_off:
            self._repeated.compare((first.code, first.text), (second.code, second.text))

    def _is_repeated(self, put_off: Reply) -> bool:
        """Whether other connections gave this reply as well: another one would not help, and would cost a login."""
        return self._repeated.knows(put_off.code, put_off.text)

    async def add_recipients(
        self, recipients: Sequence[Recipient], *, content_follows: bool
    ) -> Sequence[Refused | None]:
        """See :meth:`contracts.PipeliningTransaction.add_recipients`."""
        self._loan.client_went_on()
        if self._suspended:
            await self._borrow_again(content_follows=False)
        began = perf_counter()
        try:
            verdicts = await self._verdicts(recipients, content_follows)
            if self._envelope.put_off is not None:
                verdicts = await self._verdicts_elsewhere(recipients, content_follows, verdicts)
        finally:
            self._wait_for_device()
        took("smtp", "mail", perf_counter() - began)
        return verdicts

    async def _verdicts_elsewhere(
        self, recipients: Sequence[Recipient], content_follows: bool, verdicts: Sequence[Refused | None]
    ) -> Sequence[Refused | None]:
        """Another connection's verdicts instead of these, if it gives any."""
        put_off = self._envelope.put_off
        try:
            if await self._begun_elsewhere():
                verdicts = await self._envelope.rcpt(recipients, content_follows=content_follows)
                if put_off is not None:
                    self._compare(put_off)
        except Refused as refused:
            return [refused] * len(recipients)
        except Disconnected as lost:
            self._logger.info("no answer on another connection either: %s", lost)
        return verdicts

    async def _verdicts(self, recipients: Sequence[Recipient], content_follows: bool) -> Sequence[Refused | None]:
        try:
            return await self._envelope.rcpt(recipients, content_follows=content_follows)
        except Disconnected:
            if not self._may_begin_again:
                raise
        try:
            await self._begin_again()
        except Refused as refused:
            # The new connection has no PIPELINING, so MAIL is judged at once, or it can not take this sender.
            return [refused] * len(recipients)
        return await self._envelope.rcpt(recipients, content_follows=content_follows)

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        """See :meth:`contracts.Transaction.send`."""
        self._loan.client_went_on()
        if self._suspended:
            await self._borrow_again(content_follows=True)
        if not self._envelope.taken and self._loan.connection.state is not State.FINISHED:
            raise Refused(554, "5.5.1", "No valid recipients")
        self._content = Replayable(content, self)
        try:
            while True:
                try:
                    return await self._sent()
                except Disconnected:
                    if not self._suspended:
                        raise
                self._loan.client_went_on()
                await self._borrow_again(content_follows=True)
                self._content.rewind()
        finally:
            # It refers to this transaction: the two would stay in memory until Python's garbage collector finds them.
            del self._content

    async def _sent(self) -> Receipt:
        connection, envelope = self._loan.connection, self._envelope
        if connection.chunking:
            try:
                return await send_chunks(connection, self._content)
            except NotUnderstood as refusal:
                self._logger.warning("%s: from here on it gets no chunks (see BACKEND_SMTP_CHUNKING)", refusal)
                if self._content.forgotten:
                    raise Failure(str(refusal)) from None
                self._content.rewind()
            # On a new connection, because the state of the old one is unknown.
            self._loan.connection.abort()
            await self._begin_again()
            await self._address_again(envelope.taken, content_follows=True)
        go_ahead, self._envelope.go_ahead = self._envelope.go_ahead, None
        return await send_data(self._loan.connection, self._content, go_ahead)

    def wait_for_content(self) -> None:
        """See :class:`Watcher`; what was sent to the backend already can not be sent again."""
        self._loan.suspend = None if self._content.forgotten else self._suspend_content
        self._loan.wait_for_client()

    def content_came(self, octets: int) -> None:
        """See :class:`Watcher`. If the loan was taken away meanwhile, this ends the content: the backend has then not
        seen the end of the message, and nobody is told that it was accepted.
        """
        self._loan.client_went_on()
        self._loan.octets += octets

    async def _address_again(self, taken: Sequence[Recipient], *, content_follows: bool) -> None:
        """Name the recipients on another connection."""
        verdicts = await self._verdicts(taken, content_follows)
        for refused in filter(None, verdicts):
            # The device was already told that this recipient is accepted.
            raise Disconnected(f"a recipient that was taken is refused on another connection: {refused.detail}")
