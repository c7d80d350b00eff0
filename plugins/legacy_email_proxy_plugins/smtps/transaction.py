"""One message on one connection: its envelope (RFC 5321 §3.3, RFC 2920), its content, and the verdict on it.

If the backend offers PIPELINING, MAIL is sent together with the first recipients, and with DATA if the device has sent
that already. If the backend then refuses the sender, every recipient gets this refusal.

The content goes by DATA or by BDAT (RFC 5321 §4.1.1.4, RFC 3030 §2). Before its end is sent, nothing can have been
delivered; after that it is unknown until the backend has answered (RFC 1047). So the last octets are held until the
content is complete, and are sent in one write with the end: a small message is a single write, and of a message that
breaks off the end is never sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Iterator, Sequence
from time import perf_counter
from typing import Protocol

from legacy_email_proxy.contracts import Disconnected, Failure, Parameters, Receipt, Recipient, Refused, took

from .connection import Connection, State
from .protocol import CLOSING, ContentEncoder, Reply, command, mail_command, rcpt_command
from .settings import LEAST_OCTETS_PER_SECOND
from .transport import Broken

__all__ = (
    "DATA",
    "SENDING_DATA",
    "Envelope",
    "NotUnderstood",
    "Pace",
    "Replayable",
    "Watcher",
    "send_chunks",
    "send_data",
)

DATA = command("DATA")
SENDING_DATA = "while sending DATA"
_MAIL = "while sending MAIL"
_RCPT = "while sending RCPT"
_PIECE_OCTETS = 65536
_UNKNOWN_COMMAND = frozenset({500, 502, 503})


class Envelope:
    """One transaction up to its content. Call :meth:`leave` if it ends without success."""

    def __init__(self, connection: Connection, reverse_path: str, parameters: Parameters) -> None:
        self._connection = connection
        self._reverse_path = reverse_path
        self._parameters = parameters
        self._held = b""
        self._sender: Reply | None = None
        self._over = False
        self.taken: list[Recipient] = []
        """The recipients that the backend has accepted."""
        self._put_off: Reply | None = None
        self.go_ahead: Reply | None = None
        """The reply to a DATA that was sent together with the recipients: 354, or a refusal."""

    @property
    def untouched(self) -> bool:
        """Whether the backend has not answered MAIL yet, so that beginning again can't make a second copy."""
        return self._sender is None

    @property
    def put_off(self) -> Reply | None:
        """The 4yz to MAIL or a recipient, if the backend has accepted no recipient and every reply was a 4yz. Then the
        connection may be the reason: some servers take only so many messages on one.
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
        # Set before the reply, so that a refused MAIL is followed by RSET. Postfix remembers the SIZE of a MAIL that it
        # refused as too big, and would refuse the next message on this connection, even another client's.
        connection.state = State.ENVELOPE
        reply = self._judged(await connection.ask(line, _MAIL, connection.timeouts.mail), _MAIL)
        self._sender = reply
        self._put_off = reply if reply.postponed else None
        if reply.negative:
            raise connection.refusal(reply, _MAIL, named=True)

    async def rcpt(self, recipients: Sequence[Recipient], *, content_follows: bool) -> list[Refused | None]:
        """Name recipients. Returns the verdict on each, in order; ``None``: accepted.

        ``content_follows`` tells that the content comes next, unless all are refused.
        """
        if self._over:
            raise Disconnected("the backend wanted content although it had refused every recipient")
        if self.go_ahead is not None:
            # After its 354 the backend would read the RCPT commands as content.
            raise Failure("there were recipients behind those that content was to follow")
        verdicts: list[Refused | None] = [None] * len(recipients)
        extensions = self._connection.extensions
        lines: list[bytes] = []
        asked: list[int] = []
        for index, recipient in enumerate(recipients):
            try:
                lines.append(rcpt_command(recipient.forward_path, recipient.parameters, self._parameters, extensions))
                asked.append(index)
            except Refused as refused:
                verdicts[index] = refused
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
        if not self.taken:
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
            # It has refused the sender but not a recipient: it might even deliver an empty message.
            connection.abort()
        elif reply.code == 354:
            # It wants content although it has refused all recipients: it gets an empty message (RFC 2920 §3.1). The
            # reply to that is no verdict on this message, and this envelope is over.
            connection.discard(b".\r\n", SENDING_DATA)
            self._over = True

    def _judged(self, reply: Reply, phase: str) -> Reply:
        if reply.code // 10 == 25 or reply.negative:
            return reply
        raise self._connection.out_of_step(phase, reply)

    def leave(self) -> None:
        """Make the backend forget the envelope, if there was one, or close the connection."""
        if self.go_ahead is not None and self.go_ahead.code == 354:
            # It waits for content. Only an end-of-data would end that, and would deliver an incomplete message.
            self._connection.abort()
        else:
            self._connection.reset()


class NotUnderstood(Exception):
    """The backend offers BDAT but does not know it. Nothing of the message can have been delivered."""


class Watcher(Protocol):
    """Who has to know when we wait for the device."""

    def wait_for_content(self) -> None:
        """It is the device's turn."""

    def content_came(self, octets: int) -> None:
        """The device has sent so much of the content, or its end. What this raises ends the content."""


