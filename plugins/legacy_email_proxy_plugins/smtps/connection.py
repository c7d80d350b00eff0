"""One connection to the backend: greeting, TLS, login, and mail transactions one after the other (RFC 5321 §3).

Every failure says during what it happened. The border that matters is the final dot: before it nothing can have been
delivered, after it nobody knows until the backend has answered (RFC 1047).
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from enum import Enum, auto

from legacy_email_proxy.contracts import (
    Account,
    Disconnected,
    Overloaded,
    Parameters,
    Receipt,
    Secret,
    Unreachable,
    Unusable,
    Unverified,
    logged_in,
)

from .content import ContentEncoder
from .dialogue import Extensions, Reply, command, mail_command, rcpt_command, refusal
from .endpoint import Encryption, Endpoint
from .login import Breaker, Exchange
from .timeouts import Timeouts
from .wire import Broken, Wire, connect

__all__ = ("Connection", "State")

_BLOCK_OCTETS = 65536
_CLOSING = 421
"""Answers no command: the backend closes the connection (RFC 5321 §3.8)."""


class State(Enum):
    """Where the dialogue stands."""

    NEW = auto()  # nobody has logged in yet
    READY = auto()  # for MAIL
    ENVELOPE = auto()  # MAIL was sent, and the transaction has not ended well
    FINISHED = auto()  # of no use any more


class Connection:
    """Speaks with the backend, one command and one reply at a time. Lent to one transaction at a time."""

    def __init__(self, wire: Wire, endpoint: Endpoint, timeouts: Timeouts, logger: logging.Logger) -> None:
        self._wire = wire
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._logger = logger
        self._mail_parameters: Parameters = {}
        self.state = State.NEW
        self.extensions = Extensions()
        self.transactions = 0
        self.timed_out = False
        """Whether it ended because the backend fell silent, and not because it hung up."""

    # Setting up.

    @classmethod
    async def open(cls, endpoint: Endpoint, timeouts: Timeouts, logger: logging.Logger) -> Connection:
        """Connect, verify, and say EHLO; :meth:`login` comes next.

        Raises :class:`Unreachable`, :class:`Unverified`, :class:`Overloaded`, :class:`Unusable` or
        :class:`Disconnected`, and never :class:`Refused`: no client's mail is judged here.
        """
        connection = cls(await connect(endpoint.host, endpoint.port, timeouts.connect), endpoint, timeouts, logger)
        try:
            await connection._start()
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _start(self) -> None:
        if self._endpoint.encryption is Encryption.IMPLICIT:
            await self._start_tls()
        await self._greeting()
        await self._hello()
        if self._endpoint.encryption is Encryption.STARTTLS:
            await self._command_starttls()
            await self._start_tls()
            # What was offered in the clear may be anybody's words (RFC 3207 §4.2).
            await self._hello()

    async def _greeting(self) -> None:
        reply = await self._reply("waiting for the greeting", self._timeouts.greeting, unreachable=True)
        if 400 <= reply.code < 500:
            raise Overloaded(f"{self._endpoint} greets with {reply}")
        if reply.code != 220:
            raise Unreachable(f"{self._endpoint} greets with {reply}", look_at="BACKEND_SMTP_HOST, BACKEND_SMTP_PORT")

    async def _hello(self) -> None:
        phase = "while sending EHLO"
        reply = await self._ask(command("EHLO", self._own_name()), phase, self._timeouts.hello)
        if reply.code == 250:
            self.extensions = Extensions.parse(reply)
        elif reply.code >= 500:
            raise Unusable(f"{self._endpoint} does not take EHLO: {reply}", look_at="BACKEND_SMTP_HOST")
        elif reply.negative:
            raise Overloaded(f"{self._endpoint} answers EHLO with {reply}")
        else:
            raise self._out_of_step(phase, reply)

    def _own_name(self) -> str:
        """Our address as a literal (RFC 5321 §4.1.3). A name would have to be looked up."""
        address = ipaddress.ip_address(str(self._wire.address[0]).partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address):
            if address.ipv4_mapped is None:
                return f"[IPv6:{address}]"
            address = address.ipv4_mapped
        return f"[{address}]"

    async def _command_starttls(self) -> None:
        look_at = "BACKEND_SMTP_USE_TLS, BACKEND_SMTP_PORT"
        if "STARTTLS" not in self.extensions:
            raise Unverified(f"{self._endpoint} does not offer STARTTLS; nothing was sent", look_at=look_at)
        reply = await self._ask(command("STARTTLS"), "while sending STARTTLS", self._timeouts.hello)
        if reply.code != 220:
            raise Unverified(f"{self._endpoint} refuses STARTTLS: {reply}; nothing was sent", look_at=look_at)
        if self._wire.unexpected:
            raise Unverified(
                f"{self._endpoint} sent octets in the clear behind its answer to STARTTLS: somebody on the way may "
                f"have put them there ({self._wire.unexpected}); nothing was sent",
                look_at=look_at,
            )

    async def _start_tls(self) -> None:
        if self._endpoint.tls is None:
            raise Unverified("there is no TLS context")
        try:
            await self._wire.start_tls(self._endpoint.tls, self._endpoint.host, self._timeouts.tls)
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message or str(error)
            raise Unverified(
                f"the certificate of {self._endpoint} does not verify: {reason}; nothing was sent",
                look_at="BACKEND_SMTP_CA_FILE",
            ) from None
        except ssl.SSLError as error:
            raise Unverified(
                f"{self._endpoint} does not speak TLS with us: {error.reason or error}; nothing was sent",
                look_at="BACKEND_SMTP_PORT, BACKEND_SMTP_USE_SSL, BACKEND_SMTP_USE_TLS",
            ) from None
        except Broken as broken:
            kind = Unreachable if broken.timed_out else Disconnected
            raise kind(f"{self._endpoint}: in the TLS handshake: {broken}", look_at="BACKEND_SMTP_PORT") from None

    async def login(self, breaker: Breaker) -> str:
        """Log in, if there is a user; returns the mechanism. One attempt, with one mechanism; another one if
        the credentials have another secret once the first was refused.

        Raises :class:`CredentialsRefused`, :class:`Overloaded`, :class:`Unusable` or :class:`Disconnected`.
        """
        mechanism = ""
        if self._endpoint.credentials is not None:
            account = Account("smtp", self._endpoint.user or "")
            async with breaker.attempt(self._timeouts.auth):
                mechanism = await logged_in(self._endpoint.credentials, account, self._authenticate)
        self.state = State.READY
        return mechanism

    async def _authenticate(self, secret: Secret) -> str:
        server = (self._endpoint.host, self._endpoint.port)
        exchange = Exchange.choose(self.extensions, self._endpoint.user or "", secret, server)
        phase = "while sending AUTH"
        reply = None
        for line in exchange.lines():
            if reply is not None and reply.code != 334:
                break
            self._logger.debug("C: AUTH %s ***", exchange.mechanism)
            reply = await self._exchange(line, phase, self._timeouts.auth)
            self._logger.debug("S: %s", exchange.shown(reply))
        if reply is None or reply.code == 235:
            return exchange.mechanism
        if reply.negative:
            # The connection stays: with another token the next try is made on it.
            raise exchange.failure(reply)
        self.abort()
        raise Disconnected(f"{self._endpoint}: {phase}: it said {exchange.shown(reply)}, which is no end of a login")

    # A mail transaction.

    async def mail(self, reverse_path: str, parameters: Parameters) -> None:
        """Open a transaction. :class:`Refused` is the verdict on the sender, and leaves the connection usable."""
        line = mail_command(reverse_path, parameters, self.extensions)
        self.transactions += 1
        self._mail_parameters = parameters
        # Already now, so that a refused MAIL is followed by RSET. Postfix remembers the SIZE of one that it refused as
        # too big, and would refuse the next message on this connection, whosever it is.
        self.state = State.ENVELOPE
        await self._judged(line, "while sending MAIL", self._timeouts.mail)

    async def rcpt(self, forward_path: str) -> None:
        """Name a recipient. :class:`Refused` is the verdict on this one, and leaves the transaction open."""
        line = rcpt_command(forward_path, self._mail_parameters)
        await self._judged(line, "while sending RCPT", self._timeouts.rcpt)

    async def _judged(self, line: bytes, phase: str, seconds: float) -> None:
        reply = await self._ask(line, phase, seconds)
        if reply.negative:
            raise refusal(reply, phase)
        if reply.code // 10 != 25:
            raise self._out_of_step(phase, reply)

    async def data(self, content: AsyncIterator[bytes]) -> Receipt:
        """Send the content and wait for the verdict. What ``content`` raises passes, and nothing is delivered then."""
        phase = "while sending DATA"
        reply = await self._ask(command("DATA"), phase, self._timeouts.data)
        if reply.negative:
            raise refusal(reply, phase)
        if reply.code != 354:
            raise self._out_of_step(phase, reply)
        encoder = ContentEncoder()
        # Whatever is raised in here, by the content too, closes the connection: without an end-of-data the backend has
        # to forget what it has got.
        with self._during("before the final dot"):
            async for piece in content:
                for start in range(0, len(piece), _BLOCK_OCTETS):
                    self._wire.write(encoder.encode(piece[start : start + _BLOCK_OCTETS]))
                    await self._wire.drain(self._timeouts.block)
            await self._wire.settle()
            # Together with the check in write: whatever was said before this dot is no answer to it.
            self._wire.write(encoder.end())
        phase = "after the final dot"
        try:
            reply = await self._reply(phase, self._timeouts.final_dot)
        except Disconnected as lost:
            raise self._uncertain(lost.detail) from None
        if reply.positive:
            self.state = State.READY
            return Receipt(str(reply))
        if reply.negative:
            if reply.code == _CLOSING:
                self.abort()
            raise refusal(reply, phase)
        raise self._uncertain(self._out_of_step(phase, reply).detail)

    def _uncertain(self, detail: str) -> Disconnected:
        return Disconnected(f"{detail}; the message may have been delivered: the backend did not answer the final dot")

    async def reset(self) -> None:
        """After a transaction that did not end well: make the connection ready for another one, or finish it."""
        if self.state is not State.ENVELOPE:
            return
        try:
            reply = await self._ask(command("RSET"), "while sending RSET", self._timeouts.rset)
        except Disconnected:
            return
        if reply.positive:
            self.state = State.READY
        else:
            self.abort()

    # Leaving.

    @property
    def reusable(self) -> bool:
        """Whether it is ready and the backend has neither hung up nor said anything since."""
        return self.state is State.READY and not self._wire.unexpected

    @property
    def tls_version(self) -> str:
        """See :attr:`Wire.tls_version`."""
        return self._wire.tls_version

    def abort(self) -> None:
        """Close at once, whatever is going on."""
        self.state = State.FINISHED
        self._wire.abort()

    def leave(self) -> None:
        """Say QUIT and close, without waiting: the farewell has its own deadline."""
        self.state = State.FINISHED
        self._wire.leave(command("QUIT"), self._timeouts.quit)

    @property
    def gone(self) -> bool:
        """Whether the socket is closed."""
        return self._wire.gone

    async def closed(self) -> None:
        """Wait until the socket is closed."""
        await self._wire.closed()

    # One command, one reply.

    async def _ask(self, line: bytes, phase: str, seconds: float) -> Reply:
        if self._logger.isEnabledFor(logging.DEBUG):
            self._logger.debug("C: %s", ascii(line.decode("utf-8").rstrip())[1:-1])
        reply = await self._exchange(line, phase, seconds)
        self._logger.debug("S: %s", reply)
        if reply.code == _CLOSING and self.state is not State.NEW:
            raise self._out_of_step(phase, reply)
        return reply

    async def _exchange(self, line: bytes, phase: str, seconds: float) -> Reply:
        with self._during(phase):
            self._wire.write(line)
        return await self._reply(phase, seconds)

    async def _reply(self, phase: str, seconds: float, *, unreachable: bool = False) -> Reply:
        with self._during(phase, unreachable=unreachable):
            return await self._wire.reply(seconds)

    @contextmanager
    def _during(self, phase: str, *, unreachable: bool = False) -> Iterator[None]:
        try:
            yield
        except Broken as broken:
            self.timed_out = broken.timed_out
            self.abort()
            detail = f"{self._endpoint}: {phase}: {broken}"
            if unreachable and broken.timed_out:
                raise Unreachable(detail, look_at="BACKEND_SMTP_HOST, BACKEND_SMTP_PORT") from None
            raise Disconnected(detail) from None
        except BaseException:
            # A command whose reply nobody waited for: the next one would get it.
            self.abort()
            raise

    def _out_of_step(self, phase: str, reply: Reply) -> Disconnected:
        self.abort()
        return Disconnected(f"{self._endpoint}: {phase}: it said {reply}")
