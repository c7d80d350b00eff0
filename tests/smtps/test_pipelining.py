"""What leaves together, and what becomes of it when the backend does not play along (RFC 2920, RFC 3030)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from fakes.server import Step
from fakes.smtp import Action, Drop, Hang, Raw, Say
from legacy_email_proxy.contracts import Disconnected, Failure, Recipient, Refused
from legacy_email_proxy_plugins.backend_settings import Encryption
from legacy_email_proxy_plugins.smtps import SMTPSRelay, Timeouts
from legacy_email_proxy_plugins.smtps.connection import Connection, State
from legacy_email_proxy_plugins.smtps.protocol import Extensions
from legacy_email_proxy_plugins.smtps.settings import Chunking, Endpoint
from legacy_email_proxy_plugins.smtps.transport import Wire
from realservers.certificates import Certificates
from smtps.support import (
    BLOCKS,
    CHUNKED,
    CLIENT,
    CONTENT,
    LOGGER,
    PIPELINED,
    RECIPIENT,
    SENDER,
    TOGETHER,
    Dialogue,
    deliver,
    pieces,
    relay_to,
    relaying,
)

ONE, TWO, THREE = (Recipient(f"r{number}@example.test") for number in (1, 2, 3))
MAIL = f"MAIL FROM:<{SENDER}>\r\n".encode()
RCPT = f"RCPT TO:<{RECIPIENT}>\r\n".encode()
DOTTED = b"Subject: scan\r\n\r\n..dots\r\n...\r\n..\r\nbye\r\n.\r\n"
LAST = b"BDAT %d LAST\r\n" % len(CONTENT) + CONTENT


class Backend(asyncio.Transport):
    """Answers each line at once, and remembers what came in one write: each one costs a round trip."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.wire = Wire()
        self.wire.connection_made(self)
        self.wire.data_received(b"220 hello\r\n")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        octets = bytes(data)
        self.writes.append(octets)
        if octets.endswith(b"\r\n.\r\n") or octets.startswith(b"BDAT"):
            replies = b"250 2.0.0 taken\r\n"
        elif octets in BLOCKS:
            return
        else:
            replies = b"".join(b"354\r\n" if line == b"DATA" else b"250\r\n" for line in octets.split(b"\r\n")[:-1])
        asyncio.get_running_loop().call_soon(self.wire.data_received, replies)

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        asyncio.get_running_loop().call_soon(self.wire.connection_lost, None)


@pytest.fixture
async def backend(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[Dialogue], tuple[Backend, SMTPSRelay]]]:
    relays = []

    def make(dialogue: Dialogue) -> tuple[Backend, SMTPSRelay]:
        backend, relay = Backend(), relay_to(1, certificates.ca_file)
        relays.append(relay)

        async def connect() -> Connection:
            endpoint = Endpoint("fake.test", 25, Encryption.NONE, None, None, None, 1, None, Chunking(True))
            connection = Connection(backend.wire, endpoint, Timeouts(quit=0), logging.getLogger(LOGGER))
            await backend.wire.reply(1)
            connection.offered(Extensions({keyword.split()[0]: () for keyword in dialogue.keywords}))
            connection.state = State.READY
            return connection

        monkeypatch.setattr(relay._pool, "_connect", connect)
        return backend, relay

    yield make
    for relay in relays:
        await relay.aclose()


WRITES = {
    "plain": [MAIL, RCPT, b"DATA\r\n", DOTTED],
    "pipelined": [MAIL + RCPT, b"DATA\r\n", DOTTED],
    "together": [MAIL + RCPT + b"DATA\r\n", DOTTED],
    "chunked": [MAIL + RCPT, LAST],
}


async def test_a_small_message_costs_so_many_round_trips(
    dialogue: Dialogue, backend: Callable[[Dialogue], tuple[Backend, SMTPSRelay]]
) -> None:
    server, relay = backend(dialogue)
    await deliver(relay, dialogue=dialogue)
    asked = [MAIL + RCPT, b"BDAT 1\r\n" + CONTENT[:1], b"BDAT %d LAST\r\n" % (len(CONTENT) - 1) + CONTENT[1:]]
    assert server.writes == (asked if dialogue.chunking else WRITES[dialogue.name])
    for _ in range(2):
        server.writes.clear()
        await deliver(relay, dialogue=dialogue)
        assert server.writes == WRITES[dialogue.name]


