"""The relay of ``RELAY_PLUGIN=spool``: takes responsibility itself, and hands on when the backend is ready.

It is a relay like any other, with the next relay inside it: the SMTP leg does not know whether 250 means a provider or
our disk. Two methods more than others it has: ``start``, to work without a device, and ``administer``, for the
``spool`` command. What stands before it has been done once when a message is in it (rules, filters, allowed addresses).
What stands behind it is each account's own (messages per minute, connections, credentials).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from socket import gethostname
from typing import Any, Literal

import anyio

from legacy_email_proxy.contracts import (
    Client,
    Context,
    Failure,
    Figure,
    Finding,
    Level,
    Parameters,
    QueueAction,
    Receipt,
    RelayCapabilities,
    StorageFull,
    Transaction,
)

from .admin import ask, backed_up
from .delivery import Delivery
from .message import State, Submission
from .settings import Options, Place
from .spool import Spool
from .sql_store import LOOK_AT
from .store import Room

__all__ = ("SpoolRelay",)

_ROOM_FACTOR = 1.5
_NOBODY_THERE = (FileNotFoundError, ConnectionRefusedError)


class SpoolRelay:
    """Stores durably, then delivers through the relay that ``SPOOL_RELAY`` names. See :class:`contracts.Relay`."""

    grace_seconds = 2.0
    """What deliveries that are under way get to come to their end when the service stops."""

    def __init__(self, context: Context) -> None:
        self._options = Options.from_context(context)
        self._account = context.account
        self._logger = context.logger
        self._next = context.relay("SPOOL_RELAY")
        everybodys = logging.getLogger(context.logger.name.removesuffix(f".{context.account}"))
        self._spool = Spool.at(Place.from_context(context), everybodys)
        self._delivery: Delivery | None = None

    @property
    def queue_name(self) -> str:
        """See :attr:`contracts.Queue.queue_name`."""
        return self._spool.place.name

    async def start(self) -> None:
        """See :meth:`contracts.StartingRelay.start`: take possession of the store, and deliver what waits in it."""
        if start := getattr(self._next, "start", None):
            await start()
        self._delivery = await self._spool.join(self._account, self._next, self._options, self._logger)

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """See :meth:`contracts.Relay.transaction`. Refused at once where a message would not fit."""
        if self._delivery is None:
            raise Failure("the spool is not open")
        self._check(await self._spool.store.room())
        yield _Transaction(self._spool, self._delivery, client, reverse_path, parameters)

    def _check(self, room: Room) -> None:
        if room.octets >= self._options.max_octets:
            raise StorageFull(f"{room.octets} octets of mail wait in the spool", look_at="SPOOL_MAX_OCTETS")
        needed = _ROOM_FACTOR * self._options.message_octets
        if room.free_octets is not None and room.free_octets < needed:
            raise StorageFull(
                f"only {room.free_octets // 2**20} MiB are free on the disk of the spool, and {needed / 2**20:.0f} are"
                " needed so that a large message fits",
                look_at=LOOK_AT,
            )

    def capabilities(self) -> RelayCapabilities:
        """See :meth:`contracts.Relay.capabilities`: those of the next relay. What it turns out not to take after all
        comes back as a notification.
        """
        return self._next.capabilities()

    async def figures(self) -> Sequence[Figure]:
        """See :meth:`contracts.Observed.figures`: the spool's and those of the next relay."""
        counted = await self._spool.counts(self._account)
        messages = dict.fromkeys(State, 0) | {one.state: one.messages for one in counted}
        found = [
            Figure("spool_messages", count, {"state": state.replace(" ", "_")}) for state, count in messages.items()
        ]
        since = min((one.oldest for one in counted if one.state is State.QUEUED), default=math.inf)
        found.append(Figure("spool_oldest_seconds", max(0.0, self._spool.clock() - since)))
        found.append(Figure("spool_room_octets", self._left(await self._spool.store.room())))
        theirs = getattr(self._next, "figures", None)
        return [*found, *(await theirs() if theirs is not None else ())]

    def _left(self, room: Room) -> float:
        """How many octets more are taken, as :meth:`_check` judges it."""
        left = float(self._options.max_octets - room.octets)
        if room.free_octets is not None:
            left = min(left, room.free_octets - _ROOM_FACTOR * self._options.message_octets)
        return left

    async def probe(self) -> Sequence[Finding]:
        """See :meth:`contracts.Relay.probe`: the next relay, and how many messages wait."""
        return [*await self._findings(), *await self._next.probe()]

    async def _findings(self) -> list[Finding]:
        name = f"spool {self._spool.place.name}"
        if self._delivery is not None:
            messages = sum(one.messages for one in await self._spool.counts(self._account))
            return [Finding(Level.GOOD, f"{name}: {messages} messages")]
        if not self._spool.place.exists:
            obstacle = self._spool.place.obstacle
            if obstacle:
                advice = f"name another in STATE_DIR or {LOOK_AT}; in a container it has to be a volume"
                return [Finding(Level.BAD, f"{name}: can not be made: {obstacle}", advice)]
            return [Finding(Level.GOOD, f"{name}: does not exist yet and will be made")]
        try:
            items = [item async for item in self.administer("list", ()) if isinstance(item, Mapping)]
        except Exception as error:
            return [Finding(Level.BAD, f"{name}: {error}")]
        states = [item["state"] for item in items if item["account"] == self._account]
        found = Finding(Level.GOOD, f"{name}: {len(states)} messages")
        stuck = sum(state in ("dead", "set aside") for state in states)
        if stuck:
            advice = "look with `legacy-email-proxy spool list`"
            found = Finding(Level.WARNING, f"{found.text}, {stuck} of them given up", advice)
        return [found, *(Finding(Level.WARNING, f"{name}: {warning}") for warning in self._spool.warnings)]

    async def administer(
        self, action: QueueAction, numbers: Sequence[int]
    ) -> AsyncGenerator[Mapping[str, Any] | bytes, None]:
        """See :meth:`contracts.Queue.administer`: by the service that runs, or, where none has to, by ourselves."""
        try:
            async for answer in self._asked(action, numbers):
                yield answer
            return
        except _NOBODY_THERE:
            pass
        # Opening a file takes the lock that a service holds: one that runs without answering is never disturbed.
        async with self._spool.opened() as workbench:
            by = f"user {os.getuid()}, process {os.getpid()}, host {gethostname()}"
            async for answer in workbench.do(action, numbers, by):
                yield answer

    async def back_up(self, folder: Path) -> Mapping[str, Any]:
        """See :meth:`contracts.BackedUpQueue.back_up`: by the same as above."""
        with suppress(*_NOBODY_THERE):
            async with aclosing(self._asked("backup", (), folder)) as answers:
                answer = await anext(answers)
                assert isinstance(answer, Mapping)  # noqa: S101 (for the type checker)
                return answer
        async with self._spool.opened() as workbench:
            return await workbench.back_up(folder)

    async def restore(self, folder: Path) -> Mapping[str, Any]:
        """See :meth:`contracts.BackedUpQueue.restore`."""
        return backed_up("restore", folder, await self._spool.place.store(self._logger).restore(folder))

    async def _asked(
        self, action: QueueAction | Literal["backup"], numbers: Sequence[int], folder: Path | None = None
    ) -> AsyncGenerator[Mapping[str, Any] | bytes, None]:
        """What another process answers that has the spool open. Raises one of :data:`_NOBODY_THERE`, or Failure."""
        socket = self._spool.place.socket
        if self._delivery is not None or socket is None:
            raise FileNotFoundError
        try:
            async for answer in ask(socket, action, numbers, folder=folder):
                yield answer
        except _NOBODY_THERE:
            raise
        except OSError as error:
            raise Failure(f"the service can not be reached: {socket}: {error.strerror}") from None

    async def aclose(self) -> None:
        """See :meth:`contracts.Relay.aclose`."""
        delivery, self._delivery = self._delivery, None
        if delivery is None:
            await self._next.aclose()
        else:
            await self._spool.part(delivery, self._next, self.grace_seconds)


class _Transaction:
    def __init__(
        self, spool: Spool, delivery: Delivery, client: Client, reverse_path: str, parameters: Parameters
    ) -> None:
        self._spool = spool
        self._delivery = delivery
        self._client = client
        self._reverse_path = reverse_path
        self._parameters = parameters
        self._recipients: list[tuple[str, Parameters]] = []

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        self._recipients.append((forward_path, parameters))

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        incoming = self._spool.store.receive()
        try:
            async for piece in content:
                await incoming.write(piece)
            submission = Submission(
                self._delivery.account, self._client, self._reverse_path, self._parameters, self._recipients,
                self._spool.clock(),
            )  # fmt: skip
            message = await incoming.commit(submission)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await incoming.discard()
            raise
        self._delivery.offer(message)
        return Receipt(f"spooled as message {message.number}", str(message.number), spooled=True)
