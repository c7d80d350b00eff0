"""Where connections are short, a device that makes no progress lends its own to a client that waits, or loses it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from fakes.server import Step
from fakes.smtp import Action, FakeSMTPServer, Hang
from legacy_email_proxy.contracts import Disconnected, Overloaded, Refused
from legacy_email_proxy_plugins import places
from legacy_email_proxy_plugins.smtps import SMTPSRelay, Timeouts
from legacy_email_proxy_plugins.smtps.pool import Loan
from realservers.certificates import Certificates
from smtps.support import (
    BLOCKS,
    CLIENT,
    CONTENT,
    RECIPIENT,
    SENDER,
    SHORT,
    Dialogue,
    deliver,
    logged,
    pieces,
    relaying,
)

OTHER = replace(CLIENT, address="192.0.2.2")


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "SOON_SECONDS", 0.0)
    monkeypatch.setattr(places, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(places, "FAIR_SECONDS", 0.0)


async def test_an_open_transaction_without_content_lends_its_connection(
    dialogue: Dialogue, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with relaying(certificates.good, dialogue=dialogue, BACKEND_SMTP_MAX_CONNECTIONS=1) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            await transaction.add_recipient(RECIPIENT, {})
            await deliver(relay, client=OTHER, dialogue=dialogue)
            await transaction.add_recipient("second@example.test", {})
            await deliver(relay, client=OTHER, dialogue=dialogue)
            await transaction.send(pieces(b"Subject: slow\r\n\r\n"))
        assert recipients(server) == [[RECIPIENT], [RECIPIENT], [RECIPIENT, "second@example.test"]]
        assert server.messages[-1].content == b"Subject: slow\r\n\r\n"
        assert len(server.connections) == 1, "it was handed on in good order"
    assert logged(caplog.records, logging.INFO) == []


@pytest.mark.parametrize("begun", [b"", b"Subject: x\r\n"], ids=["nothing", "a line"])
@pytest.mark.parametrize("rest", [b"", b"the rest\r\n", BLOCKS], ids=["ends", "goes on", "blocks"])
async def test_slow_content_of_which_nothing_was_sent_is_sent_later(
    begun: bytes, rest: bytes, dialogue: Dialogue, certificates: Certificates
) -> None:
    others = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        if begun:
            yield begun
        await others.wait()
        if rest:
            yield rest

    async with relaying(certificates.good, dialogue=dialogue, BACKEND_SMTP_MAX_CONNECTIONS=1) as (server, relay):
        slow = asyncio.create_task(deliver(relay, content=content(), dialogue=dialogue))
        await server.until(lambda server: "DATA" in server.verbs or "RCPT" in server.verbs)
        await deliver(relay, client=OTHER, dialogue=dialogue)
        others.set()
        await slow
        assert [message.content for message in server.messages] == [CONTENT, begun + rest]


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends"])
async def test_slow_content_of_which_some_was_sent_is_cut_and_never_accepted(
    ends: bool,
    dialogue: Dialogue,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Loan, "fair_octets_per_second", float("inf"))
    others = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        yield BLOCKS
        await others.wait()
        if not ends:
            yield b"the rest\r\n"

    async with relaying(certificates.good, dialogue=dialogue, BACKEND_SMTP_MAX_CONNECTIONS=1) as (server, relay):
        slow = asyncio.create_task(deliver(relay, content=content(), dialogue=dialogue))
        await server.until(lambda server: "DATA" in server.verbs or "RCPT" in server.verbs)
        await deliver(relay, client=OTHER, dialogue=dialogue)
        others.set()
        with pytest.raises(Overloaded, match="this client was the slowest"):
            await slow
        assert len(server.messages) == 1
    assert logged(caplog.records, logging.WARNING) == ["connection taken from a slow device"]


def recipients(server: FakeSMTPServer) -> list[list[str]]:
    return [[line.partition("<")[2].partition(">")[0] for line in message.rcpt] for message in server.messages]


async def suspended(relay: SMTPSRelay, transaction: Any) -> None:
    """A message of another client goes over the transaction's connection."""
    await deliver(relay, client=OTHER)
    assert transaction._suspended


