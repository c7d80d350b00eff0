"""The aiosmtpd handler: turns SMTP commands into one mail transaction at the relay, and its verdicts into replies.

It is an ordinary aiosmtpd handler and works below a stock ``aiosmtpd.smtp.SMTP`` too. Below our own
:class:`~legacy_email_proxy.smtp.session.SMTPSession`, ``envelope.content`` is an asynchronous iterator instead of
bytes, so that a message streams through; and the transaction is opened and left in the session's one task.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.smtp import Envelope, Session

from .. import advice, log
from ..contracts import (
    NULL_REVERSE_PATH,
    Client,
    Parameters,
    Recipient,
    Refused,
    Relay,
    RelayCapabilities,
    Transaction,
    add_recipients,
)
from ..contracts import Envelope as MailEnvelope
from ..replies import SMTP, Reply, printable, refusal, smtp_reply
from .headers import protocol
from .reading import Interruption, Measured, stalled
from .rewriting import Rewriting, send

__all__ = ("RelayHandler", "check", "limit")

_log = logging.getLogger("legacy_email_proxy.smtp")


def check(parameters: Parameters, capabilities: RelayCapabilities, max_octets: int = sys.maxsize) -> None:
    """Raises :class:`Refused` for a MAIL with these parameters where the relay is known not to take it; the backend
    decides on all else. ``max_octets`` is our own limit, if there is one.
    """
    size = int(parameters.get("SIZE") or 0)
    if size > limit(capabilities, max_octets):
        raise refusal(SMTP.TOO_BIG, f"it announces {size} octets")
    if "SMTPUTF8" in parameters and not capabilities.smtputf8:
        raise refusal(SMTP.NO_SMTPUTF8, "the backend did not offer SMTPUTF8 when it was last asked")


def limit(capabilities: RelayCapabilities, max_octets: int = sys.maxsize) -> int:
    """How many octets a message may have."""
    return min(max_octets, capabilities.max_octets or max_octets)


@dataclass(slots=True)
class _Open:
    """The transaction that MAIL opened. Once ``failed`` is set, the backend's side of it is gone."""

    transaction: Transaction
    client: Client
    mail: MailEnvelope
    context: AbstractAsyncContextManager[Transaction]
    forward_paths: list[str] = field(default_factory=list)
    failed: Reply | None = None
    left: bool = False


