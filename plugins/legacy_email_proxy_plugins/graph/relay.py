"""Sends mail through Microsoft Graph: the relay of ``RELAY_PLUGIN=graph``.

The message is kept on disk until its end, because Graph wants its length first, and because the header decides who gets
it: it is changed to say what the envelope says (:mod:`.recipients`). What fits goes as MIME in one request. What is too
large goes as ``GRAPH_LARGE`` says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio

from legacy_email_proxy.contracts import (
    NULL_REVERSE_PATH,
    Client,
    Context,
    Disconnected,
    Failure,
    Finding,
    Header,
    Parameters,
    Receipt,
    Refused,
    Relay,
    RelayCapabilities,
    SettingsMistake,
    Transaction,
)

from ..threads import Threads
from .client import Body, Graph, quoted
from .deletion import remove
from .draft import Draft
from .files import Kept, base64_length, base64_of
from .probe import probe_relay
from .recipients import MOST_RECIPIENTS, address_header
from .settings import Options, configured
from .verdicts import GraphRefusal, verdict

__all__ = ("WHOLE_OCTETS", "GraphRelay")

WHOLE_OCTETS = 3_000_000
"""Of MIME in one request: Graph takes 4 MB, and counts the base64 (graph-docs, issue 13979)."""
LARGEST_OCTETS = 150_000_000
"""Of a message as a draft. The mailbox's own limit, 35 MB unless an administrator has raised it, is Graph's to say."""
_HEADER_ROOM = 64 * 1024
"""For what is added to the header, so that what was announced as SIZE fits."""
_HEADER_OCTETS = 1024 * 1024
_SETTLING_SECONDS = (0.0, 1.0, 3.0)
_COPY_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""When it is looked whether a message that was sent is in Sent Items."""
_CLOSING_SECONDS = 5.0


class GraphRelay:
    """See :class:`~legacy_email_proxy.contracts.Relay`."""

    def __init__(self, context: Context) -> None:
        mistakes: list[str] = []
        self._smtp: Relay | None = None
        if context.settings["GRAPH_LARGE"] == "smtp":
            # Loaded only here: most sites need no second way.
            from ..smtps import SMTPSRelay

            try:
                self._smtp = SMTPSRelay(context)
            except SettingsMistake as mistake:
                mistakes += mistake.lines
        self.options: Options = configured(context, *mistakes)
        self.logger: logging.Logger = context.logger
        self.graph = Graph(self.options)
        self.threads = Threads("STATE_DIR")
        self._context = context
        self._copies: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """See :meth:`~legacy_email_proxy.contracts.Relay.transaction`."""
        yield _Transaction(self, client, reverse_path, parameters)

    def capabilities(self) -> RelayCapabilities:
        """See :meth:`~legacy_email_proxy.contracts.Relay.capabilities`."""
        if self._smtp is not None:
            return RelayCapabilities(max_octets=self._smtp.capabilities().max_octets)
        refuse = self.options.large == "refuse"
        return RelayCapabilities(max_octets=WHOLE_OCTETS - _HEADER_ROOM if refuse else LARGEST_OCTETS)

    async def probe(self) -> Sequence[Finding]:
        """See :meth:`~legacy_email_proxy.contracts.Relay.probe`."""
        findings = list(await probe_relay(self.graph, self._context.settings["SMTP_SENDER"]))
        return [*findings, *(await self._smtp.probe() if self._smtp is not None else ())]

    async def aclose(self) -> None:
        """See :meth:`~legacy_email_proxy.contracts.Relay.aclose`."""
        if self._copies:
            _, left = await asyncio.wait(self._copies, timeout=_CLOSING_SECONDS)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)
                self.logger.warning("copy of a sent message stays", extra={"facts": {"messages": len(left)}})
        if self._smtp is not None:
            await self._smtp.aclose()
        await self.graph.aclose()
        self.threads.close()

    # Sending.

    def kept(self) -> Kept:
        """A file for a message on its way."""
        return Kept(self.threads, lambda: self._context.state_dir)

    async def deliver(self, message: Kept, header: bytes, body_at: int) -> Receipt:
        """Send MIME with this header, whose body begins at ``body_at`` of ``message``."""
        octets = len(header) + message.octets - body_at
        if octets > WHOLE_OCTETS and self.options.large == "refuse":
            detail = (
                f"{octets} octets with the header, and Graph takes {WHOLE_OCTETS} in one piece (GRAPH_LARGE=refuse)"
            )
            raise Refused(552, "5.3.4", f"message is larger than {WHOLE_OCTETS} octets", detail=detail)
        if octets > WHOLE_OCTETS:
            return await self._as_draft(message, header, body_at)

        async def pieces() -> AsyncIterator[bytes]:
            yield header
            async for piece in message.pieces(body_at):
                yield piece

        body = Body("text/plain", base64_length(octets), lambda: base64_of(pieces()))
        self.graph.pace.upload(body.length)
        if self.options.save_to_sent:
            await self.graph.ask("sendMail", "POST", "/sendMail", body, good=(202,), sends=True)
            return Receipt("202 Accepted by sendMail")
        draft = str((await self.graph.ask("a draft", "POST", "/messages", body, good=(201,)))["id"])
        return await self._send_draft(draft)

    async def _as_draft(self, message: Kept, header: bytes, body_at: int) -> Receipt:
        maker = Draft(self.graph, self.threads, lambda: self._context.state_dir, self.logger)
        made: list[str] = []
        try:
            draft = await maker.fill(message, header, body_at, made.append)
        except BaseException:
            for each in made:
                await self._discard(each)
            raise
        return await self._send_draft(draft)

    async def _send_draft(self, draft: str) -> Receipt:
        try:
            await self.graph.ask("send", "POST", f"/messages/{quoted(draft)}/send", good=(202,), sends=True)
        except Disconnected as lost:
            if not await self._was_sent(draft, _SETTLING_SECONDS):
                await self._discard(draft)
                raise
            self.logger.info("answer lost, message sent", extra={"facts": {"cause": str(lost)}})
        except BaseException:
            await self._discard(draft)
            raise
        if not self.options.save_to_sent:
            task = asyncio.get_running_loop().create_task(self._remove_copy(draft))
            self._copies.add(task)
            task.add_done_callback(self._copies.discard)
        return Receipt("202 Accepted as a draft")

    async def _was_sent(self, draft: str, delays: Sequence[float]) -> bool:
        """Whether it is no draft any more. A message keeps its id when it is sent."""
        for delay in delays:
            await asyncio.sleep(delay)
            with suppress(Failure):
                shown = await self.graph.ask("its state", "GET", f"/messages/{quoted(draft)}?$select=isDraft")
                if shown.get("isDraft") is False:
                    return True
        return False

    async def _remove_copy(self, draft: str) -> None:
        cause = "it still shows as a draft"
        try:
            if await self._was_sent(draft, _COPY_SECONDS):
                await remove(self.graph, draft)
                return
        except Failure as failure:
            cause = str(failure)
        self.logger.warning("copy of a sent message stays", extra={"facts": {"cause": cause}})

    async def _discard(self, draft: str) -> None:
        """Remove a draft that was not sent. It must not stay, as somebody could send it."""
        with anyio.CancelScope(shield=True):
            try:
                await self.graph.ask("removing a draft", "DELETE", f"/messages/{quoted(draft)}", good=(204, 404))
            except Failure as failure:
                self.logger.warning("draft that was not sent stays", extra={"facts": {"cause": str(failure)}})

    @asynccontextmanager
    async def by_smtp(
        self, client: Client, reverse_path: str, parameters: Parameters, recipients: Sequence[tuple[str, Parameters]]
    ) -> AsyncIterator[Transaction | None]:
        """A transaction of the account's SMTP server, for a large message; ``None`` if that is not wanted."""
        if self._smtp is None:
            yield None
            return
        async with self._smtp.transaction(client, reverse_path, parameters) as transaction:
            for path, own in recipients:
                await transaction.add_recipient(path, own)
            yield transaction


