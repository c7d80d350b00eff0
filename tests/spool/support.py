"""A spool in front of a backend that does what the test says, and one mail transaction in one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from legacy_email_proxy.contracts import (
    Client,
    Context,
    Parameters,
    QueueFilter,
    Receipt,
    RelayCapabilities,
    Transaction,
)
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy.testing import context_for
from legacy_email_proxy_plugins.spool import SpoolRelay
from spool.stores import SQLite, TestedStore

store: TestedStore = SQLite()
"""What a spool uses that names no other store; the fixture of the same name sets it."""

CLIENT = Client("192.0.2.9", "s1", "scanner", "printer", 25)
SENDER, RECIPIENT = "scanner@example.test", "bob@example.test"
CONTENT = b"From: scanner@example.test\r\nSubject: scan\r\n\r\n.dots\r\n..\r\nbye\r\n"


@dataclass(frozen=True)
class Delivered:
    """What the backend said 250 to."""

    reverse_path: str
    forward_paths: tuple[str, ...]
    content: bytes
    parameters: Parameters


@dataclass
class Backend:
    """A relay that keeps what it gets. Each of ``sender``, ``recipient``, ``before_dot`` and ``after_dot`` may raise.

    What the last one raises comes when the message has been delivered already.
    """

    sender: Callable[[str], None] = lambda _: None
    recipient: Callable[[str], None] = lambda _: None
    before_dot: Callable[[bytes], Awaitable[None] | None] = lambda _: None
    after_dot: Callable[[bytes], None] = lambda _: None
    delivered: list[Delivered] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    max_octets: int | None = None
    keep: bool = True
    closed: bool = False

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        self.tried.append(reverse_path)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            self.sender(reverse_path)
            yield _Transaction(self, reverse_path, parameters)
        finally:
            self.at_once -= 1

    def capabilities(self) -> RelayCapabilities:
        return RelayCapabilities(self.max_octets)

    async def probe(self) -> Sequence[Any]:
        return ()

    async def aclose(self) -> None:
        self.closed = True

    @property
    def contents(self) -> list[bytes]:
        return [each.content for each in self.delivered]


class _Transaction:
    def __init__(self, backend: Backend, reverse_path: str, parameters: Parameters) -> None:
        self._backend = backend
        self._reverse_path = reverse_path
        self._parameters = parameters
        self._forward_paths: list[str] = []

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        self._backend.recipient(forward_path)
        self._forward_paths.append(forward_path)

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        pieces = []
        async for piece in content:
            pieces.append(piece if self._backend.keep else b"")
        whole = b"".join(pieces)
        wait = self._backend.before_dot(whole)
        if wait is not None:
            await wait
        delivered = Delivered(self._reverse_path, tuple(self._forward_paths), whole, self._parameters)
        self._backend.delivered.append(delivered)
        self._backend.after_dot(whole)
        return Receipt("250 2.0.0 taken")


class Clock:
    """A wall clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class SpoolContext:
    """The context that the service would hand to the spool, but for the next relay, which is ours."""

    def __init__(self, state_dir: Path, backend: Any, account: str, **variables: str) -> None:
        context = cast(PluginContext, context_for(SpoolRelay, state_dir, **variables))
        self._context: Context = replace(context, account=account)
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def relay(self, variable: str) -> Any:
        assert variable == "SPOOL_RELAY"
        return self._backend


def spool_to(backend: Any, state_dir: Path, account: str = "", **variables: str) -> SpoolRelay:
    """A spool that is not started."""
    return SpoolRelay(SpoolContext(state_dir, backend, account, **{**store.variables, **variables}))


@asynccontextmanager
async def spooling(backend: Any, state_dir: Path, account: str = "", **variables: str) -> AsyncIterator[SpoolRelay]:
    """A spool that works; at the end it is stopped, and leaves no task behind."""
    before = asyncio.all_tasks()
    spool = spool_to(backend, state_dir, account, **variables)
    spool.grace_seconds = 0.05
    await spool.start()
    try:
        yield spool
    finally:
        await spool.aclose()
    await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() - before if "TestRunner." not in repr(task)]
    assert not left, left


async def pieces(content: bytes, octets: int = 50_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), octets):
        yield content[start : start + octets]


async def send(
    spool: SpoolRelay,
    *forward_paths: str,
    content: bytes | AsyncIterator[bytes] = CONTENT,
    reverse_path: str = SENDER,
    parameters: Parameters | None = None,
    recipient_parameters: Parameters | None = None,
) -> Receipt:
    """One transaction, as the core leads it."""
    async with spool.transaction(CLIENT, reverse_path, parameters or {}) as transaction:
        for forward_path in forward_paths or (RECIPIENT,):
            await transaction.add_recipient(forward_path, recipient_parameters or {})
        return await transaction.send(pieces(content) if isinstance(content, bytes) else content)


async def listed(spool: SpoolRelay, wanted: QueueFilter | None = None) -> list[Mapping[str, Any]]:
    return [item async for item in spool.listed(wanted or QueueFilter())]


async def operate(spool: SpoolRelay, action: Any, *numbers: int) -> list[Any]:
    return [item async for item in spool.administer(action, numbers)]


async def until_states(spool: SpoolRelay, *states: str, seconds: float = 50.0) -> list[Mapping[str, Any]]:
    """Wait until exactly messages in these states are there."""
    with anyio.fail_after(seconds):
        while True:
            items = await listed(spool)
            if sorted(each["state"] for each in items) == sorted(states):
                return items
            await anyio.sleep(0.01)


SQLITE = pytest.mark.parametrize("store", ["sqlite"], indirect=True)
"""For a test of what only this store has."""


async def until_tries(spool: SpoolRelay, count: int) -> Mapping[str, Any]:
    """Wait until the first message has been tried so often."""
    with anyio.fail_after(50):
        while True:
            item = (await listed(spool))[0]
            if item["tries"] >= count:
                return item
            await anyio.sleep(0.005)


def bodies(state_dir: Path) -> Sequence[Any]:
    return store.bodies(state_dir)


def raises(failures: Iterable[Exception | None]) -> Callable[[Any], None]:
    """Raises the next of these at each call; ``None`` raises nothing, and so does every call after the last."""
    left = iter(failures)

    def call(_: Any) -> None:
        if failure := next(left, None):
            raise failure

    return call
