"""BDAT (RFC 3030): a message in chunks, what may stand between them, and octets that must never become commands."""

from __future__ import annotations

import asyncio
import re
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from legacy_email_proxy.contracts import Receipt
from smtp.conftest import Leg, StartLeg
from smtp.relays import MemoryRelay, MemoryTransaction
from smtp.test_session import reset
from waiting import until

ENVELOPE = b"EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\n"
TAKEN = b"250 2.0.0 OK, the message is taken over as 42"
NEXT = b"250 2.0.0 OK, the next chunk please"
EVIL = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.com>\r\nBDAT 2 LAST\r\nx\n"


def bdat(octets: bytes, last: bytes = b"") -> bytes:
    return b"BDAT %d%b\r\n%b" % (len(octets), last, octets)


async def replies(leg: Leg, octets: bytes, *, half_close: bool = True) -> list[bytes]:
    """What is answered behind the envelope."""
    lines = (await leg.exchange(ENVELOPE + octets, half_close=half_close)).splitlines()
    return [line for line in lines if line[3:4] != b"-"][4:]


@pytest.mark.parametrize(
    ("chunks", "content"),
    [
        ([b"one\r\n"], b"one\r\n"),
        ([b"one\r\n", b"two\r\n"], b"one\r\ntwo\r\n"),
        ([b"on", b"e\r", b"\ntw", b"o"], b"one\r\ntwo\r\n"),
        ([b"one\r\n", b""], b"one\r\n"),
        ([b"", b"one\r\n", b"", b""], b"one\r\n"),
        ([b""], b""),
        ([b"a\nb\rc\r", b"\nd\r", b"\re"], b"a\r\nb\r\nc\r\nd\r\n\r\ne\r\n"),
        ([b"a\r"], b"a\r\n"),
        ([b"a\r", b""], b"a\r\n"),
        ([b"..dot\r\n.\r\n.", b".\r\n\0\xff\r\n"], b"..dot\r\n.\r\n..\r\n\0\xff\r\n"),
        ([b"a\r\n.\r\nQUIT\r\n", b"\r\n.\r\n"], b"a\r\n.\r\nQUIT\r\n\r\n.\r\n"),
        ([b"x" * 70_000 + b"\r\n"] * 3, (b"x" * 70_000 + b"\r\n") * 3),
    ],
)
async def test_chunks_make_one_message(leg: Leg, chunks: list[bytes], content: bytes) -> None:
    lump = b"".join(map(bdat, chunks[:-1])) + bdat(chunks[-1], b" LAST")
    # Pipelined, and one after the other.
    assert await replies(leg, lump + b"NOOP\r\n") == [*[NEXT] * (len(chunks) - 1), TAKEN, b"250 2.0.0 OK"]
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE)
        await reader.readuntil(b"2.1.5 OK\r\n")
        for chunk in chunks[:-1]:
            writer.write(bdat(chunk))
            assert await reader.readline() == NEXT + b"\r\n"
        writer.write(bdat(chunks[-1], b" last"))
        assert await reader.readline() == TAKEN + b"\r\n"
    assert [each.content for each in leg.relay.delivered] == [content, content]


async def test_two_messages_and_data_in_one_session(leg: Leg) -> None:
    again = b"MAIL FROM:<>\r\nRCPT TO:<c@example.com>\r\n"
    lump = bdat(b"1\r\n", b" LAST") + again + b"DATA\r\n2\r\n.\r\n" + again + bdat(b"3\r\n") + bdat(b"", b" LAST")
    await replies(leg, lump)
    assert [each.content for each in leg.relay.delivered] == [b"1\r\n", b"2\r\n", b"3\r\n"]


