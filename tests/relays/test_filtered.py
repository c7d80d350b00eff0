"""What an account's own filters refuse is never accepted, whatever the relay behind them makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import pytest

from legacy_email_proxy.contracts import Client, Envelope, Failure, Filter, Header, Receipt, Refused, Transaction
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy.relays.filtered import FilteredRelay
from smtp.relays import MemoryRelay

CONTEXT = PluginContext("filter.x", {})
CLIENT = Client("192.168.1.7", "s12", "scanner")


class Refusing(Filter):
    async def header(self, envelope: Envelope, header: Header) -> None:
        raise Refused(554, "5.7.1", "not this one")


class Careless:
    """A transaction that takes a content that fails for one that ends, or reads none of it."""

    def __init__(self, reads: bool) -> None:
        self._reads = reads

    async def add_recipient(self, forward_path: str, parameters: Mapping[str, str | None]) -> None:
        pass

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        if self._reads:
            with suppress(Exception):
                async for _ in content:
                    pass
        return Receipt("taken")


class CarelessRelay(MemoryRelay):
    reads = True

    @asynccontextmanager
    async def transaction(  # type: ignore[override]
        self, client: Client, reverse_path: str, parameters: Mapping[str, str | None]
    ) -> AsyncIterator[Transaction]:
        yield Careless(self.reads)


async def pieces() -> AsyncIterator[bytes]:
    yield b"Subject: x\r\n\r\ntext\r\n"


async def test_a_filter_that_refuses_half_way() -> None:
    relay = FilteredRelay(CarelessRelay(), {"refusing": Refusing(CONTEXT)})
    async with relay.transaction(CLIENT, "a@b", {}) as transaction:
        with pytest.raises(Refused, match="not this one"):
            await transaction.send(pieces())


async def test_a_relay_that_did_not_read_the_whole_message() -> None:
    inner = CarelessRelay()
    inner.reads = False
    async with FilteredRelay(inner, {"open": Filter(CONTEXT)}).transaction(CLIENT, "a@b", {}) as transaction:
        with pytest.raises(Failure, match="before it had read the whole message"):
            await transaction.send(pieces())