@pytest.mark.parametrize("ways_out", ["left", "cancelled", "failed"])
async def test_who_does_not_go_on_does_nothing_to_the_connection_that_others_use_now(
    certificates: Certificates, ways_out: str
) -> None:
    async with relaying(certificates.good, BACKEND_SMTP_MAX_CONNECTIONS=1) as (server, relay):
        slow = relay.transaction(CLIENT, SENDER, {})
        await (await slow.__aenter__()).add_recipient(RECIPIENT, {})
        async with relay.transaction(OTHER, SENDER, {}) as other:
            assert slow._suspended
            await other.add_recipient(RECIPIENT, {})
            error = {"left": None, "cancelled": asyncio.CancelledError(), "failed": ValueError()}[ways_out]
            await slow.__aexit__(type(error) if error else None, error, None)
            await other.send(pieces(CONTENT))
        await deliver(relay)
        assert recipients(server) == [[RECIPIENT], [RECIPIENT]]
        assert len(server.connections) == 1


async def test_a_sender_who_is_refused_when_it_goes_on(dialogue: Dialogue, certificates: Certificates) -> None:
    async with relaying(
        certificates.good, {("MAIL", 3): "550 5.1.8 not you"}, dialogue=dialogue, BACKEND_SMTP_MAX_CONNECTIONS=1
    ) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            await transaction.add_recipient(RECIPIENT, {})
            await suspended(relay, transaction)
            with pytest.raises((Refused, Disconnected), match="not you"):
                await transaction.send(pieces(CONTENT))
        await deliver(relay)
        assert len(server.messages) == 2


async def test_a_recipient_who_was_taken_and_is_refused_when_it_goes_on(certificates: Certificates) -> None:
    script: dict[Step, Action] = {("RCPT", 3): "550 5.1.1 nobody"}
    async with relaying(certificates.good, script, BACKEND_SMTP_MAX_CONNECTIONS=1) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            await transaction.add_recipient(RECIPIENT, {})
            await suspended(relay, transaction)
            with pytest.raises(Disconnected, match="a recipient that was taken is refused on another connection"):
                await transaction.send(pieces(CONTENT))
        assert len(server.messages) == 1


async def test_no_connection_gets_free_when_it_goes_on(certificates: Certificates) -> None:
    async with relaying(
        certificates.good, {(".", 2): Hang()}, BACKEND_SMTP_MAX_CONNECTIONS=1,
        timeouts=replace(Timeouts(), slot=SHORT),
    ) as (server, relay):  # fmt: skip
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            await transaction.add_recipient(RECIPIENT, {})
            await suspended(relay, transaction)
            busy = asyncio.create_task(deliver(relay, client=OTHER))
            await server.until(lambda server: server.verbs.count(".") == 2)
            with pytest.raises(Overloaded, match="got free within"):
                await transaction.add_recipient(RECIPIENT, {})
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)


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


async def test_a_device_with_its_share_gets_connections_of_its_own_only(certificates: Certificates) -> None:
    async with relaying(certificates.good, BACKEND_SMTP_MAX_CONNECTIONS=2) as (server, relay):
        async with relay.transaction(OTHER, SENDER, {}) as other, relay.transaction(CLIENT, SENDER, {}) as own:
            await deliver(relay)
            assert len(server.messages) == 1
            assert (other._suspended, own._suspended) == (False, True)


async def test_what_comes_out_of_a_spool_is_not_cut(certificates: Certificates) -> None:
    async with relaying(
        certificates.good, BACKEND_SMTP_MAX_CONNECTIONS=1, timeouts=replace(Timeouts(), slot=SHORT)
    ) as (_, relay):
        async with relay.transaction(replace(CLIENT, spooled=True), SENDER, {}) as transaction:
            with pytest.raises(Overloaded, match="got free within"):
                await deliver(relay, client=OTHER)
            await transaction.add_recipient(RECIPIENT, {})
            assert not transaction._suspended


async def test_the_slowest_goes_first(certificates: Certificates) -> None:
    async with relaying(certificates.good, BACKEND_SMTP_MAX_CONNECTIONS=3) as (server, relay):
        senders = [replace(CLIENT, address=f"192.0.2.{number}") for number in (10, 11, 12)]
        opened = [relay.transaction(client, SENDER, {}) for client in senders]
        for each, octets in zip(opened, (1, 0, 1_000_000_000), strict=True):
            (await each.__aenter__())._loan.octets = octets
        await deliver(relay, client=OTHER)
        assert [each._suspended for each in opened] == [False, True, False]
        for each in opened:
            await each.__aexit__(None, None, None)
        assert len(server.messages) == 1
