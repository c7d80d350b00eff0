"""One connection to the backend: it sends commands and returns their replies.

``connecting`` opens it and logs in, ``transaction`` sends messages over it, one after the other. Every failure says in
which step it happened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import Enum, auto

from legacy_email_proxy.contracts import Disconnected, Refused

from ..redaction import without_secrets
from .protocol import CLOSING, Extensions, Reply, command, redacted
from .settings import Endpoint, Timeouts
from .transport import Broken, Wire
from .verdicts import setting_for, verdict

__all__ = ("Connection", "State")

_RESET = "while sending RSET"
_QUOTED = 80


class State(Enum):
    """What the connection can be used for next."""

    NEW = auto()  # before the login
    READY = auto()  # MAIL may be sent
    ENVELOPE = auto()  # MAIL was sent, and the transaction has not ended well
    FINISHED = auto()  # can not be used again


class Connection:
    """Sends commands to the backend and reads its replies. Lent to one transaction at a time."""

    def __init__(self, wire: Wire, endpoint: Endpoint, timeouts: Timeouts, logger: logging.Logger) -> None:
        self.wire = wire
        self.endpoint = endpoint
        self.timeouts = timeouts
        self.logger = logger
        self.state = State.NEW
        self.pipelining = False
        self._may_chunk = False
        self.extensions = Extensions()
        self.secrets: tuple[str, ...] = ()
        """What was sent to log in; the backend may repeat it in any later reply."""
        self.clock_offset: float | None = None
        """By how many seconds our clock is ahead of the backend's, where its greeting tells the time."""
        self.opened = 0.0
        """When, by the loop's clock; the pool sets this, and :attr:`idle_since`."""
        self.idle_since = 0.0
        """When it was given back, if it is lent to nobody."""
        self.transactions = 0
        self.timed_out = False
        """Whether it ended because the backend did not answer in this transaction, and not because it hung up."""
        self._unsettled = 0
        """How many replies an earlier transaction asked for and did not wait for; the last of them answers RSET."""

    def offered(self, extensions: Extensions) -> None:
        """Store the extensions from the reply to EHLO."""
        self.extensions = extensions
        self.pipelining = "PIPELINING" in extensions
        # Without PIPELINING each chunk would have to wait for its reply; DATA waits only once.
        self._may_chunk = self.pipelining and "CHUNKING" in extensions

    @property
    def chunking(self) -> bool:
        """Whether content is sent by BDAT."""
        return self._may_chunk and self.endpoint.chunking.wanted

    # Commands and replies. All raise Disconnected; after that the connection can not be used any more.

    async def ask(self, line: bytes, phase: str, seconds: float) -> Reply:
        """Send one command and return its reply."""
        if self._unsettled and not self.pipelining:
            await self._settle()
        self.send((line,), phase)
        return await self.reply(phase, seconds)

    def send(self, lines: Sequence[bytes], phase: str) -> None:
        """Send commands in one write. :meth:`reply` returns the replies to them, in the same order."""
        if self.logger.isEnabledFor(logging.DEBUG):
            for line in lines:
                self.logger.debug("C: %s", ascii(line.decode("utf-8").rstrip())[1:-1])
        self.write(b"".join(lines), len(lines), phase)

    def write(self, octets: bytes, replies: int, phase: str) -> None:
        """Send octets without logging them; ``replies``: how many replies they ask for."""
        try:
            self.wire.write(octets, replies)
        except Broken as broken:
            raise self.lost(broken, phase) from None

    async def reply(self, phase: str, seconds: float) -> Reply:
        """The reply to the oldest command. A 421 answers no command: it raises ``Disconnected``."""
        if self._unsettled:
            await self._settle()
        reply = await self.take(phase, seconds)
        if reply.code == CLOSING:
            raise self.out_of_step(phase, reply)
        return reply

    async def take(self, phase: str, seconds: float, show: Callable[[Reply], str] | None = None) -> Reply:
        """The next reply, whatever its code. ``show`` makes its text for the log."""
        try:
            reply = await self.wire.reply(seconds)
        except Broken as broken:
            raise self.lost(broken, phase) from None
        except BaseException:
            # The reply is still to come, and would be taken for the reply to the next command.
            self.abort()
            raise
        if show is not None:
            self.logger.debug("S: %s", show(reply))
        elif self.logger.isEnabledFor(logging.DEBUG):
            self.logger.debug("S: %s", self.shown(reply))
        return reply

    def lost(self, broken: Broken, phase: str) -> Disconnected:
        """Close; returns the failure that says what happened."""
        self.timed_out = broken.timed_out and not self._unsettled
        before_mail = self.state is State.NEW
        self.abort()
        said = f": {redacted(broken.said, self.secrets)[:_QUOTED]}" if broken.said else ""
        detail = f"{self.endpoint}: {phase}: {broken}{said}"
        return Disconnected(detail, look_at=setting_for(said), about_us=before_mail)

    def out_of_step(self, phase: str, reply: Reply) -> Disconnected:
        """Close, because this reply is no valid answer; returns the failure."""
        about_us = self.state is State.NEW or reply.code == CLOSING
        self.abort()
        return Disconnected(f"{self.endpoint}: {phase}: it said {self.shown(reply)}", about_us=about_us)

    def refusal(self, reply: Reply, phase: str, *, named: bool) -> Refused:
        """The backend's 4yz or 5yz as the device gets it; for ``named`` see :func:`verdict`."""
        text = without_secrets(reply.text, self.secrets)
        detail = f"{phase}: the backend said {self.shown(reply)}"
        return verdict(reply.code, reply.enhanced, text, detail, named=named)

    def shown(self, reply: Reply) -> str:
        """The text of the reply without secrets, so that anyone may read it."""
        return redacted(reply.whole, self.secrets)

    # Between two transactions.

    def reset(self) -> None:
        """After a transaction that did not end well: make the connection ready for another one, or close it.

        RSET is sent now, so that the backend forgets this transaction; the next transaction reads the reply.
        """
        if self.state is not State.ENVELOPE:
            return
        if self.wire.owed > self._unsettled:
            # Replies to the abandoned transaction are still to come, and the next one could not tell them from its own.
            self.abort()
            return
        if self.discard(command("RSET"), _RESET):
            self.state = State.READY

    def discard(self, line: bytes, phase: str) -> bool:
        """Send a command whose reply does not matter; false if that fails. RSET has to be the last of these."""
        try:
            self.send((line,), phase)
        except Disconnected:
            return False
        self._unsettled += 1
        return True

    async def _settle(self) -> None:
        while self._unsettled:
            reply = await self.take(_RESET, self.timeouts.rset)
            self._unsettled -= 1
            if reply.code == CLOSING or not (reply.positive or self._unsettled):
                raise self.out_of_step(_RESET, reply)

    # Closing.

    @property
    def reusable(self) -> bool:
        """Whether it is ready, and the backend has neither hung up nor sent anything unasked."""
        return self.state is State.READY and self.wire.fault is None

    @property
    def tls_version(self) -> str:
        """See :attr:`Wire.tls_version`."""
        return self.wire.tls_version

    def abort(self) -> None:
        """Close at once, also in the middle of a transaction."""
        self.state = State.FINISHED
        self.wire.abort()

    def leave(self) -> None:
        """Send QUIT and close, without waiting here: QUIT has its own deadline."""
        self.state = State.FINISHED
        self.wire.leave(command("QUIT"), self.timeouts.quit)

    @property
    def gone(self) -> bool:
        """Whether the socket is closed."""
        return self.wire.gone

    async def closed(self) -> None:
        """Wait until the socket is closed."""
        await self.wire.closed()
