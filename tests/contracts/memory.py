"""A relay and a maildrop in memory that keep the contracts: what the faulty ones are made from."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import anyio

from legacy_email_proxy.contracts import (
    Client,
    Entry,
    Finding,
    Login,
    MaildropSession,
    MessageGone,
    Parameters,
    Receipt,
    RelayCapabilities,
    Transaction,
)
from legacy_email_proxy.testing import Delivered


class MemoryTransaction:
    def __init__(self, relay: MemoryRelay, reverse_path: str) -> None:
        self.relay = relay
        self.reverse_path = reverse_path
        self.forward_paths: list[str] = []

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        self.forward_paths.append(forward_path)

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        await self.deliver(b"".join([piece async for piece in content]))
        return Receipt()

    async def deliver(self, content: bytes) -> None:
        self.relay.delivered.append(Delivered(content, self.reverse_path, tuple(self.forward_paths)))


class MemoryRelay:
    transactions = MemoryTransaction

    def __init__(self) -> None:
        self.delivered: list[Delivered] = []

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        yield self.transactions(self, reverse_path)

    def capabilities(self) -> RelayCapabilities:
        return RelayCapabilities()

    async def probe(self) -> Sequence[Finding]:
        return ()

    async def aclose(self) -> None:
        pass


class MemorySession:
    def __init__(self, maildrop: MemoryMaildrop) -> None:
        self.maildrop = maildrop
        self.entries: Sequence[Entry] = self.list()

    def list(self) -> Sequence[Entry]:
        return [
            Entry(self.unique_id(number, message), len(message)) for number, message in self.maildrop.messages.items()
        ]

    def unique_id(self, number: int, message: bytes) -> str:
        return hashlib.sha256(str(number).encode()).hexdigest()[:20]

    def number(self, unique_id: str) -> int | None:
        found = (n for n, message in self.maildrop.messages.items() if self.unique_id(n, message) == unique_id)
        return next(found, None)

    async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
        number = self.number(unique_id)
        if number is None:
            raise MessageGone(unique_id)
        message = self.maildrop.messages[number]
        for start in range(0, len(message), 65536):
            await anyio.lowlevel.checkpoint()
            yield message[start : start + 65536]

    def top(self, unique_id: str, lines: int) -> AsyncGenerator[bytes, None]:
        return self.retrieve(unique_id)

    async def commit(self, deleted: Collection[str]) -> None:
        for unique_id in deleted:
            number = self.number(unique_id)
            if number is not None:
                del self.maildrop.messages[number]


class MemoryMaildrop:
    sessions = MemorySession

    def __init__(self) -> None:
        self.messages: dict[int, bytes] = {}
        self.count = 0

    def add(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            self.count += 1
            self.messages[self.count] = message

    @asynccontextmanager
    async def open(self, client: Client, login: Login | None) -> AsyncIterator[MaildropSession]:
        yield self.sessions(self)

    async def probe(self) -> Sequence[Finding]:
        return ()

    async def aclose(self) -> None:
        pass
