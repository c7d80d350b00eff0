"""What the backend may do to a mail transaction, step by step, and what must then be true (matrix B9 to B20)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from _pytest.mark import ParameterSet

from fakes.server import Step
from fakes.smtp import Action, Drip, Drop, FakeSMTPServer, Hang, Raw, Reset
from legacy_email_proxy.contracts import Disconnected, Recipient, Refused
from legacy_email_proxy_plugins.smtps import SMTPSRelay, Timeouts
from realservers.certificates import Certificates
from smtps.support import (
    BLOCKS,
    CHUNKED,
    CLIENT,
    CONTENT,
    DIALOGUES,
    RECIPIENT,
    SENDER,
    SHORT,
    Dialogue,
    deliver,
    pieces,
    relaying,
)

IMPATIENT = replace(Timeouts(), mail=SHORT, rcpt=SHORT, data=SHORT, final_dot=SHORT)
TEN_MEGABYTES = b"250-" + b"x" * 76 + b"\r\n"
ENDLESS = Raw(TEN_MEGABYTES * 131072)

# Whatever these do, the backend has not said what it makes of the command.
NO_VERDICT: list[tuple[str, Action, str]] = [
    ("drop", Drop(), "closed the connection"),
    ("reset", Reset(), ""),
    ("hang", Hang(), "no whole reply within"),
    ("partial", Drop(b"25"), "in the middle of a reply"),
    ("partial reply", Drop(b"250-a\r\n"), "in the middle of a reply"),
    ("partial hang", Hang(b"25"), "no whole reply within"),
    ("garbage", Raw(b"\x00\xff garbage\r\n"), "what is no reply"),
    ("wrong digits", Raw(b"650 no\r\n"), "what is no reply"),
    ("two codes", Raw(b"250-a\r\n550 b\r\n"), "at once"),
    ("10 MB", ENDLESS, "more than"),
    ("dripped", Drip("250 too slow", SHORT / 10), "no whole reply within"),
    ("3yz", "399 what?", "399"),
    ("421", "421 4.3.2 shutting down", "421"),
]
NONSENSE = {"garbage", "wrong digits", "two codes", "10 MB"}
NAMES = [name for name, _, _ in NO_VERDICT]


def steps(*names: str) -> list[ParameterSet]:
    """Each of these steps in every dialogue that has it."""
    return [
        pytest.param(dialogue, name, id=f"{dialogue.name}-{name}")
        for dialogue in DIALOGUES
        for name in names
        if name != ("DATA" if dialogue.chunking else "BDAT")
    ]


def patience(action: Action) -> Timeouts:
    """Short only where the deadline is what the test waits for: on a busy machine 10 MB take their time."""
    return IMPATIENT if isinstance(action, Hang | Drip) else Timeouts()


@pytest.mark.fault("B9", "B13")
@pytest.mark.parametrize(("name", "action", "detail"), NO_VERDICT, ids=NAMES)
@pytest.mark.parametrize(("dialogue", "step"), steps("MAIL", "RCPT", "DATA"))
async def test_no_verdict_before_the_content(
    step: str, name: str, action: Action, detail: str, dialogue: Dialogue, certificates: Certificates
) -> None:
    script: dict[Step, Action] = {(step, 1): action}
    async with relaying(certificates.good, script, dialogue=dialogue, timeouts=patience(action)) as (server, relay):
        with pytest.raises(Disconnected) as failure:
            await deliver(relay, dialogue=dialogue)
        # Nonsense makes what came in one go with it worthless too.
        assert re.search(rf"while sending ({'MAIL|RCPT|' if name in NONSENSE else ''}{step})", failure.value.detail)
        assert detail in failure.value.detail
        assert "may have been delivered" not in failure.value.detail
        assert server.body_octets == 0
        # The next message goes over another connection, and the fault before it has done it no harm.
        await deliver(relay, dialogue=dialogue)
        assert len(server.messages) == 1
        assert len(server.connections) == 2


@pytest.mark.fault("B16")
@pytest.mark.parametrize(("name", "action", "detail"), NO_VERDICT[:-1], ids=NAMES[:-1])
async def test_no_verdict_on_the_content(
    name: str, action: Action, detail: str, dialogue: Dialogue, certificates: Certificates
) -> None:
    script: dict[Step, Action] = {(".", 1): action}
    async with relaying(certificates.good, script, dialogue=dialogue, timeouts=patience(action)) as (server, relay):
        with pytest.raises(Disconnected) as failure:
            await deliver(relay, dialogue=dialogue)
        end = "the last chunk" if dialogue.chunking else "the final dot"
        assert f"after {end}" in failure.value.detail
        assert detail in failure.value.detail
        assert f"the message may have been delivered: the backend did not answer {end}" in failure.value.detail
        assert server.verbs.count("MAIL") == 1
        await deliver(relay, dialogue=dialogue)
        assert len(server.connections) == 2


@pytest.mark.fault("B14")
@pytest.mark.parametrize(("name", "action", "detail"), NO_VERDICT, ids=NAMES)
async def test_no_verdict_on_a_chunk(name: str, action: Action, detail: str, certificates: Certificates) -> None:
    script: dict[Step, Action] = {("BDAT", 2): action}
    timeouts = replace(Timeouts(), block=SHORT) if isinstance(action, Hang | Drip) else Timeouts()
    async with relaying(certificates.good, script, dialogue=CHUNKED, timeouts=timeouts) as (server, relay):
        with pytest.raises(Disconnected) as failure:
            await deliver(relay, content=BLOCKS + CONTENT)
        assert "before the last chunk" in failure.value.detail
        assert "may have been delivered" not in failure.value.detail
        assert b"LAST" not in server.octets
        assert not server.messages
        await deliver(relay)
        assert len(server.messages) == 1


@pytest.mark.fault("B16")
async def test_a_message_accepted_without_a_word_is_not_sent_again(
    dialogue: Dialogue, certificates: Certificates
) -> None:
    script: dict[Step, Action] = {(".", 2): Drop(accept=True)}
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        await deliver(relay, dialogue=dialogue)
        with pytest.raises(Disconnected, match="may have been delivered"):
            await deliver(relay, dialogue=dialogue)
        assert len(server.messages) == 2
        assert server.verbs.count("MAIL") == 2


VERDICTS = [
    ("450 4.2.1 busy", 450, "4.2.1", "busy"),
    ("451-4.3.0 one\n451-4.3.0 two\n451 three", 451, "4.3.0", "one two three"),
    ("452 no room", 452, "", "no room"),
    ("550 5.1.1", 550, "5.1.1", ""),
    ("550 4.1.1 of another class", 550, "", "4.1.1 of another class"),
    ("552 5.3.4 gr\u00f6\u00dfer\x07 als", 552, "5.3.4", "gr\u00f6\u00dfer\x07 als"),
    ("554 5.7.1.2 no code", 554, "", "5.7.1.2 no code"),
    ("530 5.7.0 log in", 530, "5.7.0", "log in"),
    ("500 5.5.2 what", 500, "5.5.2", "what"),
    ("599", 599, "", ""),
    ("550 " + "x" * 2000, 550, "", "x" * 2000),
]


@pytest.mark.quirk("imap-B13", "imap-B14")
@pytest.mark.fault("B9", "B20")
@pytest.mark.parametrize(("reply", "code", "enhanced", "text"), VERDICTS, ids=[reply[:12] for reply, *_ in VERDICTS])
@pytest.mark.parametrize(("dialogue", "step"), steps("MAIL", "RCPT", "DATA", "."))
async def test_a_verdict_is_passed_on_as_it_is(
    step: str, reply: str, code: int, enhanced: str, text: str, dialogue: Dialogue, certificates: Certificates
) -> None:
    if step == "DATA" and code == 500:
        code, enhanced = 451, "4.5.2"  # about our command
    # 4yz to the envelope is asked for again on another connection, see test_pool.
    twice = step in ("MAIL", "RCPT") and code < 500
    script: dict[Step, Action] = {(step, 2): reply, (step, 3): reply if twice else None}
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        await deliver(relay, dialogue=dialogue)
        with pytest.raises(Refused) as refused:
            await deliver(relay, dialogue=dialogue)
        assert (refused.value.code, refused.value.enhanced, refused.value.text) == (code, enhanced, text)
        assert len(server.messages) == 1
        await deliver(relay, dialogue=dialogue)
        assert len(server.messages) == 2
        assert len(server.connections) == (2 if twice else 1), "a verdict does not cost the connection"
        assert server.verbs.count("RSET") == 1 + twice


async def test_a_refused_chunk_is_the_verdict(certificates: Certificates) -> None:
    # The first is of one octet, as a question.
    script: dict[Step, Action] = {("BDAT", 2): "552 5.3.4 too big", ("BDAT", 3): "503 5.5.1 no"}
    async with relaying(certificates.good, script, dialogue=CHUNKED) as (server, relay):
        with pytest.raises(Refused) as refused:
            await deliver(relay, content=BLOCKS + CONTENT)
        assert (refused.value.code, refused.value.enhanced) == (552, "5.3.4")
        assert b"LAST" not in server.octets
        await deliver(relay)
        assert len(server.messages) == 1


@pytest.mark.fault("B16")
async def test_421_to_the_end_is_a_refusal_and_the_end(dialogue: Dialogue, certificates: Certificates) -> None:
    script: dict[Step, Action] = {(".", 1): "421 4.3.2 not now"}
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        with pytest.raises(Refused) as refused:
            await deliver(relay, dialogue=dialogue)
        assert refused.value.code == 421
        await deliver(relay, dialogue=dialogue)
        assert len(server.connections) == 2


@pytest.mark.parametrize("reply", ["250", "250 ok", "250-a\n250 b", "251 2.0.0 elsewhere", "299 odd"])
async def test_any_2yz_to_the_end_is_success(reply: str, dialogue: Dialogue, certificates: Certificates) -> None:
    async with relaying(certificates.good, {".": reply}, dialogue=dialogue) as (server, relay):
        assert (await deliver(relay, dialogue=dialogue)).detail == reply.replace("\n250", "").replace("250-", "250 ")
        assert len(server.messages) == 1


@pytest.mark.quirk("aiosmtplib-5")
async def test_a_goodbye_behind_the_verdict_does_not_change_it(dialogue: Dialogue, certificates: Certificates) -> None:
    script: dict[Step, Action] = {(".", 1): Raw(b"250 2.0.0 queued\r\n421 4.3.2 bye\r\n")}
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        assert (await deliver(relay, dialogue=dialogue)).detail == "250 2.0.0 queued"
        await deliver(relay, dialogue=dialogue)
        assert len(server.messages) == 2
        assert len(server.connections) == 2


@pytest.mark.fault("B16")
@pytest.mark.parametrize(
    ("second", "told"), [(b"550 5.7.1 spam", "it sent, unasked: 550"), (b"what?", "it sent what is no reply")]
)
async def test_two_verdicts_are_none(second: bytes, told: str, dialogue: Dialogue, certificates: Certificates) -> None:
    script: dict[Step, Action] = {(".", 1): Raw(b"250 2.0.0 queued\r\n%b\r\n" % second)}
    async with relaying(certificates.good, script, dialogue=dialogue) as (_, relay):
        with pytest.raises(Disconnected, match=rf"{told}.* may have been delivered"):
            await deliver(relay, dialogue=dialogue)


@pytest.mark.fault("B10")
async def test_each_recipient_gets_its_own_verdict(dialogue: Dialogue, certificates: Certificates) -> None:
    script: dict[Step, Action] = {
        ("RCPT", 2): "550 5.1.1 unknown",
        ("RCPT", 3): "450 4.2.1 busy",
        ("RCPT", 4): "251 2.1.5 will forward",
        ("RCPT", 5): "252 2.1.5 can't tell",
    }
    paths = [f"r{number}@example.test" for number in range(1, 7)]
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            verdicts: list[Refused | None] = []
            if dialogue.together:
                verdicts += await transaction.add_recipients([*map(Recipient, paths)], content_follows=True)
            else:
                for path in paths:
                    try:
                        await transaction.add_recipient(path, {})
                        verdicts.append(None)
                    except Refused as refused:
                        verdicts.append(refused)
            assert [each.code if each else 250 for each in verdicts] == [250, 550, 450, 250, 250, 250]
            await transaction.send(pieces(CONTENT))
        accepted = tuple(f"RCPT TO:<r{number}@example.test>" for number in (1, 4, 5, 6))
        assert server.messages[0].rcpt == accepted


@pytest.mark.fault("B11")
async def test_421_at_the_second_recipient_ends_it_for_all(dialogue: Dialogue, certificates: Certificates) -> None:
    script: dict[Step, Action] = {("RCPT", 2): "421 4.3.2 going down"}
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            recipients = [Recipient(f"r{number}@example.test") for number in range(1, 4)]
            if not dialogue.together:
                await transaction.add_recipient(recipients.pop(0).forward_path, {})
            with pytest.raises(Disconnected, match=r"421 4\.3\.2 going down"):
                await transaction.add_recipients(recipients, content_follows=dialogue.together)
            with pytest.raises(Disconnected):
                await transaction.add_recipient("r3@example.test", {})
            with pytest.raises(Disconnected):
                await transaction.send(pieces(CONTENT))
        assert not server.messages
        assert server.body_octets == 0
        assert len(server.connections) == 1


@pytest.mark.fault("B12")
@pytest.mark.parametrize("second", ["550 5.1.1 unknown", "250 2.1.5 OK"])
async def test_duplicate_recipients_are_counted_one_by_one(
    second: str, dialogue: Dialogue, certificates: Certificates
) -> None:
    script: dict[Step, Action] = {("RCPT", 1): "550 5.1.1 unknown", ("RCPT", 2): second}
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        if second.startswith("250"):
            await deliver(relay, RECIPIENT, RECIPIENT, dialogue=dialogue)
            assert len(server.messages) == 1
            assert len(server.messages[0].rcpt) == 1
            return
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            if dialogue.together:
                verdicts = await transaction.add_recipients([Recipient(RECIPIENT)] * 2, content_follows=True)
                assert None not in verdicts
            else:
                for _ in range(2):
                    with pytest.raises(Refused):
                        await transaction.add_recipient(RECIPIENT, {})
            with pytest.raises(Refused):
                await transaction.send(pieces(CONTENT))
        assert server.body_octets == 0
        assert not server.messages


BAD_PATHS = [
    "a\r\nRCPT TO:<evil@x>@b",
    "a\n@b",
    "a\r@b",
    "a\0@b",
    "a\x7f@b",
    "a\x85@b",
    "\x1b[2J@b",
    "a> SIZE=1@b",
    "a>@b",
    "<a@b",
    "a b@c",
    '"a@b',
    '"a\r\nb"@c',
    'a\\"b> SIZE=0 "@c',
    "\udce4@b",
]


@pytest.mark.fault("A17")
@pytest.mark.quirk("aiosmtplib-1")
@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
@pytest.mark.parametrize("parameters", [{}, {"SMTPUTF8": None}], ids=["ascii", "smtputf8"])
async def test_no_path_becomes_a_second_command(
    path: str, parameters: dict[str, str | None], certificates: Certificates
) -> None:
    async with relaying(certificates.good) as (server, relay):
        with pytest.raises(Refused) as refused:
            await deliver(relay, reverse_path=path, parameters=parameters)
        assert (refused.value.code, refused.value.enhanced) == (553, "5.1.7")
        with pytest.raises(Refused) as refused:
            await deliver(relay, path, parameters=parameters)
        assert (refused.value.code, refused.value.enhanced) == (553, "5.1.3")
        await server.until(lambda server: server.verbs[2:] == ["MAIL", "RSET"])
        assert b"evil" not in server.octets


async def vanish(relay: SMTPSRelay, server: FakeSMTPServer, step: str, dialogue: Dialogue) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield BLOCKS
        if step == "content":
            await asyncio.Event().wait()

    task = asyncio.create_task(deliver(relay, content=content(), dialogue=dialogue))
    if step == "content":
        await server.until(lambda server: server.body_octets >= 10)
    else:
        await server.until(lambda server: step in server.steps)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.quirk("aiosmtplib-4")
@pytest.mark.fault("B18")
@pytest.mark.parametrize(
    ("dialogue", "step"), steps("TLS", "GREETING", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "content")
)
async def test_cancelled_at_any_step_nothing_is_delivered_and_the_slot_is_free(
    step: str, dialogue: Dialogue, certificates: Certificates
) -> None:
    script: dict[Step, Action] = {} if step == "content" else {(step, 1): Hang()}
    async with relaying(certificates.good, script, dialogue=dialogue, BACKEND_SMTP_MAX_CONNECTIONS=1) as (
        server,
        relay,
    ):
        await vanish(relay, server, step, dialogue)
        await server.until(lambda server: server.connections[0].ended)
        assert not server.messages
        await deliver(relay)
        assert len(server.messages) == 1
