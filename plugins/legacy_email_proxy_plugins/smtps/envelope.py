"""The envelope of one message on one connection: MAIL, RCPT, and the leave to send content (RFC 5321 §3.3, 2920).

Where the backend takes PIPELINING, MAIL is not sent on its own: it leaves together with the first recipients, and with
DATA where the device has sent that already. A refused sender is then told to every recipient.
"""

from __future__ import annotations

from collections.abc import Sequence

from legacy_email_proxy.contracts import Disconnected, Failure, Parameters, Recipient, Refused

from .connection import Connection, State
from .protocol import Reply, command, mail_command, rcpt_command

__all__ = ("DATA", "SENDING_DATA", "Envelope")

DATA = command("DATA")
SENDING_DATA = "while sending DATA"
_MAIL = "while sending MAIL"
_RCPT = "while sending RCPT"


class Envelope:
    """One transaction up to its content. Call :meth:`leave` when it is over without having ended well."""

    def __init__(self, connection: Connection, reverse_path: str, parameters: Parameters) -> None:
        self._connection = connection
        self._reverse_path = reverse_path
        self._parameters = parameters
        self._held = b""
        self._sender: Reply | None = None
        self._over = False
        self.taken: list[Recipient] = []
        """The recipients that the backend has taken."""
        self._put_off: Reply | None = None
        self.go_ahead: Reply | None = None
        """The reply to a DATA that went out behind the recipients: 354, or a refusal."""

    @property
    def untouched(self) -> bool:
        """Whether the backend has said nothing yet, so that beginning again can't make a second copy."""
        return self._sender is None

    @property
    def put_off(self) -> Reply | None:
        """The 4yz to MAIL or a recipient, if the backend has taken nothing yet and said nothing else. Then it may be
        the connection that it doesn't like: some take so many messages on one and no more.
        """
        return None if self.taken else self._put_off

    async def mail(self) -> None:
        """Name the sender. Raises :class:`Refused`, unless that verdict is left to the first recipients."""
        connection = self._connection
        line = mail_command(self._reverse_path, self._parameters, connection.extensions)
        connection.transactions += 1
        if connection.pipelining:
            self._held = line
            return
        # Already now, so that a refused MAIL is followed by RSET. Postfix remembers the SIZE of one that it refused as
        # too big, and would refuse the next message on this connection, whosever it is.
        connection.state = State.ENVELOPE
        reply = self._judged(await connection.ask(line, _MAIL, connection.timeouts.mail), _MAIL)
        self._sender = reply
        self._put_off = reply if reply.postponed else None
        if reply.negative:
            raise connection.refusal(reply, _MAIL, named=True)

    async def rcpt(self, recipients: Sequence[Recipient], *, content_follows: bool) -> list[Refused | None]:
        """The verdict on each of them, in order; ``None`` is an accepted one.

        ``content_follows`` tells that the content comes next, unless all are refused.
        """
        if self._over:
            raise Disconnected("the backend wanted content although it had refused every recipient")
        if self.go_ahead is not None:
            # It would read them as content.
            raise Failure("there were recipients behind those that content was to follow")
        verdicts: list[Refused | None] = []
        lines: list[bytes] = []
        asked: list[int] = []
        for recipient in recipients:
            try:
                line = rcpt_command(
                    recipient.forward_path, recipient.parameters, self._parameters, self._connection.extensions
                )
            except Refused as refused:
                verdicts.append(refused)
            else:
                asked.append(len(verdicts))
                lines.append(line)
                verdicts.append(None)
        replies: list[Reply] = []
        if self._sender is None or self._sender.positive:
            if lines and self._connection.pipelining:
                replies = await self._together(lines, content_follows)
            else:
                replies = [await self._alone(line) for line in lines]
        phase = _RCPT
        if self._sender is not None and self._sender.negative:
            replies, phase = [self._sender] * len(lines), _MAIL
        for index, reply in zip(asked, replies, strict=True):
            if reply.negative:
                verdicts[index] = self._connection.refusal(reply, phase, named=True)
            else:
                self.taken.append(recipients[index])
        self._put_off = replies[0] if replies and all(reply.postponed for reply in replies) else None
        return verdicts

    async def _alone(self, line: bytes) -> Reply:
        connection = self._connection
        return self._judged(await connection.ask(line, _RCPT, connection.timeouts.rcpt), _RCPT)

    async def _together(self, lines: list[bytes], content_follows: bool) -> list[Reply]:
        connection, timeouts = self._connection, self._connection.timeouts
        with_data = content_follows and not connection.chunking
        commands = [*([self._held] if self._held else ()), *lines, *([DATA] if with_data else ())]
        connection.state = State.ENVELOPE
        connection.send(commands, _MAIL if self._held else _RCPT)
        if self._held:
            self._held = b""
            self._sender = self._judged(await connection.reply(_MAIL, timeouts.mail), _MAIL)
        replies = [self._judged(await connection.reply(_RCPT, timeouts.rcpt), _RCPT) for _ in lines]
        if with_data:
            reply = await connection.reply(SENDING_DATA, timeouts.data)
            self._take_go_ahead(reply, some_taken=any(each.positive for each in replies))
        return replies

    def _take_go_ahead(self, reply: Reply, *, some_taken: bool) -> None:
        connection = self._connection
        if reply.code != 354 and not reply.negative:
            raise connection.out_of_step(SENDING_DATA, reply)
        if self.taken or (some_taken and self._sender is not None and self._sender.positive):
            self.go_ahead = reply
        elif reply.code == 354 and some_taken:
            # It has refused the sender but not a recipient: who knows what it would make of an empty message.
            connection.abort()
        elif reply.code == 354:
            # It wants content although it has nobody to deliver to: an empty message, then, for nobody (RFC 2920 §3.1).
            # What it makes of that says nothing about this message, and this envelope is over.
            connection.discard(b".\r\n", SENDING_DATA)
            self._over = True

    def _judged(self, reply: Reply, phase: str) -> Reply:
        if reply.negative or reply.code // 10 == 25:
            return reply
        raise self._connection.out_of_step(phase, reply)

    def leave(self) -> None:
        """Let the backend forget the envelope, if there was one, or let go of the backend."""
        if self.go_ahead is not None and self.go_ahead.code == 354:
            # Only an end-of-data would make it listen to commands again, and deliver what it has.
            self._connection.abort()
        else:
            self._connection.reset()