async def test_a_long_message_is_held_back_to_its_end(
    dialogue: Dialogue, backend: Callable[[Dialogue], tuple[Backend, SMTPSRelay]]
) -> None:
    server, relay = backend(dialogue)
    await deliver(relay, dialogue=dialogue)
    server.writes.clear()
    await deliver(relay, content=pieces(BLOCKS, CONTENT[:9], CONTENT[9:]), dialogue=dialogue)
    body = server.writes[len(WRITES[dialogue.name]) - 1 :]
    half = len(BLOCKS) // 2
    if dialogue.chunking:
        assert body == [b"BDAT %d\r\n" % half + BLOCKS[:half], b"BDAT %d\r\n" % half + BLOCKS[half:], LAST]
    else:
        assert body[-1] == DOTTED
        assert b"".join(body[:-1]) == BLOCKS


async def test_the_reset_is_not_waited_for(backend: Callable[[Dialogue], tuple[Backend, SMTPSRelay]]) -> None:
    server, relay = backend(PIPELINED)
    async with relay.transaction(CLIENT, SENDER, {}) as transaction:
        await transaction.add_recipient(RECIPIENT, {})
    assert server.writes == [MAIL + RCPT, b"RSET\r\n"]
    await deliver(relay)
    assert server.writes[2:] == WRITES["pipelined"]


async def test_a_sender_without_recipients_is_not_even_told(
    backend: Callable[[Dialogue], tuple[Backend, SMTPSRelay]],
) -> None:
    server, relay = backend(PIPELINED)
    async with relay.transaction(CLIENT, SENDER, {}):
        pass
    assert server.writes == []


async def test_recipients_in_groups(backend: Callable[[Dialogue], tuple[Backend, SMTPSRelay]]) -> None:
    server, relay = backend(TOGETHER)
    async with relay.transaction(CLIENT, SENDER, {}) as transaction:
        assert await transaction.add_recipients([ONE, TWO], content_follows=False) == [None, None]
        await transaction.add_recipient(RECIPIENT, {})
        assert await transaction.add_recipients([THREE], content_follows=True) == [None]
        await transaction.send(pieces(CONTENT))
    first, *rest = server.writes
    assert first == MAIL + b"RCPT TO:<r1@example.test>\r\nRCPT TO:<r2@example.test>\r\n"
    assert rest == [RCPT, b"RCPT TO:<r3@example.test>\r\nDATA\r\n", DOTTED]


async def test_recipients_behind_the_leave_to_send_never_become_content(
    backend: Callable[[Dialogue], tuple[Backend, SMTPSRelay]],
) -> None:
    server, relay = backend(TOGETHER)
    async with relay.transaction(CLIENT, SENDER, {}) as transaction:
        await transaction.add_recipients([ONE], content_follows=True)
        with pytest.raises(Failure, match="behind those"):
            await transaction.add_recipient(TWO.forward_path, {})
    assert server.writes == [MAIL + b"RCPT TO:<r1@example.test>\r\nDATA\r\n"]


@pytest.mark.quirk("aiosmtplib-1")
async def test_what_is_no_address_is_left_out_of_the_group(
    backend: Callable[[Dialogue], tuple[Backend, SMTPSRelay]],
) -> None:
    server, relay = backend(TOGETHER)
    evil = Recipient("a\r\nRCPT TO:<evil@x>@b")
    async with relay.transaction(CLIENT, SENDER, {}) as transaction:
        (nothing,) = await transaction.add_recipients([evil], content_follows=True)
        assert nothing is not None
        assert server.writes == []
        verdicts = await transaction.add_recipients([evil, Recipient(RECIPIENT), evil], content_follows=True)
        assert [each and each.code for each in verdicts] == [553, None, 553]
        await transaction.send(pieces(CONTENT))
    assert server.writes == WRITES["together"]


# Against a server with a will of its own.


def codes(verdicts: Sequence[Refused | None]) -> list[int | None]:
    return [each.code if each else None for each in verdicts]


