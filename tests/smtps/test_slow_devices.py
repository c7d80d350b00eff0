"""Where connections are short, a device that makes no progress loses its own to a client that waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from fakes.smtp import Hang
from legacy_email_proxy.contracts import Overloaded
from legacy_email_proxy_plugins import places
from legacy_email_proxy_plugins.smtps import Timeouts
from legacy_email_proxy_plugins.smtps.pool import Loan
from realservers.certificates import Certificates
from smtps.support import BLOCKS, CLIENT, RECIPIENT, SENDER, SHORT, Dialogue, deliver, logged, relaying

OTHER = replace(CLIENT, address="192.0.2.2")


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(places, "FAIR_SECONDS", 0.0)


async def test_an_open_transaction_without_content_is_cut(
    dialogue: Dialogue, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with relaying(certificates.good, dialogue=dialogue, BACKEND_SMTP_MAX_CONNECTIONS=1) as (
        server,
        relay,
    ):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            await transaction.add_recipient(RECIPIENT, {})
            await deliver(relay, client=OTHER, dialogue=dialogue)
            with pytest.raises(Overloaded, match="this client was the slowest: 0 octets in 0 s"):
                await transaction.add_recipient(RECIPIENT, {})
        await deliver(relay)
        assert len(server.messages) == 2
        assert len(server.connections) == 2, "the second one is used again: the first transaction did not break it"
    assert logged(caplog.records, logging.WARNING) == ["connection taken from a slow device"]


@pytest.mark.parametrize("begun", [b"", b"Subject: x\r\n", BLOCKS], ids=["nothing", "a line", "blocks"])
@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends"])
async def test_slow_content_is_cut_and_never_accepted(
    begun: bytes, ends: bool, dialogue: Dialogue, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Loan, "fair_octets_per_second", float("inf"))
    others = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        if begun:
            yield begun
        await others.wait()
        if not ends:
            yield b"the rest\r\n"

    async with relaying(certificates.good, dialogue=dialogue, BACKEND_SMTP_MAX_CONNECTIONS=1) as (
        server,
        relay,
    ):
        slow = asyncio.create_task(deliver(relay, content=content(), dialogue=dialogue))
        await server.until(lambda server: "DATA" in server.verbs or "RCPT" in server.verbs)
        await deliver(relay, client=OTHER, dialogue=dialogue)
        others.set()
        with pytest.raises(Overloaded, match="this client was the slowest"):
            await slow
        assert len(server.messages) == 1


async def test_whoever_waits_for_the_backend_is_not_cut(dialogue: Dialogue, certificates: Certificates) -> None:
    end = "BDAT" if dialogue.chunking else "."
    async with relaying(
        certificates.good, {(end, 1): Hang()}, dialogue=dialogue, BACKEND_SMTP_MAX_CONNECTIONS=1,
        timeouts=replace(Timeouts(), slot=SHORT),
    ) as (server, relay):  # fmt: skip
        sent = asyncio.create_task(deliver(relay, dialogue=dialogue))
        await server.until(lambda server: end in server.verbs)
        with pytest.raises(Overloaded, match="got free within"):
            await deliver(relay, client=OTHER)
        assert not sent.done()
        assert not server.connections[0].ended
        sent.cancel()
        await asyncio.gather(sent, return_exceptions=True)


async def test_a_device_with_its_share_ends_its_own_transactions_only(certificates: Certificates) -> None:
    async with relaying(certificates.good, BACKEND_SMTP_MAX_CONNECTIONS=2) as (server, relay):
        async with relay.transaction(OTHER, SENDER, {}) as other, relay.transaction(CLIENT, SENDER, {}) as own:
            await deliver(relay)
            assert len(server.messages) == 1
            await other.add_recipient(RECIPIENT, {})
            with pytest.raises(Overloaded, match="which is its share"):
                await own.add_recipient(RECIPIENT, {})


async def test_what_comes_out_of_a_spool_is_not_cut(certificates: Certificates) -> None:
    async with relaying(
        certificates.good, BACKEND_SMTP_MAX_CONNECTIONS=1, timeouts=replace(Timeouts(), slot=SHORT)
    ) as (_, relay):
        async with relay.transaction(replace(CLIENT, spooled=True), SENDER, {}) as transaction:
            with pytest.raises(Overloaded, match="got free within"):
                await deliver(relay, client=OTHER)
            await transaction.add_recipient(RECIPIENT, {})


async def test_the_slowest_goes_first(certificates: Certificates) -> None:
    async with relaying(certificates.good, BACKEND_SMTP_MAX_CONNECTIONS=3) as (server, relay):
        senders = [replace(CLIENT, address=f"192.0.2.{number}") for number in (10, 11, 12)]
        opened = [relay.transaction(client, SENDER, {}) for client in senders]
        for each, octets in zip(opened, (1, 0, 1_000_000_000), strict=True):
            (await each.__aenter__())._loan.octets = octets
        await deliver(relay, client=OTHER)
        fates = []
        for each in opened:
            try:
                await each.add_recipient(RECIPIENT, {})
                fates.append("kept")
            except Overloaded:
                fates.append("cut")
            await each.__aexit__(None, None, None)
        assert fates == ["kept", "cut", "kept"]
        assert len(server.messages) == 1
