"""One SMTP session: the loop over a device's commands, what each of them does, and the replies that it gets.

It owns the connection, from which lines and content come and to which replies go (:mod:`.connection`), and asks the
handler's hooks for the verdicts. Before its greeting, a device may have been refused or asked for TLS there.

The content of DATA and BDAT streams to the handler and is never held as a whole. Recipients that arrive together are
asked for together. Addresses are passed on as they are (:mod:`.arguments`); ``MAIL FROM:<>`` names the null
reverse-path, ``RCPT TO:<>`` is refused. STARTTLS (RFC 3207) and AUTH (RFC 4954) exist only where settings offer them.
STARTTLS forgets everything that was said before it, and what was pipelined behind it: otherwise somebody on the network
between could put commands of his own in front of the protected session.

The relay's transaction is opened, used and left in the connection's one task, so that a plugin may use anyio's scopes
across its context manager. For that reason a message in chunks has no task of its own either: the relay's ``send`` asks
for content, and that asks this session for the commands up to the next chunk.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from .. import log, sasl
from ..access import canonical, within
from ..contracts import Failure, LoginRefused
from ..replies import SMTP, Reply, printable
from .aiosmtpd_adapter import SMTPProtocol
from .arguments import Chunk, Mistake, Rejected, begins_content, chunk, parted, recipients, reverse_path
from .authentication import KEYWORDS, anybody, authenticate
from .buffer import LineTooLong
from .connection import Connection, SessionOptions
from .reading import (
    MAX_PAUSES,
    Abandoned,
    ChunkedContent,
    DataContent,
    DeviceLost,
    DeviceStalled,
    Finished,
    Interruption,
    stalled,
)

__all__ = ("COMMANDS", "MAX_CHATTER", "MAX_RECIPIENTS", "SMTPSession")

_log = logging.getLogger("legacy_email_proxy.smtp")

MAX_CHATTER = 200
"""Commands other than RCPT and BDAT before the client is disconnected, counted from the last message that it sent."""

MAX_RECIPIENTS = 1000
"""Recipients of one message; more are told to come in another one (RFC 5321 §4.5.3.1.10)."""

_HELLO = (b"HELO", b"EHLO")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_ABANDONING = ("HELO", "EHLO", "RSET", "QUIT")


class SMTPSession:
    """The conversation on one connection. ``on_begin`` and ``on_end`` are told of the connection."""

    def __init__(
        self,
        handler: Any,
        options: SessionOptions,
        on_begin: Callable[[Connection], None] = lambda _: None,
        on_end: Callable[[Connection], None] = lambda _: None,
        *,
        secured: bool = False,
    ) -> None:
        self._connection = Connection(handler, options, self._converse, on_begin, on_end, secured=secured)
        self._options = options
        self._protocol: SMTPProtocol = self._connection.protocol
        self._hook = self._protocol.hook
        self._reply = self._connection.reply
        self._error = self._connection.error
        self._chatter = 0
        # Seconds for which the device may still leave its connection to the backend unused, see MAX_PAUSES.
        self._pauses_left = 0.0
        self._data_refused = False
        # What to say to content that comes without a recipient.
        self._without_recipients = SMTP.BAD_SEQUENCE
        # From the first chunk of a message to the last: what reads them, and whether the present one needs a reply yet.
        self._chunks: ChunkedContent | None = None
        self._unanswered = False
        self._announced: Chunk | None = None
        # The reply to a message that ended early, for those of its chunks that still come.
        self._verdict: str | None = None

    @property
    def protocol(self) -> SMTPProtocol:
        """What asyncio is given for this connection."""
        return self._protocol

    # ------------------------------------------------------------------------------------------------ the command loop

    async def _converse(self) -> str:
        connection = self._connection
        try:
            await connection.greet()
            while (line := await self._next_command()) is not None:
                await self._obey(line)
        except TimeoutError:
            raise connection.out_of_time() from None
        return "dropped"

    async def _next_command(self) -> bytes | None:
        """The next command line; ``None`` when the device has left. Raises :class:`TimeoutError`."""
        connection, patience = self._connection, self._options.patience
        connection.check_drain()
        if connection.count(1):
            await connection.keep_pace()
        if connection.in_transaction and patience.progress_seconds < patience.idle_seconds:
            began = self._protocol.loop.time()
            # Between chunks the rate of the whole message is measured, see ChunkedContent.
            pause = patience.progress_seconds if self._chunks else min(patience.progress_seconds, self._pauses_left)
            try:
                return await connection.line(pause)
            except TimeoutError:
                await self._free_the_place()
            finally:
                self._pauses_left -= self._protocol.loop.time() - began
        return await connection.line(patience.idle_seconds)

    async def _free_the_place(self) -> None:
        """Give up the connection to the backend that the device holds without using it."""
        if self._chunks is not None:
            raise stalled("sent no next chunk in time")
        await self._hook("STALLED")

    async def _obey(self, line: bytes) -> None:
        try:
            # The name of a machine is only shown: octets of it that are not ASCII are left out instead of refused.
            text = line.decode("ascii", "ignore") if line[:4].upper() in _HELLO else line.decode()
        except UnicodeDecodeError:
            self._connection.begin(*parted(line.decode("latin-1")))
            return self._error(SMTP.NOT_ASCII)
        verb, argument = parted(text)
        self._connection.begin(verb, argument)
        if not text.isprintable() and _CONTROL.search(text):
            return self._error(SMTP.SYNTAX)
        command = COMMANDS.get(verb)
        if command is None:
            return self._not_a_command()
        if not text.isascii() and verb not in ("MAIL", "RCPT"):
            return self._error(SMTP.NOT_ASCII)
        # NOOP alone would keep a session alive for ever; each MAIL with a RSET behind it costs the backend something.
        self._chatter += verb not in ("RCPT", "BDAT")
        if self._chatter > MAX_CHATTER:
            raise Finished("too many commands without a message", SMTP.TOO_MUCH_CHATTER)
        try:
            await command(self, argument)
        except Interruption:
            raise
        except Exception as error:
            self._reply(await self._protocol.handle_exception(error))
        return None

    def _not_a_command(self) -> None:
        if self._data_refused:
            # The device did not read the refusal: this is the first line of its content.
            raise Finished("sent content behind a refused DATA", SMTP.UNKNOWN_COMMAND)
        self._error(SMTP.UNKNOWN_COMMAND)

    # ----------------------------------------------------------------------------------------- HELO, EHLO, TLS, logins

    async def smtp_HELO(self, hostname: str) -> None:
        await self._hello(hostname, extended=False)

    async def smtp_EHLO(self, hostname: str) -> None:
        await self._hello(hostname, extended=True)

    async def _hello(self, hostname: str, *, extended: bool) -> None:
        # Some devices have no name to give, and nothing here depends on it.
        self._forget_message()
        self._protocol.session.extended_smtp = extended
        name = printable(hostname, limit=255)
        if not extended:
            return self._reply(await self._hook("HELO", name))
        # All that the proxy can do; the handler takes away what the relay can't.
        keywords = (
            "PIPELINING", f"SIZE {self._options.max_octets}", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING",
            f"LIMITS RCPTMAX={MAX_RECIPIENTS}", "SMTPUTF8", "DSN", *self._protection_keywords(), "HELP",
        )  # fmt: skip
        lines = [f"250-{self._protocol.hostname}", *(f"250-{keyword}" for keyword in keywords)]
        lines = await self._hook("EHLO", name, lines)
        return self._reply("\r\n".join([*lines[:-1], lines[-1].replace("250-", "250 ", 1)]))

    def _protection_keywords(self) -> list[str]:
        starttls = ["STARTTLS"] if self._options.tls and not self._protocol.session.tls else []
        return [*starttls, *KEYWORDS] if self._options.verifier else starttls

    async def smtp_STARTTLS(self, argument: str) -> None:
        if self._options.tls is None:
            return self._error(SMTP.NOT_IMPLEMENTED)
        if argument:
            return self._error(SMTP.SYNTAX)
        if self._protocol.session.tls or self._connection.in_transaction:
            return self._error(SMTP.BAD_SEQUENCE)
        # Whatever was said in the clear may come from somebody on the network between.
        self._protocol.session.host_name = None
        self._protocol.session.extended_smtp = self._protocol.session.authenticated = False
        self._protocol.session.user = ""
        self._reply(SMTP.READY_FOR_TLS)
        return await self._connection.start_tls()

    async def smtp_AUTH(self, argument: str) -> None:
        verifier = self._options.verifier
        if verifier is None:
            return self._error(SMTP.NOT_IMPLEMENTED)
        if self._protocol.session.host_name is None:
            return self._error(SMTP.HELLO_FIRST)
        if self._connection.in_transaction or self._protocol.session.authenticated:
            return self._error(SMTP.BAD_SEQUENCE)
        try:
            login = await authenticate(argument, self._ask, judged=verifier is not anybody)
            await verifier(login, self._connection.peer)
        except Rejected as rejected:
            return self._error(rejected.reply)
        except LoginRefused as refused:
            log.failure(_log, "smtp login failed", refused)
            await asyncio.sleep(self._options.login_delay_seconds)
            return self._error(SMTP.LOGIN_REFUSED)
        except Failure as failure:
            log.failure(_log, "smtp login failed", failure)
            return self._reply(SMTP.LOGIN_NOT_JUDGED)
        self._protocol.session.authenticated = True
        self._protocol.session.user = login.user
        return self._reply(SMTP.LOGGED_IN)

    async def _ask(self, challenge: str) -> bytes:
        self._reply(f"334 {challenge}")
        deadline = self._protocol.loop.time() + self._options.patience.idle_seconds
        try:
            line = await self._connection.incoming.line(deadline, sasl.MAX_RESPONSE_OCTETS)
        except LineTooLong:
            raise Rejected(SMTP.RESPONSE_TOO_LONG) from None
        except TimeoutError:
            raise self._connection.out_of_time() from None
        if line is None:
            raise Finished("dropped")
        log.dialogue(_log, "C", "***")
        return line

    # ------------------------------------------------------------------------------------------------------ a message

    async def smtp_MAIL(self, argument: str) -> None:
        if self._protocol.session.host_name is None:
            return self._error(SMTP.HELLO_FIRST)
        if self._connection.in_transaction:
            return self._error(SMTP.BAD_SEQUENCE)
        try:
            path, options = reverse_path(argument)
        except Rejected as rejected:
            return self._error(rejected.reply, logging.WARNING)
        self._forget_message()
        self._pauses_left = MAX_PAUSES * self._options.patience.progress_seconds
        return self._reply(await self._hook("MAIL", path or "<>", options))

    async def smtp_RCPT(self, argument: str) -> None:
        if not self._connection.in_transaction or self._chunks is not None:
            return self._error(SMTP.BAD_SEQUENCE)
        group, next_line = recipients(argument, self._connection.incoming)
        # Each of them counts as a command, so that other sessions get their turn.
        self._connection.count(len(group) - 1)
        room = max(MAX_RECIPIENTS - len(self._protocol.envelope.rcpt_tos), 0)
        wanted = [each for each in group if not isinstance(each, Mistake)][:room]
        verdicts: list[str] = []
        if wanted:
            verdicts = await self._hook("RCPTS", wanted, begins_content(next_line, self._options.max_octets))
        for verdict in verdicts:
            if verdict[0] == "4":
                # A device that reads only the reply to DATA would give its message up for good at a 5yz.
                self._without_recipients = SMTP.NO_RECIPIENTS_YET
            elif verdict[0] == "5" and self._without_recipients is SMTP.BAD_SEQUENCE:
                self._without_recipients = SMTP.NO_VALID_RECIPIENTS
        replies = iter(verdicts)
        for each in group:
            if isinstance(each, Mistake):
                self._connection.command = ("RCPT", each.argument)
                self._error(each.reply, logging.WARNING)
            else:
                self._reply(next(replies, SMTP.TOO_MANY_RECIPIENTS))
        return None

    async def smtp_DATA(self, argument: str) -> None:
        if argument or self._chunks is not None or not self._protocol.envelope.rcpt_tos:
            self._refuse_content(SMTP.SYNTAX if argument else self._without_recipients)
            self._data_refused = True
            if len(self._connection.incoming):
                # RFC 2920 §3.1 has the client wait for this reply. One that did not wait has sent its content: read as
                # commands, a text in it could send a message that somebody else has made up.
                raise Finished("sent content behind a refused DATA")
            return
        self._reply(SMTP.GO_AHEAD)
        content = DataContent(self._connection.incoming, self._options.patience, self._commit, lf_ends=self._lf_ends())
        try:
            status = await self._receive(content)
            # Without this the rest of a refused message would be read as commands.
            whole = content.ended or await content.discard(self._options.max_octets)
        finally:
            self._message_over()
        self._tell(status)
        if not whole:
            raise Finished("sent too much behind a refused message")

    async def smtp_BDAT(self, argument: str) -> None:
        announced = chunk(argument)
        if announced is None:
            # Nobody knows where its octets end, so nothing behind it may be read as a command.
            raise Finished("sent a BDAT that can't be understood", SMTP.SYNTAX)
        if self._chunks is not None:
            # Another chunk of the message that the relay is reading: _next_chunk is waiting for it.
            self._announced = announced
            return None
        content = ChunkedContent(
            self._connection.incoming, self._options.patience, self._commit, announced, self._next_chunk
        )
        if announced.octets > self._options.max_octets:
            raise Finished("announced too large a chunk", SMTP.TOO_BIG)
        if self._verdict is not None or not self._protocol.envelope.rcpt_tos:
            await content.discard()
            self._unheard(announced)
            return None
        self._chunks, self._unanswered = content, True
        abandoned = None
        try:
            status = await self._receive(content)
            if self._unanswered:
                await self._skip_chunk(content, status)
        except Abandoned as error:
            abandoned = error
        finally:
            self._chunks = None
            self._message_over()
        if abandoned is not None:
            return await self._obey(abandoned.command)
        if not content.last:
            self._verdict = status
        if self._unanswered:
            self._tell(status)
        return None

    def _unheard(self, announced: Chunk) -> None:
        """Answer a chunk that belongs to no message, or to one that has its verdict already."""
        if self._verdict is None:
            return self._refuse_content(self._without_recipients)
        self._reply(self._verdict)
        if announced.last:
            self._verdict = None
        return None

    async def _next_chunk(self) -> Chunk:
        """Answer the chunk that has arrived, and obey what comes until the next one is announced.

        It is called from within the relay's ``send``; what it raises ends the message.
        """
        if self._unanswered:
            # Only once, also for a relay that gave up waiting and now asks again.
            self._reply(SMTP.CHUNK_OK)
            self._unanswered = False
        self._announced = None
        while self._announced is None:
            try:
                line = await self._next_command()
            except TimeoutError:
                raise DeviceStalled from None
            if line is None:
                raise DeviceLost
            if parted(line.decode("latin-1"))[0] in _ABANDONING:
                raise Abandoned(line)
            await self._obey(line)
        self._unanswered = True
        return self._announced

    async def _skip_chunk(self, content: ChunkedContent, status: str) -> None:
        if content.left > self._options.max_octets:
            raise Finished("announced too large a chunk", status)
        await content.discard()

    async def _receive(self, content: DataContent | ChunkedContent) -> str:
        self._protocol.envelope.content = content  # type: ignore[assignment]
        try:
            status: str = await self._hook("DATA")
        except Interruption:
            raise
        except Exception as error:
            # Caught here and not further out: the rest of the content has to be read before the next command is.
            status = await self._protocol.handle_exception(error)
        return status

    def _commit(self) -> None:
        self._protocol.committed = True
        self._connection.message_ended()
        self._chatter = 0

    def _message_over(self) -> None:
        self._protocol.committed = False
        self._forget_message()

    def _forget_message(self) -> None:
        self._protocol.new_envelope()
        self._without_recipients = SMTP.BAD_SEQUENCE
        self._verdict = None
        self._data_refused = False

    def _refuse_content(self, reply: Reply) -> None:
        # That no recipient was accepted is the backend's verdict: it does not count as an error of the client.
        if reply in (SMTP.BAD_SEQUENCE, SMTP.SYNTAX):
            self._error(reply)
        else:
            self._reply(reply)

    def _tell(self, status: str) -> None:
        self._reply(status)
        if self._connection.over:
            raise Finished("device left before it was told the outcome")

    def _lf_ends(self) -> bool:
        networks = self._options.lf_end_networks
        peer = canonical(self._connection.peer) if networks else None
        return peer is not None and within(peer, networks)

    async def smtp_RSET(self, argument: str) -> None:
        self._forget_message()
        self._reply(await self._hook("RSET"))

    async def smtp_NOOP(self, argument: str) -> None:
        self._reply(SMTP.OK)

    async def smtp_QUIT(self, argument: str) -> None:
        raise Finished("quit", await self._hook("QUIT"))

    async def smtp_VRFY(self, argument: str) -> None:
        self._reply(SMTP.CANNOT_VERIFY)

    async def smtp_EXPN(self, argument: str) -> None:
        self._error(SMTP.NOT_IMPLEMENTED)

    async def smtp_HELP(self, argument: str) -> None:
        self._reply(SMTP.HELP)


COMMANDS: dict[str, Callable[[SMTPSession, str], Awaitable[None]]] = {
    name[5:]: command for name, command in vars(SMTPSession).items() if name.startswith("smtp_")
}
"""The method for each verb; every other verb is unknown."""