@pytest.mark.parametrize(
    ("between", "answers"),
    [
        (b"NOOP\r\n", [b"250"]),
        (b"VRFY x\r\nHELP\r\n", [b"252", b"214"]),
        (b"MAIL FROM:<c@example.com>\r\n", [b"503"]),
        (b"RCPT TO:<c@example.com>\r\n", [b"503"]),
        (b"XYZZY\r\n", [b"500"]),
        (b"AUTH PLAIN\r\n", [b"502"]),
        (b"x" * 3000 + b"\r\n", [b"500"]),
    ],
)
async def test_what_may_stand_between_chunks(leg: Leg, between: bytes, answers: list[bytes]) -> None:
    found = await replies(leg, bdat(b"one\r\n") + between + bdat(b"two\r\n", b" LAST"))
    assert [line[:3] for line in found] == [b"250", *answers, b"250"]
    assert [each.content for each in leg.relay.delivered] == [b"one\r\ntwo\r\n"]


async def test_data_between_chunks_is_refused(leg: Leg) -> None:
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE + bdat(b"one\r\n") + b"DATA\r\n")
        await reader.readuntil(b"503 5.5.1 Bad sequence of commands\r\n")
        writer.write(bdat(b"two\r\n", b" LAST"))
        assert await reader.readline() == TAKEN + b"\r\n"
    assert [each.content for each in leg.relay.delivered] == [b"one\r\ntwo\r\n"]


@pytest.mark.parametrize(
    ("command", "answers"),
    [
        (b"RSET", [b"250", b"250", b"250", b"250"]),
        (b"EHLO y", [b"250", b"250", b"250", b"250"]),
        (b"HELO y", [b"250", b"250", b"250", b"250"]),
        (b"QUIT", [b"221"]),
    ],
)
async def test_a_message_can_be_abandoned_between_chunks(leg: Leg, command: bytes, answers: list[bytes]) -> None:
    again = b"MAIL FROM:<c@example.com>\r\nRCPT TO:<d@example.com>\r\n" + bdat(b"new\r\n", b" LAST")
    found = await replies(leg, bdat(b"old\r\n") + command + b"\r\n" + again)
    assert [line[:3] for line in found] == [b"250", *answers]
    assert [each.content for each in leg.relay.delivered] == [b"new\r\n"][: len(answers) - 1]
    await until(lambda: leg.relay.left == leg.relay.entered)


@pytest.mark.parametrize(
    "sent", [bdat(b"one\r\n"), bdat(b"one\r\n") + b"BDAT 20 LAST\r\n123", b"BDAT 20\r\nA: b\r\n\r\n123"]
)
@pytest.mark.parametrize("leave", ["close", "reset", "half-close"])
async def test_a_device_that_vanishes_between_or_within_chunks_delivers_nothing(
    leg: Leg, sent: bytes, leave: str
) -> None:
    if leave == "half-close":
        await replies(leg, sent)
    else:
        async with leg.connected() as (reader, writer):
            writer.write(ENVELOPE + sent)
            await reader.readuntil(b"2.1.5 OK\r\n")
            await until(lambda: leg.relay.content)
            if leave == "reset":
                reset(writer)
    await until(lambda: leg.relay.left == 1)
    assert leg.relay.delivered == []


@pytest.mark.parametrize("envelope", [b"", b"EHLO x\r\n", b"EHLO x\r\nMAIL FROM:<a@example.com>\r\n"])
async def test_a_chunk_out_of_order_is_no_command(leg: Leg, envelope: bytes) -> None:
    found = (await leg.exchange(envelope + bdat(EVIL) + bdat(b"", b" LAST") + b"NOOP\r\n")).splitlines()
    assert [line[:7] for line in found[-3:]] == [b"503 5.5", b"503 5.5", b"250 2.0"]
    assert leg.relay.asked == []


async def test_a_chunk_behind_data_is_no_command(leg: Leg) -> None:
    found = await replies(leg, b"DATA\r\nx\r\n.\r\n" + bdat(EVIL, b" LAST") + b"NOOP\r\n")
    assert [line[:3] for line in found] == [b"354", b"250", b"503", b"250"]
    assert leg.relay.asked == ["b@example.com"]