@pytest.mark.fault("B10")
@pytest.mark.parametrize("to_data", ["503 5.5.1 MAIL first", "354 go ahead"])
async def test_a_refused_sender_is_the_verdict_on_every_recipient(to_data: str, certificates: Certificates) -> None:
    script: dict[Step, Action] = {("MAIL", 1): "550 5.7.1 not you", ("RCPT", 2): "250 odd", ("DATA", 1): to_data}
    async with relaying(certificates.good, script, dialogue=TOGETHER) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            verdicts = await transaction.add_recipients([ONE, TWO], content_follows=True)
            assert [(each.code, each.enhanced, each.text) for each in verdicts if each] == [
                (550, "5.7.1", "not you")
            ] * 2
            with pytest.raises((Refused, Disconnected)):
                await transaction.send(pieces(CONTENT))
        await deliver(relay, dialogue=TOGETHER)
        assert [message.content for message in server.messages] == [CONTENT]


async def test_a_refused_sender_stays_refused(certificates: Certificates) -> None:
    script: dict[Step, Action] = {("MAIL", 1): "550 5.7.1 not you"}
    async with relaying(certificates.good, script, dialogue=PIPELINED) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            for each in (ONE, TWO):
                with pytest.raises(Refused, match="not you"):
                    await transaction.add_recipient(each.forward_path, {})
        assert server.verbs.count("RCPT") == 1


@pytest.mark.fault("B12")
@pytest.mark.parametrize("to_the_dot", ["554 5.5.1 for whom?", "250 2.0.0 queued"])
async def test_content_wanted_for_nobody_is_an_empty_message_for_nobody(
    to_the_dot: str, certificates: Certificates
) -> None:
    script: dict[Step, Action] = {("RCPT", 1): "550 5.1.1 no", ("DATA", 1): "354 go ahead", (".", 1): to_the_dot}
    async with relaying(certificates.good, script, dialogue=TOGETHER) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            assert codes(await transaction.add_recipients([ONE], content_follows=True)) == [550]
            with pytest.raises(Disconnected, match="content although"):
                await transaction.add_recipients([TWO], content_follows=True)
        await deliver(relay, dialogue=TOGETHER)
        for message in server.messages[:-1]:
            assert message.rcpt == ()
        assert server.messages[-1].content == CONTENT
        assert server.verbs[2:7] == ["MAIL", "RCPT", "DATA", ".", "RSET"]
        assert len(server.connections) == 1


async def test_all_refused_and_others_later(certificates: Certificates) -> None:
    """The device hears of the refusals and tries somebody else."""
    async with relaying(certificates.good, {("RCPT", 1): "550 5.1.1 no"}, dialogue=TOGETHER) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            assert codes(await transaction.add_recipients([ONE], content_follows=True)) == [550]
            assert codes(await transaction.add_recipients([TWO], content_follows=True)) == [None]
            await transaction.send(pieces(CONTENT))
        assert server.messages[0].rcpt == ("RCPT TO:<r2@example.test>",)


@pytest.mark.parametrize("error", [None, RuntimeError("the device vanished")])
async def test_leave_to_send_that_is_not_used_delivers_nothing(
    error: Exception | None, certificates: Certificates
) -> None:
    async def give_up(relay: SMTPSRelay) -> None:
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            await transaction.add_recipients([ONE], content_follows=True)
            if error is not None:
                raise error

    async with relaying(certificates.good, dialogue=TOGETHER) as (server, relay):
        await asyncio.gather(give_up(relay), return_exceptions=True)
        await server.until(lambda server: server.connections[0].ended)
        assert "." not in server.verbs
        await deliver(relay, dialogue=TOGETHER)
        assert len(server.messages) == 1


@pytest.mark.fault("B13")
async def test_refused_data_is_told_when_content_is_sent(certificates: Certificates) -> None:
    script: dict[Step, Action] = {("DATA", 1): "451 4.3.1 no room"}
    async with relaying(certificates.good, script, dialogue=TOGETHER) as (server, relay):
        with pytest.raises(Refused, match="no room"):
            await deliver(relay, dialogue=TOGETHER)
        await deliver(relay, dialogue=TOGETHER)
        assert len(server.connections) == 1


@pytest.mark.quirk("aiosmtplib-4")
async def test_a_reply_too_many_in_a_group_is_no_verdict(certificates: Certificates) -> None:
    script: dict[Step, Action] = {("RCPT", 2): Raw(b"550 5.1.1 no\r\n250 odd\r\n")}
    async with relaying(certificates.good, script, dialogue=TOGETHER) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            with pytest.raises(Disconnected):
                await transaction.add_recipients([ONE, TWO, THREE], content_follows=True)
        assert not server.messages
        assert server.body_octets == 0