class Replayable:
    """Content that can be read again, from its start, until :meth:`forget`."""

    def __init__(self, content: AsyncIterator[bytes], watcher: Watcher | None = None) -> None:
        self._content = content
        self._watcher = watcher
        self._read: list[bytes] = []
        self._once_more: list[bytes] = []
        """What is to be read again, the last piece first."""
        self._ended = False
        self.forgotten = False
        """Whether the content can't be read again."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._once_more:
            return self._once_more.pop()
        if self._ended:
            raise StopAsyncIteration
        watcher = self._watcher
        if watcher is not None:
            watcher.wait_for_content()
        try:
            piece = await anext(self._content)
        except StopAsyncIteration:
            if watcher is not None:
                watcher.content_came(0)
            self._ended = True
            raise
        if watcher is not None:
            watcher.content_came(len(piece))
        if not self.forgotten:
            self._read.append(piece)
        return piece

    def forget(self) -> None:
        """Do not keep the content any more: some of it was sent."""
        self.forgotten = True
        self._read.clear()

    def rewind(self) -> None:
        """Go back to its start; nothing of it may be forgotten."""
        if self.forgotten:
            raise RuntimeError("the beginning of the content is gone")
        self._once_more = self._read[::-1]


async def send_data(connection: Connection, content: Replayable, go_ahead: Reply | None) -> Receipt:
    """Send the content after DATA. ``go_ahead`` is the reply to DATA, if that was sent already.

    What ``content`` raises is raised here, and the connection is closed: without an end-of-data nothing is delivered.
    """
    way = _Data(connection, content, go_ahead)
    try:
        way.ask()
        await _send(way, ContentEncoder(dots=True), content)
    except BaseException as error:
        if error is not way.refused:
            connection.abort()
        raise
    return await _verdict(connection, "after the final dot", "the final dot")


async def send_chunks(connection: Connection, content: Replayable) -> Receipt:
    """Send the content in chunks, without waiting for their replies before the last chunk.

    What ``content`` raises is raised here. Between two chunks the backend reads commands, so RSET can follow. Raises
    :class:`NotUnderstood` if it turns out that the backend does not know BDAT.
    """
    chunking = connection.endpoint.chunking
    await _send(_Chunks(connection, content, asks=not chunking.proven), ContentEncoder(dots=False), content)
    unless = () if chunking.proven else _UNKNOWN_COMMAND
    receipt = await _verdict(connection, "after the last chunk", "the last chunk", unless=unless)
    chunking.proven = True
    return receipt


def _not_understood(connection: Connection, reply: Reply) -> NotUnderstood:
    connection.endpoint.chunking.wanted = False
    return NotUnderstood(f"the backend offers CHUNKING and does not know BDAT: {connection.shown(reply)}")


class _Way(Protocol):
    block_octets: int
    """The most that is held back. Even the slowest device that is allowed sends as much before a waiting backend gives
    up (five minutes, RFC 5321 §4.5.3.2.7)."""

    async def put(self, octets: list[bytes]) -> None:
        """Send some of the content."""

    async def finish(self, octets: list[bytes]) -> None:
        """Send the rest of it, and its end."""


async def _send(way: _Way, encoder: ContentEncoder, content: AsyncIterator[bytes]) -> None:
    held: list[bytes] = []
    size = 0
    async for piece in content:
        for block in (piece,) if len(piece) <= _PIECE_OCTETS else _blocks(piece):
            octets = encoder.encode(block)
            held.append(octets)
            size += len(octets)
            if size >= way.block_octets:
                await way.put(held)
                held.clear()
                size = 0
    held.append(encoder.end())
    await way.finish(held)


def _blocks(piece: bytes) -> Iterator[bytes]:
    return (piece[start : start + _PIECE_OCTETS] for start in range(0, len(piece), _PIECE_OCTETS))


class Pace:
    """Ends the transfer if the backend takes the content too slowly."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._seconds = connection.timeouts.block
        self._waited = 0.0
        self._octets = 0

    async def write(self, octets: bytes, replies: int, phase: str) -> None:
        """Write, and wait until most of it has been sent."""
        connection = self._connection
        connection.write(octets, replies, phase)
        self._octets += len(octets)
        at_most = self._seconds + self._octets / LEAST_OCTETS_PER_SECOND - self._waited
        try:
            self._waited += await connection.wire.drain(self._seconds, at_most)
        except Broken as broken:
            raise connection.lost(broken, phase) from None


