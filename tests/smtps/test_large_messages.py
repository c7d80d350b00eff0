"""Promise 7: memory is bounded per connection, not per message, and a backend that stops reading stops the device."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from legacy_email_proxy.contracts import Disconnected
from legacy_email_proxy_plugins.smtps import Timeouts
from realservers.certificates import Certificates
from smtps.support import CHUNKED, PLAIN, SHORT, Dialogue, deliver, relaying

BLOCK = (b"x" * 76 + b"\r\n") * 840
BLOCKS = 50_000_000 // len(BLOCK)
MEBIBYTE = 1 << 20


@pytest.mark.parametrize("dialogue", [PLAIN, CHUNKED], ids=lambda each: each.name)
async def test_50_megabytes_cost_a_few(dialogue: Dialogue, certificates: Certificates) -> None:
    async def content() -> AsyncIterator[bytes]:
        for _ in range(BLOCKS):
            yield BLOCK

    async with relaying(certificates.good, dialogue=dialogue, keep_content=False) as (server, relay):
        await deliver(relay)
        tracemalloc.start()
        try:
            await deliver(relay, content=content())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert server.messages[-1].octets == BLOCKS * len(BLOCK)
        assert server.messages[-1].sha256 == hashlib.sha256(BLOCK * BLOCKS).hexdigest()
        assert peak < 6 * MEBIBYTE


async def test_one_huge_piece_is_sent_in_small_ones(certificates: Certificates) -> None:
    piece = BLOCK * 200
    async with relaying(certificates.good, keep_content=False) as (server, relay):
        await deliver(relay)
        tracemalloc.start()
        try:
            await deliver(relay, content=piece)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert server.messages[-1].octets == len(piece)
        assert peak < 6 * MEBIBYTE


@pytest.mark.fault("B15")
async def test_a_backend_that_stops_reading_stops_the_device_until_the_deadline(certificates: Certificates) -> None:
    taken = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(BLOCKS):
            taken += len(BLOCK)
            yield BLOCK

    timeouts = replace(Timeouts(), block=SHORT)
    async with relaying(certificates.good, keep_content=False, timeouts=timeouts) as (server, relay):
        server.read_body.clear()
        with pytest.raises(Disconnected, match=r"before the final dot: it took nothing for 0\.3 s"):
            await deliver(relay, content=content())
        assert taken < BLOCKS * len(BLOCK) / 2
        assert not server.messages


@pytest.mark.fault("B26")
async def test_a_slow_backend_is_not_a_stuck_one(certificates: Certificates) -> None:
    """Each block may take the whole deadline, as long as something moves."""

    async def content() -> AsyncIterator[bytes]:
        for _ in range(BLOCKS // 2):
            yield BLOCK

    # Several times as long as the brake below, because another process may have the processor for a while.
    timeouts = replace(Timeouts(), block=4 * SHORT)
    async with relaying(certificates.good, keep_content=False, timeouts=timeouts) as (server, relay):

        async def by_fits_and_starts() -> None:
            while True:
                server.read_body.clear()
                await asyncio.sleep(SHORT / 3)
                server.read_body.set()
                await asyncio.sleep(0.01)

        brake = asyncio.create_task(by_fits_and_starts())
        try:
            await deliver(relay, content=content())
        finally:
            brake.cancel()
            await asyncio.gather(brake, return_exceptions=True)
        assert server.messages[0].octets == BLOCKS // 2 * len(BLOCK)


async def test_cancelled_while_the_backend_does_not_read(certificates: Certificates) -> None:
    async def content() -> AsyncIterator[bytes]:
        for _ in range(BLOCKS):
            yield BLOCK

    async with relaying(certificates.good, keep_content=False, BACKEND_SMTP_MAX_CONNECTIONS=1) as (server, relay):
        server.read_body.clear()
        stuck = asyncio.create_task(deliver(relay, content=content()))
        await server.until(lambda server: "DATA" in server.steps)
        await asyncio.sleep(0.1)
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
        server.read_body.set()
        await deliver(relay)
        assert len(server.messages) == 1
