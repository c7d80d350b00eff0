"""`WholeMessageRelay` turns a `deliver` of one line into a relay that keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from legacy_email_proxy.contracts import Client, Message, Refused, WholeMessageRelay
from legacy_email_proxy.testing import Delivered, RelaySuite, context_for


class MemoryRelay(WholeMessageRelay):
    messages: ClassVar[list[Message]]

    async def deliver(self, message: Message) -> None:
        if b"Subject: refuse me\r\n" in message.content:
            raise Refused(550, "5.7.1", "no such mail here")
        self.messages.append(message)


class TestMemoryRelay(RelaySuite):
    @pytest.fixture
    async def relay(self, tmp_path: Path) -> AsyncIterator[MemoryRelay]:
        relay = MemoryRelay(context_for(MemoryRelay, tmp_path))
        MemoryRelay.messages = []
        yield relay
        await relay.aclose()

    @pytest.fixture
    def delivered(self, relay: MemoryRelay) -> Callable[[], Awaitable[Sequence[Delivered]]]:
        async def look() -> Sequence[Delivered]:
            return [Delivered(each.content, each.reverse_path, each.forward_paths) for each in relay.messages]

        return look

    async def test_verdict_on_the_message_passes(self, relay: MemoryRelay) -> None:
        async def content() -> AsyncIterator[bytes]:
            yield b"Subject: refuse me\r\n\r\n"

        async def send() -> None:
            async with relay.transaction(Client("192.0.2.1", "s"), "", {}) as transaction:
                await transaction.add_recipient("a@example.test", {})
                await transaction.send(content())

        with pytest.raises(Refused, match="no such mail here"):
            await send()
        assert relay.messages == []