class _Transaction:
    def __init__(self, relay: GraphRelay, client: Client, reverse_path: str, parameters: Parameters) -> None:
        self._relay = relay
        self._opened = client, reverse_path, parameters
        self._recipients: list[tuple[str, Parameters]] = []

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        """Graph gives no verdict on a single recipient, so only what it never takes is refused here."""
        local, _, domain = forward_path.rpartition("@")
        if not local or not domain:
            raise Refused(550, "5.1.3", "a recipient needs a domain here")
        if len(self._recipients) >= MOST_RECIPIENTS:
            raise Refused(452, "4.5.3", f"Microsoft takes {MOST_RECIPIENTS} recipients of a message")
        self._recipients.append((forward_path, parameters))

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        relay = self._relay
        async with AsyncExitStack() as stack:
            message = await stack.enter_async_context(relay.kept())
            async for piece in content:
                await message.write(piece)
                if relay.options.large == "refuse" and message.octets > WHOLE_OCTETS:
                    detail = f"more than {WHOLE_OCTETS} octets, which Graph does not take (GRAPH_LARGE=refuse)"
                    raise Refused(552, "5.3.4", f"message is larger than {WHOLE_OCTETS} octets", detail=detail)
            await message.flush()
            if message.octets > WHOLE_OCTETS:
                other = relay.by_smtp(*self._opened, self._recipients)
                transaction = await stack.enter_async_context(other)
                if transaction is not None:
                    return await transaction.send(message.pieces())
            header, body_at = await self._header(message)
            try:
                return await relay.deliver(message, header, body_at)
            except GraphRefusal as refusal:
                raise verdict(refusal) from refusal

    async def _header(self, message: Kept) -> tuple[bytes, int]:
        """The header block with the blank line, made to say what the envelope says; and where the body begins."""
        start = await message.read(0, _HEADER_OCTETS)
        end = 0 if start.startswith(b"\r\n") else start.find(b"\r\n\r\n") + 2
        if end == 1:
            if len(start) == _HEADER_OCTETS:
                raise Refused(552, "5.3.4", f"the header is larger than {_HEADER_OCTETS} octets")
            end = len(start)
        header = Header(start[:end])
        address_header(header, [path for path, _ in self._recipients])
        _, reverse_path, _ = self._opened
        if reverse_path == NULL_REVERSE_PATH and "X-Auto-Response-Suppress" not in header:
            # Graph sends in the mailbox's name, so notifications could be answered for ever. Exchange heeds this.
            header.add("X-Auto-Response-Suppress", "All")
        return header.octets + b"\r\n", min(end + 2, message.octets)
