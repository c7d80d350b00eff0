"""A backend that offers CHUNKING and does not know BDAT: the message goes by DATA at once, and so do all later ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fakes import smtp
from fakes.server import Step
from fakes.smtp import Action, Connection, FakeSMTPServer
from legacy_email_proxy.contracts import Disconnected, Failure, Refused
from realservers.certificates import Certificates
from smtps.support import BLOCKS, CHUNKED, CONTENT, TOGETHER, Dialogue, deliver, pieces, relaying

CHUNKED_TOGETHER = replace(CHUNKED, name="chunked-together", together=True)


@pytest.mark.parametrize("code", [500, 502, 503, 554])
@pytest.mark.parametrize("dialogue", [CHUNKED, CHUNKED_TOGETHER], ids=lambda each: each.name)
@pytest.mark.parametrize("content", [b"", CONTENT, BLOCKS + CONTENT], ids=["empty", "small", "large"])
async def test_it_goes_by_data_at_once_and_that_is_remembered(
    code: int, dialogue: Dialogue, content: bytes, certificates: Certificates
) -> None:
    if not content and code == 554:
        pytest.skip("that is a verdict on an empty message")
    script: dict[Step, Action] = {"BDAT": f"{code} 5.5.1 what?"}
    if not content:
        script[(".", 1)] = f"{code} 5.5.1 what?"
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        for _ in range(3):
            await deliver(relay, content=content, dialogue=dialogue)
        assert [message.content for message in server.messages] == [content] * 3
        assert server.verbs.count("BDAT") == 1
        assert server.verbs.count("DATA") == 3


async def test_what_it_takes_for_commands_is_none(certificates: Certificates) -> None:
    """Such a server reads on where the chunk begins, as if commands followed."""
    smuggled = b"MAIL FROM:<evil@example.test>\r\nRCPT TO:<victim@example.test>\r\nDATA\r\nspam\r\n.\r\n"
    seen: list[str] = []

    def unknown(connection: Connection, line: str) -> str:
        seen.append(line)
        return "502 5.5.1 what?"

    async with relaying(certificates.good, dialogue=CHUNKED) as (server, relay):
        Ignorant(server, unknown)
        await deliver(relay, content=smuggled)
        assert [message.content for message in server.messages] == [smuggled]
        assert seen == ["BDAT 1"]
        first = server.connections[0]
        assert first.verbs == ["EHLO", "AUTH", "MAIL", "RCPT", "BDAT"]
        assert bytes(first.octets).endswith(b"BDAT 1\r\nM")


class Ignorant:
    """Makes of a fake one that does not read what follows BDAT."""

    def __init__(self, server: FakeSMTPServer, answer: Action) -> None:
        async def do_BDAT(session: object, line: str) -> None:
            await session._do("BDAT", line, None)  # type: ignore[attr-defined]

        server.script["BDAT"] = answer
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(smtp._Session, "do_BDAT", do_BDAT)
        server.start(asyncio.Event().wait(), self._patch.undo)


@pytest.mark.parametrize("code", [500, 502, 503])
async def test_one_that_says_so_at_the_end_of_the_message_only(code: int, certificates: Certificates) -> None:
    async with relaying(certificates.good, {(".", 1): f"{code} 5.5.1 what?"}, dialogue=CHUNKED) as (server, relay):
        await deliver(relay)
        await deliver(relay)
        assert [message.content for message in server.messages] == [CONTENT] * 2
        assert server.verbs.count("DATA") == 2


async def test_a_long_message_that_is_gone_by_then_is_tried_again_by_whoever_has_it(certificates: Certificates) -> None:
    async with relaying(certificates.good, {(".", 1): "502 5.5.1 what?"}, dialogue=CHUNKED) as (server, relay):
        with pytest.raises(Failure, match="does not know BDAT") as failure:
            await deliver(relay, content=pieces(BLOCKS, BLOCKS, CONTENT))
        assert not isinstance(failure.value, Refused)
        await deliver(relay, content=pieces(BLOCKS, BLOCKS, CONTENT))
        assert server.verbs.count("DATA") == 1


async def test_a_recipient_that_is_refused_the_second_time_gets_nothing_by_halves(certificates: Certificates) -> None:
    script: dict[Step, Action] = {"BDAT": "502 5.5.1 what?", ("RCPT", 4): "450 4.2.0 not now"}
    async with relaying(certificates.good, script, dialogue=CHUNKED) as (server, relay):
        with pytest.raises(Disconnected, match="on another connection"):
            await deliver(relay, "r1@example.test", "r2@example.test")
        assert not server.messages
        await deliver(relay, "r1@example.test", "r2@example.test")
        assert len(server.messages) == 1


async def test_what_it_says_of_a_message_is_no_ignorance(certificates: Certificates) -> None:
    script: dict[Step, Action] = {(".", 2): "500 Line too long", (".", 3): "554 5.7.1 spam"}
    async with relaying(certificates.good, script, dialogue=CHUNKED) as (server, relay):
        await deliver(relay)
        for code in (500, 554):
            with pytest.raises(Refused) as refused:
                await deliver(relay)
            assert refused.value.code == code
        await deliver(relay)
        assert "DATA" not in server.verbs
        assert len(server.connections) == 1


async def test_it_can_be_switched_off(certificates: Certificates) -> None:
    async with relaying(certificates.good, dialogue=CHUNKED, BACKEND_SMTP_CHUNKING=False) as (server, relay):
        await deliver(relay, dialogue=TOGETHER)
        assert "BDAT" not in server.verbs
        assert len(server.messages) == 1
