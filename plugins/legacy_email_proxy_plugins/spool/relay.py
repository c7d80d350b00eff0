"""The relay of ``RELAY_PLUGIN=spool``: takes responsibility itself, and hands on when the backend is ready."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from legacy_email_proxy.contracts import (
    Client,
    Context,
    Failure,
    Finding,
    Level,
    Parameters,
    QueueAction,
    Receipt,
    RelayCapabilities,
    StorageFull,
    Transaction,
)

from .control import Control, ask
from .delivery import Delivery, steady_clock
from .message import Submission
from .options import Options
from .relational import LOOK_AT
from .schedule import JITTER
from .store import Room, Store
from .stores import store_of
from .workbench import Workbench

__all__ = ("SpoolRelay",)

_ROOM_FACTOR = 1.5


class SpoolRelay:
    """Stores durably, then delivers through the relay that ``SPOOL_RELAY`` names. See :class:`contracts.Relay`."""

    grace_seconds = 2.0
    """What deliveries that are under way get to come to their end when the service stops."""

    def __init__(self, context: Context) -> None:
        self._options = Options.from_context(context)
        self._socket = context.settings["STATE_DIR"] / "spool.sock"
        self._logger = context.logger
        self._next = context.relay("SPOOL_RELAY")
        self._clock = steady_clock()
        self._new_store: Callable[[], Store] = lambda: store_of(context)
        self._store = self._new_store()
        self._warnings: Sequence[str] = ()
        self._delivery: Delivery | None = None
        self._control: Control | None = None

    async def start(self) -> None:
        """See :meth:`contracts.StartingRelay.start`: take possession of the store, and deliver what waits in it."""
        await self._open(self._store, self._woken)
        if start := getattr(self._next, "start", None):
            await start()
        self._delivery = Delivery(self._store, self._next, self._options, self._logger, clock=self._clock)
        if not self._store.shared:
            workbench = Workbench(self._store, self._clock, self._delivery.wake)
            self._control = Control(self._socket, workbench, self._logger)
            await self._control.start()
        self._delivery.start()
        room = await self._store.room()
        self._logger.info("the spool is open", extra={"facts": {"spool": self._store.name, "messages": room.messages}})

    async def _open(self, store: Store, wake: Callable[[], None] | None) -> None:
        longest = max(self._options.retry_seconds) * (1 + JITTER)
        await store.open(due_before=self._clock() + longest, wake=wake)

    def _woken(self) -> None:
        if self._delivery is not None:
            self._delivery.wake()

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """See :meth:`contracts.Relay.transaction`. Refused at once where a message would not fit."""
        if self._delivery is None:
            raise Failure("the spool is not open")
        self._check(await self._store.room())
        yield _Transaction(self._store, self._delivery, client, reverse_path, parameters, self._clock)

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
        """See :meth:`contracts.Relay.capabilities`: those of the next relay, as far as it knows them by now."""
        return self._next.capabilities()

    async def probe(self) -> Sequence[Finding]:
        """See :meth:`contracts.Relay.probe`: the next relay, and how many messages wait."""
        return [*await self._findings(), *await self._next.probe()]

    async def _findings(self) -> list[Finding]:
        name = f"spool {self._store.name}"
        if not self._store.exists:
            return [Finding(Level.GOOD, f"{name}: does not exist yet and will be made")]
        try:
            states = [item["state"] async for item in self.administer("list", ()) if isinstance(item, Mapping)]
        except Exception as error:
            return [Finding(Level.BAD, f"{name}: {error}")]
        text = f"{name}: {len(states)} messages"
        stuck = sum(state in ("dead", "set aside") for state in states)
        found = Finding(Level.GOOD, text)
        if stuck:
            found = Finding(
                Level.WARNING, f"{text}, {stuck} of them given up", "look with `legacy-email-proxy spool list`"
            )
        return [found, *(Finding(Level.WARNING, f"{name}: {warning}") for warning in self._warnings)]

    async def administer(
        self, action: QueueAction, numbers: Sequence[int]
    ) -> AsyncGenerator[Mapping[str, Any] | bytes, None]:
        """See :meth:`contracts.Queue.administer`: by the service that runs, or, where none has to, by ourselves."""
        if self._delivery is not None:
            async for answer in Workbench(self._store, self._clock, self._delivery.wake).do(action, numbers):
                yield answer
            return
        if not self._store.shared:
            try:
                async for answer in ask(self._socket, action, numbers):
                    yield answer
                return
            except (FileNotFoundError, ConnectionRefusedError):
                pass
        # Opening takes the lock, if there is one, that a service holds: one that runs without answering is never
        # disturbed.
        store = self._new_store()
        await self._open(store, None)
        self._warnings = store.warnings
        try:
            async for answer in Workbench(store, self._clock, lambda: None).do(action, numbers):
                yield answer
        finally:
            await store.aclose()

    async def aclose(self) -> None:
        """See :meth:`contracts.Relay.aclose`."""
        if self._control is not None:
            await self._control.aclose()
        if self._delivery is not None:
            await self._delivery.stop(self.grace_seconds)
        await self._next.aclose()
        await self._store.aclose()


class _Transaction:
    def __init__(
        self,
        store: Store,
        delivery: Delivery,
        client: Client,
        reverse_path: str,
        parameters: Parameters,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._delivery = delivery
        self._client = client
        self._reverse_path = reverse_path
        self._parameters = parameters
        self._clock = clock
        self._recipients: list[tuple[str, Parameters]] = []

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        self._recipients.append((forward_path, parameters))

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        incoming = self._store.receive()
        try:
            async for piece in content:
                await incoming.write(piece)
            submission = Submission(self._client, self._reverse_path, self._parameters, self._recipients, self._clock())
            message = await incoming.commit(submission)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await incoming.discard()
            raise
        self._delivery.offer(message)
        return Receipt(f"spooled as message {message.number}")
