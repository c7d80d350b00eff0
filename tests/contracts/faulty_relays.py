"""Relays that break one promise each. `test_suites` runs them: every class here but the good one must fail.

A class names, in `breaks`, the tests that must tell of its fault. Only those are run, and all of them on the good one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import anyio
import pytest

from contracts.memory import MemoryRelay, MemoryTransaction
from legacy_email_proxy.contracts import Client, Finding, Parameters, Receipt, Refused
from legacy_email_proxy.contracts import Transaction as AnyTransaction
from legacy_email_proxy.testing import Delivered, RelaySuite


class Relays(RelaySuite):
    seconds = 0.5
    breaks: ClassVar[tuple[str, ...]] = ()
    relays: ClassVar[type[MemoryRelay]] = MemoryRelay
    transactions: ClassVar[type[MemoryTransaction]] = MemoryTransaction

    @pytest.fixture
    async def relay(self) -> MemoryRelay:
        relay = self.relays()
        relay.transactions = self.transactions
        return relay

    @pytest.fixture
    def delivered(self, relay: MemoryRelay) -> Callable[[], Awaitable[Sequence[Delivered]]]:
        async def look() -> Sequence[Delivered]:
            return relay.delivered

        return look


class TestGoodRelay(Relays):
    seconds = 10.0


class TestStuffsDots(Relays):
    breaks = ("test_content_arrives_octet_for_octet",)

    class transactions(MemoryTransaction):
        async def deliver(self, content: bytes) -> None:
            await super().deliver(content.replace(b"\r\n.", b"\r\n.."))


class TestDropsNUL(Relays):
    breaks = ("test_content_arrives_octet_for_octet",)

    class transactions(MemoryTransaction):
        async def deliver(self, content: bytes) -> None:
            await super().deliver(content.replace(b"\0", b""))


class TestStopsAtAnEmptyPiece(Relays):
    breaks = ("test_empty_pieces_end_nothing",)

    class transactions(MemoryTransaction):
        async def send(self, content: AsyncIterator[bytes]) -> Receipt:
            collected = b""
            async for piece in content:
                if not piece:
                    break
                collected += piece
            await self.deliver(collected)
            return Receipt()


class TestCutsLargeMessages(Relays):
    breaks = ("test_large_message_arrives_whole",)

    class transactions(MemoryTransaction):
        async def deliver(self, content: bytes) -> None:
            await super().deliver(content[: 2**20])


class TestGivesNoReceipt(Relays):
    breaks = ("test_content_arrives_octet_for_octet",)

    class transactions(MemoryTransaction):
        async def send(self, content: AsyncIterator[bytes]) -> Receipt:
            await super().send(content)
            return None  # type: ignore[return-value]  # that is the fault


class TestForgetsTheReversePath(Relays):
    breaks = ("test_every_recipient_gets_the_message_once",)

    class transactions(MemoryTransaction):
        async def deliver(self, content: bytes) -> None:
            self.reverse_path = ""
            await super().deliver(content)


class TestWritesTheNullPathInBrackets(Relays):
    breaks = ("test_null_reverse_path",)

    class transactions(MemoryTransaction):
        async def deliver(self, content: bytes) -> None:
            self.reverse_path = self.reverse_path or "<>"
            await super().deliver(content)


class TestKnowsNoWishes(Relays):
    breaks = ("test_wishes_that_were_not_offered_spoil_nothing",)

    class transactions(MemoryTransaction):
        async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
            if parameters:
                raise Refused(555, "5.5.4", "Parameter not recognized")
            await super().add_recipient(forward_path, parameters)


class TestServesTheFirstRecipient(Relays):
    breaks = ("test_every_recipient_gets_the_message_once",)

    class transactions(MemoryTransaction):
        async def deliver(self, content: bytes) -> None:
            del self.forward_paths[1:]
            await super().deliver(content)


class TestDeliversTwice(Relays):
    breaks = ("test_content_arrives_octet_for_octet", "test_message_after_message")

    class transactions(MemoryTransaction):
        async def deliver(self, content: bytes) -> None:
            await super().deliver(content)
            await super().deliver(content)


class TestDeliversWhenLeft(Relays):
    breaks = (
        "test_leaving_without_send_delivers_nothing",
        "test_exception_before_send_passes_and_delivers_nothing",
    )

    class relays(MemoryRelay):
        @asynccontextmanager
        async def transaction(
            self, client: Client, reverse_path: str, parameters: Parameters
        ) -> AsyncIterator[AnyTransaction]:
            transaction = MemoryTransaction(self, reverse_path)
            before = len(self.delivered)
            try:
                yield transaction
            finally:
                if len(self.delivered) == before:
                    await transaction.deliver(b"")


class TestSwallowsWhatTheBodyRaises(Relays):
    breaks = ("test_exception_before_send_passes_and_delivers_nothing",)

    class relays(MemoryRelay):
        @asynccontextmanager
        async def transaction(
            self, client: Client, reverse_path: str, parameters: Parameters
        ) -> AsyncIterator[AnyTransaction]:
            try:
                yield MemoryTransaction(self, reverse_path)
            except Exception:
                return


class TestDeliversWhatThereIs(Relays):
    breaks = (
        "test_content_that_raises_passes_and_delivers_nothing",
        "test_cancelled_before_the_end_delivers_nothing",
    )

    class transactions(MemoryTransaction):
        async def send(self, content: AsyncIterator[bytes]) -> Receipt:
            collected = b""
            try:
                async for piece in content:
                    collected += piece
            finally:
                await self.deliver(collected)
            return Receipt()


class TestSwallowsWhatTheContentRaises(Relays):
    breaks = ("test_content_that_raises_passes_and_delivers_nothing",)

    class transactions(MemoryTransaction):
        async def send(self, content: AsyncIterator[bytes]) -> Receipt:
            try:
                return await super().send(content)
            except Exception:
                return Receipt()


class TestMixesTransactions(Relays):
    breaks = ("test_transactions_at_once_do_not_mix",)
    shared: ClassVar[list[bytes]] = []

    class transactions(MemoryTransaction):
        async def send(self, content: AsyncIterator[bytes]) -> Receipt:
            async for piece in content:
                TestMixesTransactions.shared.append(piece)
            await self.deliver(b"".join(TestMixesTransactions.shared))
            TestMixesTransactions.shared.clear()
            return Receipt()


class TestOneAtATime(Relays):
    breaks = ("test_a_slow_device_holds_up_nobody",)

    class relays(MemoryRelay):
        def __init__(self) -> None:
            super().__init__()
            self.lock = anyio.Lock()

        @asynccontextmanager
        async def transaction(
            self, client: Client, reverse_path: str, parameters: Parameters
        ) -> AsyncIterator[AnyTransaction]:
            async with self.lock:
                yield MemoryTransaction(self, reverse_path)


class TestWorksOnce(Relays):
    breaks = ("test_message_after_message",)

    class transactions(MemoryTransaction):
        async def deliver(self, content: bytes) -> None:
            if not self.relay.delivered:
                await super().deliver(content)


class TestAsksForItsCapabilities(Relays):
    breaks = ("test_capabilities_answer_from_memory",)

    class relays(MemoryRelay):
        async def capabilities(self) -> Any:  # type: ignore[override]  # that is the fault
            return None


class TestProbeRaises(Relays):
    breaks = ("test_probe_gives_findings_and_sends_nothing",)

    class relays(MemoryRelay):
        async def probe(self) -> Sequence[Finding]:
            raise OSError


class TestProbeSends(Relays):
    breaks = ("test_probe_gives_findings_and_sends_nothing",)

    class relays(MemoryRelay):
        async def probe(self) -> Sequence[Finding]:
            self.delivered.append(Delivered(b"test mail"))
            return ()