@pytest.mark.parametrize(("recipient", "reply"), [(b"refuse-550", b"554 5.5.1 "), (b"refuse-450", b"451 4.5.1 ")])
async def test_chunks_without_an_accepted_recipient(leg: Leg, recipient: bytes, reply: bytes) -> None:
    envelope = b"HELO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<%b@example.com>\r\n" % recipient
    found = (await leg.exchange(envelope + bdat(EVIL) + bdat(EVIL, b" LAST") + b"NOOP\r\n")).splitlines()
    assert [line[:10] for line in found[-3:]] == [reply, reply, b"250 2.0.0 "]
    assert len(leg.relay.asked) == 1


async def test_a_failure_answers_all_chunks_of_its_message(leg: Leg) -> None:
    lump = bdat(b"X-Stop-Reading: yes\r\n" + EVIL) + bdat(EVIL) + bdat(EVIL, b" LAST")
    again = b"MAIL FROM:<c@example.com>\r\nRCPT TO:<d@example.com>\r\n" + bdat(b"new\r\n", b" LAST")
    found = await replies(leg, lump + again)
    assert [line[:9] for line in found[:3]] == [b"554 5.9.9"] * 3
    assert [line[:3] for line in found[3:]] == [b"250"] * 3
    assert [each.content for each in leg.relay.delivered] == [b"new\r\n"]
    # An RSET ends it, and so does a new message.
    found = await replies(leg, bdat(b"X-Stop-Reading: yes\r\n\r\n") + b"RSET\r\n" + bdat(EVIL, b" LAST"))
    assert [line[:3] for line in found] == [b"554", b"250", b"503"]


async def test_a_verdict_on_the_whole_is_the_last_chunks(leg: Leg) -> None:
    found = await replies(leg, bdat(b"X-Verdict: refuse-552\r\n") + bdat(b"\r\nbody\r\n", b" LAST") + b"NOOP\r\n")
    assert [line[:9] for line in found] == [b"250 2.0.0", b"552 5.9.9", b"250 2.0.0"]


async def test_a_transaction_that_failed_before_its_chunks(leg: Leg) -> None:
    lost = b"RCPT TO:<lost@example.com>\r\n"
    found = await replies(leg, lost + bdat(EVIL) + bdat(EVIL, b" LAST") + b"NOOP\r\n")
    assert [line[:9] for line in found] == [b"451 4.4.2"] * 3 + [b"250 2.0.0"]
    assert leg.relay.delivered == []


async def test_the_size_limit_is_that_of_all_chunks(start_leg: StartLeg) -> None:
    leg = await start_leg(max_octets=65536)
    half = b"x" * 32766 + b"\r\n"
    found = await replies(leg, bdat(half) + bdat(half, b" LAST"))
    assert [line[:3] for line in found] == [b"250", b"250"]
    found = await replies(leg, bdat(half) + bdat(half) + bdat(b"MAIL FROM:<>\r\n") + bdat(EVIL, b" LAST") + b"NOOP\r\n")
    assert [line[:9] for line in found] == [b"250 2.0.0"] * 2 + [b"552 5.3.4"] * 2 + [b"250 2.0.0"]
    assert len(leg.relay.delivered) == 1


@pytest.mark.parametrize("before", [b"", bdat(b"x\r\n")])
async def test_a_chunk_that_is_too_large_to_be_skipped_ends_the_session(start_leg: StartLeg, before: bytes) -> None:
    leg = await start_leg(max_octets=65536)
    found = await replies(leg, before + b"BDAT 9999999999 LAST\r\n" + b"x" * 200_000 + EVIL, half_close=False)
    assert found[-1][:9] == b"552 5.3.4"
    assert leg.relay.delivered == []
    # The first chunk of a message is refused before the backend hears of it.
    assert bool(leg.relay.content) == bool(before)


@pytest.mark.parametrize(
    "argument", [b"", b" ", b" x", b" -1 LAST", b" 0x5", b" 5 FIRST", b" 5 LAST x", b" 9" * 2, b" %d" % 10**30]
)
async def test_a_chunk_that_cannot_be_understood_ends_the_session(leg: Leg, argument: bytes) -> None:
    found = await replies(leg, b"BDAT" + argument + b"\r\n" + EVIL, half_close=False)
    assert [line[:9] for line in found] == [b"501 5.5.4"]
    assert leg.relay.asked == ["b@example.com"]


