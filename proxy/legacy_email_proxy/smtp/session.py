"""One SMTP session: what each command does, and the replies that it gets.

aiosmtpd's own commands are replaced, because they would lose or garble a device's mail: DATA streams to the handler
instead of being collected line by line, and so do the chunks of BDAT, which aiosmtpd does not know; recipients that
arrive together are asked for together; addresses are passed on as they are (:mod:`.arguments`); ``MAIL FROM:<>`` names
the null reverse-path, ``RCPT TO:<>`` nobody. Life cycle and command loop are in :mod:`.connection`. STARTTLS (RFC 3207)
and AUTH (RFC 4954) a device has only where settings offer them; :class:`ProtectedConnection` adds these two.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from .. import log, sasl
from ..access import canonical, within
from ..contracts import Failure, LoginRefused
from ..replies import SMTP, Reply, printable
from .arguments import Chunk, Rejected, chunk, forward_path, reverse_path
from .authentication import KEYWORDS, anybody, authenticate
from .buffer import LineTooLong
from .connection import SMTPConnection, parted
from .reading import (
    Abandoned,
    ChunkedContent,
    DataContent,
    DeviceLost,
    DeviceStalled,
    Finished,
    Interruption,
    stalled,
)

__all__ = ("MAX_RECIPIENTS", "ProtectedConnection", "SMTPSession")

_log = logging.getLogger("legacy_email_proxy.smtp")

MAX_RECIPIENTS = 1000
"""Recipients of one message; more are told to come in another one (RFC 5321 §4.5.3.1.10)."""

_TOGETHER = 100
"""Recipients that are asked for at once, at most: a flood of them must leave other sessions their turn."""
_ABANDONING = ("HELO", "EHLO", "RSET", "QUIT")


class ProtectedConnection(SMTPConnection):
    """A connection with the commands STARTTLS and AUTH."""

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


class SMTPSession(ProtectedConnection):
    """The commands of one connection."""

    _data_refused = False
    # What to say to content that comes without a recipient.
    _without_recipients = SMTP.BAD_SEQUENCE
    # From the first chunk of a message to the last: what reads them, and whether the present one is still unanswered.
    _chunks: ChunkedContent | None = None
    _unanswered = False
    _announced: Chunk | None = None
    # The verdict on a message that is over while its other chunks are still coming.
    _verdict: str | None = None

    async def smtp_HELO(self, hostname: str) -> None:
        await self._hello(hostname, extended=False)

    async def smtp_EHLO(self, hostname: str) -> None:
        await self._hello(hostname, extended=True)

    async def _hello(self, hostname: str, *, extended: bool) -> None:
        # Some devices have no name to give, and nothing here depends on it.
        self._forget_message()
        self.session.extended_smtp = extended
        name = printable(hostname, limit=255)
        if not extended:
            return self.reply(await self._call_handler_hook("HELO", name))
        # All that this side can do; the handler knows what of it the relay can't.
        keywords = (
            "PIPELINING", f"SIZE {self.data_size_limit}", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING",
            f"LIMITS RCPTMAX={MAX_RECIPIENTS}", "SMTPUTF8", "DSN", *self.protection_keywords(), "HELP",
        )  # fmt: skip
        lines = [f"250-{self.hostname}", *(f"250-{keyword}" for keyword in keywords)]
        lines = await self._call_handler_hook("EHLO", name, lines)
        return self.reply("\r\n".join([*lines[:-1], lines[-1].replace("250-", "250 ", 1)]))

    async def smtp_MAIL(self, argument: str) -> None:
        if self.session.host_name is None:
            return self.error(SMTP.HELLO_FIRST)
        if self._in_transaction:
            return self.error(SMTP.BAD_SEQUENCE)
        try:
            path, options = reverse_path(argument)
        except Rejected as rejected:
            return self.mistake(f"MAIL {argument}", rejected.reply)
        self._forget_message()
        return self.reply(await self._call_handler_hook("MAIL", path or "<>", options))

    async def smtp_RCPT(self, argument: str) -> None:
        if not self._in_transaction or self._chunks is not None:
            return self.error(SMTP.BAD_SEQUENCE)
        group, content_follows = self._group(argument)
        room = max(MAX_RECIPIENTS - len(self.envelope.rcpt_tos), 0)
        wanted = [each for each in group if not isinstance(each, _Mistake)][:room]
        verdicts: list[str] = await self._call_handler_hook("RCPTS", wanted, content_follows) if wanted else []
        for verdict in verdicts:
            if verdict[0] == "4":
                # A device that reads only the last reply throws its mail away at a 5yz.
                self._without_recipients = SMTP.NO_RECIPIENTS_YET
            elif verdict[0] == "5" and self._without_recipients is SMTP.BAD_SEQUENCE:
                self._without_recipients = SMTP.NO_VALID_RECIPIENTS
        replies = iter(verdicts)
        for each in group:
            if isinstance(each, _Mistake):
                self.mistake(f"RCPT {each.argument}", each.reply)
            else:
                self.reply(next(replies, SMTP.TOO_MANY_RECIPIENTS))
        return None

    def _group(self, argument: str) -> tuple[list[tuple[str, list[str]] | _Mistake], bool]:
        """The recipient and those in whole lines behind it, or why one is none; and whether content comes next."""
        group = [_recipient(argument)]
        while (line := self._incoming.peek()) is not None and line[:5].upper() == b"RCPT ":
            if not _plain(line) or len(group) == _TOGETHER:
                break
            self._incoming.skip()
            group.append(_recipient(line[5:].decode().strip()))
        # They are so many commands, behind which others have their turn.
        self._in_a_row += len(group) - 1
        if line is None or not _plain(line):
            # It will be refused for that, and what comes then is another command.
            return group, False
        verb, _, argument = line.decode().partition(" ")
        if verb.upper() == "BDAT":
            announced = chunk(argument.strip())
            return group, announced is not None and announced.octets <= self._options.max_octets
        return group, verb.upper() == "DATA" and not argument.strip()

    async def smtp_DATA(self, argument: str) -> None:
        if argument or self._chunks is not None or not self.envelope.rcpt_tos:
            self._refuse_content(SMTP.SYNTAX if argument else self._without_recipients)
            self._data_refused = True
            if len(self._incoming):
                # RFC 2920 §3.1 has the client wait for this reply. One that did not wait has sent its content, and read
                # as commands that could be a message of somebody else's making.
                raise Finished("sent content behind a refused DATA")
            return
        self.reply(SMTP.GO_AHEAD)
        content = DataContent(self._incoming, self._options.patience, self._commit, lf_ends=self._lf_ends())
        try:
            status = await self._receive(content)
            # Without this the rest of a refused message would be read as commands.
            whole = await content.discard(self._options.max_octets)
        finally:
            self._message_over()
        self._tell(status)
        if not whole:
            raise Finished("message without end")

    async def smtp_BDAT(self, argument: str) -> None:
        announced = chunk(argument)
        if announced is None:
            # Where its octets end can't be told, so that nothing behind it could be trusted to be a command.
            raise Finished("sent a BDAT that can't be understood", SMTP.SYNTAX)
        if self._chunks is not None:
            # Another chunk of the message that the relay is reading: _next_chunk is waiting for it.
            self._announced = announced
            return None
        content = ChunkedContent(self._incoming, self._options.patience, self._commit, announced, self._next_chunk)
        if announced.octets > self._options.max_octets:
            raise Finished("announced too large a chunk", SMTP.TOO_BIG)
        if self._verdict is not None or not self.envelope.rcpt_tos:
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
        """Answer a chunk that belongs to no message, or to one that is over already."""
        if self._verdict is None:
            return self._refuse_content(self._without_recipients)
        self.reply(self._verdict)
        if announced.last:
            self._verdict = None
        return None

    async def _next_chunk(self) -> Chunk:
        """Answer the chunk that has arrived, and obey what comes until the next one is announced.

        Runs beneath the relay's ``send``; what it raises ends the message.
        """
        if self._unanswered:
            # Not again for a relay that gave up waiting and now asks again.
            self.reply(SMTP.CHUNK_OK)
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

    async def _let_go(self) -> bool:
        if self._chunks is not None:
            raise stalled("sent no next chunk in time")
        await self._call_handler_hook("STALLED")
        return True

    async def _receive(self, content: DataContent | ChunkedContent) -> str:
        self.envelope.content = content  # type: ignore[assignment]
        try:
            status: str = await self._call_handler_hook("DATA")
        except Interruption:
            raise
        except Exception as error:
            # Caught here and not further out: the rest of the content has to be read before the next command is.
            status = await self.handle_exception(error)
        return status

    def _commit(self) -> None:
        self._committed = True
        self._chatter = 0

    def _message_over(self) -> None:
        self._committed = False
        self._forget_message()

    def _forget_message(self) -> None:
        self.envelope = self._create_envelope()
        self._without_recipients = SMTP.BAD_SEQUENCE
        self._verdict = None
        self._data_refused = False

    def _not_a_command(self) -> None:
        if self._data_refused:
            # A device that does not read replies: this is the first line of its content.
            raise Finished("sent content behind a refused DATA", SMTP.UNKNOWN_COMMAND)
        super()._not_a_command()

    def _refuse_content(self, reply: Reply) -> None:
        # That no recipient was accepted is the backend's verdict and no mistake of the client.
        if reply in (SMTP.BAD_SEQUENCE, SMTP.SYNTAX):
            self.error(reply)
        else:
            self.reply(reply)

    def _tell(self, status: str) -> None:
        self.reply(status)
        if self.transport is None:
            raise Finished("device left before it was told the outcome")

    def _lf_ends(self) -> bool:
        networks = self._options.lf_end_networks
        peer = canonical(str(self.session.peer[0])) if networks and self.session.peer else None
        return peer is not None and within(peer, networks)

    async def smtp_RSET(self, argument: str) -> None:
        self._forget_message()
        self.reply(await self._call_handler_hook("RSET"))

    async def smtp_NOOP(self, argument: str) -> None:
        self.reply(SMTP.OK)

    async def smtp_QUIT(self, argument: str) -> None:
        raise Finished("quit", await self._call_handler_hook("QUIT"))

    async def smtp_VRFY(self, argument: str) -> None:
        self.reply(SMTP.CANNOT_VERIFY)

    async def smtp_EXPN(self, argument: str) -> None:
        self.error(SMTP.NOT_IMPLEMENTED)

    async def smtp_HELP(self, argument: str) -> None:
        self.reply(SMTP.HELP)


def _plain(line: bytes) -> bool:
    return line.isascii() and line.decode().isprintable()


@dataclass(frozen=True, slots=True)
class _Mistake:
    """An argument of RCPT that is none."""

    argument: str
    reply: Reply


def _recipient(argument: str) -> tuple[str, list[str]] | _Mistake:
    try:
        return forward_path(argument)
    except Rejected as rejected:
        return _Mistake(argument, rejected.reply)
