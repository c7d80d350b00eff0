"""The relay of ``RELAY_PLUGIN=spool``: it stores a message durably, and delivers it later through the next relay.

The SMTP leg does not know whether 250 means that a provider or that our disk has the message. This relay has two more
methods than others: ``start``, because it delivers without a device, and ``administer``, for the ``spool`` command.
Rules, filters and allowed addresses are applied before a message is stored, so only once. Messages per minute,
connections and credentials belong to the next relay, and apply to each try.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from socket import gethostname
from typing import Any

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
    QueueFilter,
    Receipt,
    RelayCapabilities,
    Secret,
    StorageFull,
    Transaction,
    unwritable,
)

from .admin import backed_up
from .delivery import Delivery
from .message import State, Submission
from .moving import move
from .settings import Options, Place
from .spool import Spool
from .store import InUse, Room

__all__ = ("SpoolRelay",)

_ROOM_FACTOR = 1.5
_NAMELESS = "the spool is in a volume without a name"
_NAME_IT = "its mail is lost when this container is removed: name it, as in -v mail-proxy:/var/lib/legacy-email-proxy"


class SpoolRelay:
    """Stores durably, then delivers through the relay that ``SPOOL_RELAY`` names. See :class:`contracts.Relay`."""

    grace_seconds = 2.0
    """How long running tries may go on when the service stops."""

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
        """See :meth:`contracts.StartingRelay.start`: open the store, and deliver what waits in it."""
        if self._spool.place.nameless:
            facts = {"spool": self._spool.place.name, "advice": _NAME_IT}
            self._logger.warning(_NAMELESS, extra={"facts": facts})
        if start := getattr(self._next, "start", None):
            await start()
        self._delivery = await self._spool.join(self._account, self._next, self._options, self._logger)

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """See :meth:`contracts.Relay.transaction`. Refuses at MAIL when there is no space for a message."""
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
                look_at=self._spool.place.look_at,
            )

    def capabilities(self) -> RelayCapabilities:
        """See :meth:`contracts.Relay.capabilities`: those of the next relay. If that refuses a message later, its
        sender gets a notification.
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
        """See :meth:`contracts.Relay.probe`: the findings of the next relay, and the number of waiting messages."""
        return [*await self._findings(), *await self._next.probe()]

    async def _findings(self) -> list[Finding]:
        name = f"spool {self._spool.place.name}"
        if self._delivery is not None:
            messages = sum(one.messages for one in await self._spool.counts(self._account))
            return [Finding(Level.GOOD, f"{name}: {messages} messages")]
        place = self._spool.place
        if place.path is not None and (obstacle := unwritable(place.path.parent)):
            text, advice = obstacle
            return [Finding(Level.BAD, f"{name}: can not be used: {text}", f"{advice}; or see {place.look_at}")]
        nameless = [Finding(Level.WARNING, f"{name}: {_NAMELESS}", _NAME_IT)] if place.nameless else []
        if not place.exists:
            return [Finding(Level.GOOD, f"{name}: does not exist yet and will be made"), *nameless]
        try:
            counts = await self.counted()
        except InUse as held:
            # The service, as it should be: who wants to know more asks that.
            return [Finding(Level.GOOD, f"{name}: {held.by} has it open"), *nameless]
        except Exception as error:
            return [Finding(Level.BAD, f"{name}: {error}")]
        theirs = {one["state"]: one["messages"] for one in counts if one["account"] == self._account}
        found = Finding(Level.GOOD, f"{name}: {sum(theirs.values())} messages")
        stuck = theirs.get(State.DEAD, 0) + theirs.get(State.SET_ASIDE, 0)
        if stuck:
            advice = "look with `legacy-email-proxy spool list`"
            found = Finding(Level.WARNING, f"{found.text}, {stuck} of them given up", advice)
        return [found, *nameless, *(Finding(Level.WARNING, f"{name}: {warning}") for warning in self._spool.warnings)]

    async def listed(self, wanted: QueueFilter) -> AsyncGenerator[Mapping[str, Any], None]:
        """See :meth:`contracts.Queue.listed`."""
        # This opens the file if it is not open, and fails if another process has its lock. So do the others below.
        async with self._spool.opened() as administration, aclosing(administration.listed(wanted)) as messages:
            async for message in messages:
                yield message

    async def counted(self) -> Sequence[Mapping[str, Any]]:
        """See :meth:`contracts.Queue.counted`."""
        async with self._spool.opened() as administration:
            return await administration.counted()

    async def administer(
        self, action: QueueAction, numbers: Sequence[int], by: str = ""
    ) -> AsyncGenerator[Mapping[str, Any] | bytes, None]:
        """See :meth:`contracts.Queue.administer`."""
        async with self._spool.opened() as administration:
            by = by or f"user {os.getuid()}, process {os.getpid()}, host {gethostname()}"
            async for answer in administration.do(action, numbers, by):
                yield answer

    async def back_up(self, folder: Path) -> Mapping[str, Any]:
        """See :meth:`contracts.BackedUpQueue.back_up`."""
        async with self._spool.opened() as administration:
            return await administration.back_up(folder)

    async def restore(self, folder: Path) -> Mapping[str, Any]:
        """See :meth:`contracts.BackedUpQueue.restore`."""
        return backed_up("restore", folder, await self._spool.place.store(self._logger).restore(folder))

    async def move(self, url: Secret) -> Mapping[str, Any]:
        """See :meth:`contracts.BackedUpQueue.move`."""
        here = self._spool.place
        there = Place.of(url, here.state_dir)
        if there.name == here.name:
            raise Failure(f"the spool is in {here.name} already")
        source, target = here.store(self._logger), there.store(self._logger)
        async with aclosing(source), aclosing(target):
            await source.open(lambda: None)
            await target.open(lambda: None)
            moved = await move(source, target)
        return {"done": "move", "messages": moved.messages, "missing": list(moved.missing), "to": there.name}

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