class RelayHandler:
    """Hooks of one listener. ``max_octets`` bounds a message; the relay may lower it.

    ``logins_proven``: who logged in is who they say, so the relay and the filters are told.
    """

    def __init__(
        self, relay: Relay, max_octets: int, rewriting: Rewriting | None = None, *, logins_proven: bool = False
    ) -> None:
        self._relay = relay
        self._max_octets = max_octets
        self._rewriting = rewriting or Rewriting()
        self._logins_proven = logins_proven
        self._open: dict[Session, _Open] = {}
        self._watched: set[Session] = set()
        self._farewells: set[asyncio.Task[None]] = set()

    async def handle_HELO(self, server: Any, session: Session, envelope: Envelope, hostname: str) -> str:
        """HELO begins afresh (RFC 5321 §4.1.4)."""
        await self._leave(session)
        session.host_name = hostname
        return f"250 {server.hostname}"

    async def handle_EHLO(
        self, server: Any, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """EHLO begins afresh; SIZE is lowered to the relay's, and what is known to be lacking is not announced."""
        await self._leave(session)
        session.host_name = hostname
        capabilities = self._relay.capabilities()
        lacking = {"SMTPUTF8": not capabilities.smtputf8, "DSN": not capabilities.dsn}
        size = f"250-SIZE {limit(capabilities, self._max_octets)}"
        lines = [line for line in responses if not lacking.get(line[4:])]
        return [size if line.startswith("250-SIZE ") else line for line in lines]

    async def handle_MAIL(
        self, server: Any, session: Session, envelope: Envelope, address: str, mail_options: Sequence[str]
    ) -> str:
        """Open the transaction at the relay."""
        self._watch(session)
        if session in self._open:
            await self._leave(session)
        # aiosmtpd writes the null reverse-path as "<>"; this is the one place where it becomes ours.
        reverse_path = NULL_REVERSE_PATH if address == "<>" else address
        parameters = _parameters(mail_options)
        client = _client(
            str(session.peer[0]) if session.peer else "",
            getattr(session, "label", "-"),
            session.host_name or "",
            getattr(session, "user", "") if self._logins_proven else "",
            _port(server.transport),
        )
        try:
            check(parameters, self._relay.capabilities(), self._max_octets)
            mail = await self._rewriting.mail(client, reverse_path, parameters)
            context = self._relay.transaction(client, mail.reverse_path, parameters)
            transaction = await context.__aenter__()
        except Exception as error:
            return str(self._refuse("smtp sender refused", error, client, sender=reverse_path))
        self._open[session] = _Open(transaction, client, mail, context)
        envelope.mail_from = address
        return str(SMTP.SENDER_OK)

    async def handle_RCPT(
        self, server: Any, session: Session, envelope: Envelope, address: str, rcpt_options: Sequence[str]
    ) -> str:
        """Ask the relay for its verdict on one recipient."""
        return (await self.handle_RCPTS(server, session, envelope, [(address, rcpt_options)], False))[0]

    async def handle_RCPTS(
        self,
        server: Any,
        session: Session,
        envelope: Envelope,
        addresses: Sequence[tuple[str, Sequence[str]]],
        content_follows: bool,
    ) -> list[str]:
        """Ask for the verdicts on recipients that came together, all at once if the relay can; one reply for each.

        Our own session calls this; aiosmtpd knows no such hook.
        """
        opened = self._open.get(session)
        if opened is None:
            return [str(SMTP.BAD_SEQUENCE)] * len(addresses)
        try:
            replies = await self._verdicts(session, opened, addresses, content_follows)
        except Exception as error:
            # Not one reply for all: the device would take the replies to its next commands for those of recipients.
            reply = self._refuse("smtp recipient refused", error, opened.client, sender=opened.mail.reverse_path)
            await self._fail(session, reply)
            return [str(reply)] * len(addresses)
        told = list[str]()
        for (address, _), refused in zip(addresses, replies, strict=True):
            if refused is None:
                envelope.rcpt_tos.append(address)
            told.append(str(refused or SMTP.RECIPIENT_OK))
        return told

    async def _verdicts(
        self,
        session: Session,
        opened: _Open,
        addresses: Sequence[tuple[str, Sequence[str]]],
        content_follows: bool,
    ) -> list[Reply | None]:
        """The refusal of each address, ``None`` for accepted: what the filters say, then the relay."""
        replies = list[Reply | None]()
        wanted = list[Recipient]()
        for address, options in addresses:
            reply = opened.failed
            if reply is None:
                try:
                    wanted.append(Recipient(await self._path(opened, wanted, address), _parameters(options)))
                except Exception as error:
                    reply = self._refuse_recipient(opened, error, address)
                    if not isinstance(error, Refused):
                        await self._fail(session, reply)
            replies.append(reply)
        verdicts = await self._ask(session, opened, wanted, content_follows)
        for each, verdict in zip(wanted, verdicts, strict=True):
            if verdict is None:
                opened.forward_paths.append(each.forward_path)
        rest = iter(verdicts)
        return [next(rest) if reply is None else reply for reply in replies]

    async def _path(self, opened: _Open, before: Sequence[Recipient], address: str) -> str:
        """The forward-path to ask for. A filter sees those that came together with it as if they were accepted."""
        path = address
        if self._rewriting.has_filters:
            paths = [*opened.forward_paths, *(each.forward_path for each in before)]
            path = await self._rewriting.recipient(opened.mail, paths, address)
        if not path.isascii() and "SMTPUTF8" not in opened.mail.parameters:
            raise refusal(SMTP.NEEDS_SMTPUTF8)
        return path

    async def _ask(
        self, session: Session, opened: _Open, recipients: Sequence[Recipient], content_follows: bool
    ) -> list[Reply | None]:
        """The refusal of each recipient, ``None`` for accepted. Nothing is accepted by a transaction that failed."""
        verdicts = list[Reply | None]()
        # A relay that is asked for one after the other may fail at the third: its verdicts on the first two still hold.
        at_once = len(recipients) if hasattr(opened.transaction, "add_recipients") else 1
        while opened.failed is None and (group := recipients[len(verdicts) : len(verdicts) + at_once]):
            try:
                refusals = await add_recipients(opened.transaction, group, content_follows=content_follows)
            except Exception as error:
                await self._fail(session, self._refuse_recipient(opened, error, group[0].forward_path))
            else:
                verdicts += [
                    None if refused is None else self._refuse_recipient(opened, refused, recipient.forward_path)
                    for recipient, refused in zip(group, refusals, strict=True)
                ]
        return verdicts + [opened.failed] * (len(recipients) - len(verdicts))

    def _refuse_recipient(self, opened: _Open, error: Exception, forward_path: str) -> Reply:
        facts = {"sender": opened.mail.reverse_path, "recipient": forward_path}
        return self._refuse("smtp recipient refused", error, opened.client, **facts)

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:
        """Pass the content on; 250 only when the relay says that the message is in safe hands: with a receipt."""
        opened = self._open.get(session)
        if opened is None:
            return str(SMTP.BAD_SEQUENCE)
        if opened.failed:
            await self._leave(session)
            return str(opened.failed)
        try:
            content = Measured(envelope.content, limit(self._relay.capabilities(), self._max_octets))
            return await self._relayed(session, opened, content)
        finally:
            await self._leave(session)

    async def _relayed(self, session: Session, opened: _Open, content: Measured) -> str:
        facts = {"sender": opened.mail.reverse_path, "recipients": opened.forward_paths}
        try:
            outgoing = self._rewriting.content(opened.mail, opened.forward_paths, _protocol(session), content)
            receipt = await send(opened.transaction, outgoing)
        except Interruption:
            raise
        except Exception as error:
            return str(self._refuse("message refused", error, opened.client, **facts, octets=content.octets))
        session_octets = getattr(session, "relayed", None)
        if session_octets is not None:
            session_octets.append(content.octets)
        queue = {"queue_id": receipt.queue_id} if receipt.queue_id else {}
        log.event(
            _log, logging.INFO, "message spooled" if receipt.spooled else "message relayed",
            **_names(opened.client), **facts, octets=content.octets, **queue,
            backend=receipt.detail,
        )  # fmt: skip
        # The session's label is what the log knows the message by.
        found_by = printable(receipt.queue_id, 64) or getattr(session, "label", "")
        return f"{SMTP.ACCEPTED} as {found_by}" if found_by else str(SMTP.ACCEPTED)

    async def handle_RSET(self, server: Any, session: Session, envelope: Envelope) -> str:
        """Abandon the transaction."""
        await self._leave(session)
        return str(SMTP.OK)

    async def handle_QUIT(self, server: Any, session: Session, envelope: Envelope) -> str:
        """Abandon the transaction and say goodbye."""
        await self._leave(session)
        return str(SMTP.BYE)

    async def handle_STALLED(self, server: Any, session: Session, envelope: Envelope) -> None:
        """Our own session calls this when the device leaves an open transaction unused; aiosmtpd knows no such hook."""
        opened = self._open.get(session)
        if opened is not None and not opened.failed:
            failure = stalled("sent no command in time")
            await self._fail(session, self._refuse("smtp transaction given up", failure, opened.client))

    async def handle_CLOSE(self, server: Any, session: Session, envelope: Envelope) -> None:
        """Our own session calls this when it ends, however it ends; aiosmtpd knows no such hook."""
        opened = self._open.pop(session, None)
        if opened is not None:
            # Left in the middle: with this the relay drops its connection to the backend and does not wait for replies.
            await self._exit(opened, asyncio.CancelledError())

    async def handle_exception(self, error: Exception) -> str:
        """Anything unexpected is temporary, and the device reads nothing of it."""
        log.failure(_log, "smtp session failed", error)
        return str(smtp_reply(error))

    async def aclose(self) -> None:
        """Wait for transactions that are still being abandoned."""
        await asyncio.gather(*self._farewells, return_exceptions=True)

    def _watch(self, session: Session) -> None:
        """A stock aiosmtpd has no hook for the end of a session: there the transaction is left when its task ends."""
        if session in self._watched or (task := asyncio.current_task()) is None:
            return
        self._watched.add(session)

        def ended(_: object) -> None:
            self._watched.discard(session)
            if session in self._open:
                farewell = asyncio.create_task(self._leave(session))
                self._farewells.add(farewell)
                farewell.add_done_callback(self._farewells.discard)

        task.add_done_callback(ended)

    async def _leave(self, session: Session) -> None:
        opened = self._open.pop(session, None)
        if opened is not None:
            await self._exit(opened)

    async def _fail(self, session: Session, reply: Reply) -> None:
        """Leave the relay's transaction, and remember ``reply`` for what follows: nobody is accepted any more.

        Otherwise DATA could get a 250 for recipients to whom nobody delivers.
        """
        opened = self._open[session]
        opened.failed = reply
        await self._exit(opened)

    async def _exit(self, opened: _Open, thrown: BaseException | None = None) -> None:
        if opened.left:
            return
        opened.left = True
        try:
            await opened.context.__aexit__(type(thrown) if thrown else None, thrown, None)
        except Exception as error:
            # The device has its reply already; an error of the plugin while it is left must not change it.
            log.failure(_log, "smtp transaction not left cleanly", error, session=opened.client.session)

    def _refuse(self, words: str, error: BaseException, client: Client, **facts: object) -> Reply:
        reply = smtp_reply(error)
        change = advice.for_reply(reply)
        log.failure(
            _log, words, error, **_names(client), **facts, reply=reply, **({"advice": change} if change else {})
        )
        return reply


# One session mostly sends many messages.
_client = functools.lru_cache(200)(Client)


def _names(client: Client) -> dict[str, object]:
    """Which session it was: a stock aiosmtpd does not bind that to its task, as our own session does."""
    return {"session": client.session, "client": client.address}


def _port(transport: asyncio.BaseTransport | None) -> int:
    """The listener's port."""
    place = transport.get_extra_info("sockname") if transport is not None else None
    return place[1] if isinstance(place, tuple) else 0


def _protocol(session: Session) -> str:
    return protocol(
        extended=bool(session.extended_smtp), secured=session.ssl is not None, authenticated=bool(session.authenticated)
    )


def _parameters(options: Sequence[str]) -> Parameters:
    if not options:
        return {}
    split = (option.partition("=") for option in options)
    return {keyword.upper(): value if equals else None for keyword, equals, value in split}