@pytest.mark.quirk("aiosmtplib-4")
async def test_a_reply_too_few_in_a_group_is_waited_for(certificates: Certificates) -> None:
    timeouts = Timeouts(data=0.3)
    script: dict[Step, Action] = {("RCPT", 2): Raw(b"")}
    async with relaying(certificates.good, script, dialogue=TOGETHER, timeouts=timeouts) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            with pytest.raises(Disconnected, match="while sending RCPT: it said 354"):
                await transaction.add_recipients([ONE, TWO], content_follows=True)
        assert not server.messages


async def test_a_thousand_recipients_at_once(certificates: Certificates) -> None:
    def judge(_: object, line: str) -> str:
        return "550 5.1.1 " + "unknown " * 40 if line.endswith("1@example.test>") else "250 2.1.5 OK"

    recipients = [Recipient(f"r{number}@example.test") for number in range(1000)]
    async with relaying(certificates.good, {"RCPT": judge}, dialogue=TOGETHER) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            verdicts = await transaction.add_recipients(recipients, content_follows=True)
            assert codes(verdicts) == [550 if number % 10 == 1 else None for number in range(1000)]
            await transaction.send(pieces(CONTENT))
        assert len(server.messages[0].rcpt) == 900


@pytest.mark.fault("B22")
@pytest.mark.parametrize("action", ["421 4.4.2 idle", Drop(), Drop(b"42"), b"what?\r\n"])
async def test_a_group_on_a_connection_that_died_idle_is_sent_again_once(
    action: Action, certificates: Certificates
) -> None:
    script: dict[Step, Action] = {("MAIL", 2): action}
    async with relaying(certificates.good, script, dialogue=TOGETHER) as (server, relay):
        await deliver(relay, dialogue=TOGETHER)
        await deliver(relay, dialogue=TOGETHER)
        assert len(server.messages) == 2
        assert len(server.connections) == 2


@pytest.mark.parametrize("step", ["RCPT", "DATA"])
async def test_a_group_of_which_something_was_accepted_is_not_sent_again(step: str, certificates: Certificates) -> None:
    script: dict[Step, Action] = {("MAIL", 2): Say("250 OK"), (step, 2): Drop()}
    async with relaying(certificates.good, script, dialogue=TOGETHER) as (server, relay):
        await deliver(relay, dialogue=TOGETHER)
        with pytest.raises(Disconnected):
            await deliver(relay, dialogue=TOGETHER)
        assert len(server.connections) == 1


@pytest.mark.fault("B24")
@pytest.mark.parametrize(("sender", "code"), [("\u00e4@example.test", 550), (SENDER, None)])
async def test_the_backend_offers_less_when_asked_again(
    sender: str, code: int | None, certificates: Certificates
) -> None:
    script: dict[Step, Action] = {("MAIL", 2): Drop(), ("EHLO", 2): "250-fake\n250 AUTH PLAIN"}
    async with relaying(certificates.good, script, dialogue=CHUNKED) as (server, relay):
        await deliver(relay)
        parameters = {"SMTPUTF8": None, "SIZE": "5"} if code else {"SIZE": "5"}
        async with relay.transaction(CLIENT, sender, parameters) as transaction:
            assert codes(await transaction.add_recipients([ONE], content_follows=True)) == [code]
            if not code:
                await transaction.send(pieces(CONTENT))
        assert relay.capabilities().smtputf8 is False
        assert [message.mail for message in server.messages[1:]] == ([] if code else [f"MAIL FROM:<{SENDER}>"])


@pytest.mark.fault("B7")
async def test_without_pipelining_each_command_waits_for_its_reply(certificates: Certificates) -> None:
    hang: dict[Step, Action] = {("RCPT", 1): Hang()}
    async with relaying(certificates.good, hang) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            assert server.verbs[-1] == "MAIL"
            asking = asyncio.create_task(transaction.add_recipients([ONE, TWO], content_follows=True))
            await server.until(lambda server: "RCPT" in server.steps)
            await asyncio.sleep(0.05)
            assert server.verbs.count("RCPT") == 1
            assert b"DATA" not in server.octets
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