async def test_too_many_errors_between_chunks_end_the_session(leg: Leg) -> None:
    found = await replies(leg, bdat(b"x\r\n") + b"XYZZY\r\n" * 30)
    assert found[-1] == b"421 4.7.0 Too many errors, goodbye"
    assert leg.relay.delivered == []
    await until(lambda: leg.relay.left == 1)


async def test_large_chunks_stream(start_leg: StartLeg) -> None:
    leg = await start_leg(max_octets=100 << 20)
    leg.relay.keep_content = False
    line = b"x" * 998 + b"\r\n"
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE)
        await reader.readuntil(b"2.1.5 OK\r\n")
        tracemalloc.start()
        try:
            for number in range(4):
                writer.write(b"BDAT 8000000%b\r\n" % (b" LAST" if number == 3 else b""))
                for _ in range(80):
                    writer.write(line * 100)
                    await writer.drain()
                assert (await reader.readline()).startswith(b"250 ")
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()
    assert leg.relay.octets == 32_000_000


async def test_a_client_that_left_behind_its_last_chunk_gets_exactly_one_delivery(leg: Leg) -> None:
    leg.relay.hold = asyncio.Event()
    async with leg.connected() as (_, writer):
        writer.write(ENVELOPE + bdat(b"x\r\n") + bdat(b"y\r\n", b" LAST"))
        await leg.relay.holding.wait()
        reset(writer)
    await asyncio.sleep(0.05)
    leg.relay.hold.set()
    await until(lambda: leg.relay.left == 1)
    assert [each.content for each in leg.relay.delivered] == [b"x\r\ny\r\n"]


@pytest.mark.fault("A19")
async def test_any_cut_gives_the_same_replies_and_the_same_messages(start_leg: StartLeg) -> None:
    lump = (
        ENVELOPE + bdat(b"on") + b"NOOP\r\n" + bdat(b"e\r") + bdat(b"\n.\r\n", b" LAST") + bdat(EVIL, b" LAST")
        + b"MAIL FROM:<c@example.com>\r\nRCPT TO:<d@example.com>\r\n" + bdat(b"x\r\n") + b"RSET\r\nQUIT\r\n"
    )  # fmt: skip
    whole: tuple[bytes, list[bytes]] | None = None
    for cut in range(0, len(lump), 3):
        leg = await start_leg(MemoryRelay())
        async with leg.connected() as (reader, writer):
            writer.write(lump[:cut])
            for _ in range(4):
                await asyncio.sleep(0)
            writer.write(lump[cut:])
            found = await reader.read(), [each.content for each in leg.relay.delivered]
        whole = whole or found
        assert found == whole
    assert whole is not None
    assert whole[1] == [b"one\r\n.\r\n"]
    assert len(re.findall(rb"^503", whole[0], re.MULTILINE)) == 1


async def test_a_relay_that_waits_in_turns_gets_the_message_and_the_device_one_reply_for_each_chunk(
    leg: Leg, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0

    async def send(self: MemoryTransaction, content: AsyncIterator[bytes]) -> Receipt:
        nonlocal turns
        while True:
            try:
                self._message.content += await asyncio.wait_for(anext(content), 0.01)
            except TimeoutError:
                turns += 1
            except StopAsyncIteration:
                self._relay.delivered.append(self._message)
                return Receipt(queue_id="42")

    monkeypatch.setattr(MemoryTransaction, "send", send)
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE)
        await reader.readuntil(b"2.1.5 OK\r\n")
        for chunk in (b"one\r\n", b"two\r\n"):
            seen = turns
            writer.write(bdat(chunk))
            assert await reader.readline() == NEXT + b"\r\n"
            await until(lambda seen=seen: turns > seen + 1)  # type: ignore[misc]
        writer.write(bdat(b"three\r\n", b" LAST"))
        assert await reader.readline() == TAKEN + b"\r\n"
    assert [each.content for each in leg.relay.delivered] == [b"one\r\ntwo\r\nthree\r\n"]