class _Data:
    block_octets = 65536
    _PHASE = "before the final dot"

    def __init__(self, connection: Connection, content: Replayable, go_ahead: Reply | None) -> None:
        self._connection = connection
        self._content = content
        self._pace: Pace | None = None
        self._go_ahead = go_ahead
        self._may_send = False
        self.refused: Refused | None = None
        """The backend's refusal of DATA, if any; the backend then still reads commands."""

    def ask(self) -> None:
        """Send DATA. Its reply is read only when there is content to send; meanwhile the device is read."""
        if self._go_ahead is None:
            self._connection.send((DATA,), SENDING_DATA)

    async def _leave_to_send(self) -> None:
        connection = self._connection
        reply = self._go_ahead or await connection.reply(SENDING_DATA, connection.timeouts.data)
        if reply.negative:
            self.refused = connection.refusal(reply, SENDING_DATA, named=False)
            raise self.refused
        if reply.code != 354:
            raise connection.out_of_step(SENDING_DATA, reply)
        self._may_send = True

    async def put(self, octets: list[bytes]) -> None:
        if not self._may_send:
            await self._leave_to_send()
        if self._pace is None:  # A small message needs none.
            self._pace = Pace(self._connection)
        await self._pace.write(b"".join(octets), 0, self._PHASE)
        self._content.forget()

    async def finish(self, octets: list[bytes]) -> None:
        if not self._may_send:
            await self._leave_to_send()
        await self._connection.wire.settle()
        self._connection.write(b"".join(octets), 1, self._PHASE)


class _Chunks:
    block_octets = 131072  # each has a reply, which costs as much as sending some ten thousand octets
    _PHASE = "before the last chunk"

    def __init__(self, connection: Connection, content: Replayable, *, asks: bool) -> None:
        self._connection = connection
        self._content = content
        self._pace = Pace(connection)
        self._asks = asks

    async def _asked(self, octets: list[bytes]) -> list[bytes]:
        """What is left of ``octets`` when the backend has shown that it knows BDAT. A backend that does not know it
        would read the lines of a message as our commands. So the first octet is sent alone, which makes no line. A
        refusal of that octet is no verdict on the message.
        """
        if not self._asks:
            return octets
        self._asks = False
        if not (whole := b"".join(octets)):
            return octets
        self._connection.write(_chunk([whole[:1]], b""), 1, self._PHASE)
        await self._judge(unless=range(500, 600))
        return [whole[1:]]

    async def _judge(self, unless: Container[int] = ()) -> None:
        reply = await self._connection.reply(self._PHASE, self._connection.timeouts.block)
        if reply.code in unless:
            raise _not_understood(self._connection, reply)
        if reply.negative:
            raise self._connection.refusal(reply, self._PHASE, named=False)
        if reply.code != 250:
            raise self._connection.out_of_step(self._PHASE, reply)

    async def put(self, octets: list[bytes]) -> None:
        octets = await self._asked(octets)
        while self._connection.wire.arrived:
            await self._judge()
        await self._pace.write(_chunk(octets, b""), 1, self._PHASE)
        self._content.forget()

    async def finish(self, octets: list[bytes]) -> None:
        octets = await self._asked(octets)
        # If another reply were still to come, it would be unknown which reply is the verdict.
        while self._connection.wire.owed:
            await self._judge()
        await self._connection.wire.settle()
        self._connection.write(_chunk(octets, b" LAST"), 1, self._PHASE)


def _chunk(octets: list[bytes], last: bytes) -> bytes:
    return b"".join((b"BDAT %d%b\r\n" % (sum(map(len, octets)), last), *octets))


async def _verdict(connection: Connection, phase: str, end: str, *, unless: Container[int] = ()) -> Receipt:
    # Only the wait for the verdict: how long the content takes is mostly up to the device.
    began = perf_counter()
    try:
        reply = await connection.take(phase, connection.timeouts.final_dot)
    except Disconnected as lost:
        raise _uncertain(lost, end) from None
    took("smtp", "content", perf_counter() - began)
    if reply.positive:
        connection.state = State.READY
        return Receipt(connection.shown(reply))
    if reply.negative:
        if reply.code in unless:
            raise _not_understood(connection, reply)
        if reply.code == CLOSING:
            connection.abort()
        raise connection.refusal(reply, phase, named=True)
    raise _uncertain(connection.out_of_step(phase, reply), end)


def _uncertain(lost: Disconnected, end: str) -> Disconnected:
    return Disconnected(f"{lost.detail}; the message may have been delivered: the backend did not answer {end}")
