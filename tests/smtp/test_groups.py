"""What a client sends without waiting (RFC 2920): recipients asked for together, and content that is no command."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from unittest.mock import Mock

import pytest

from announced import SMTP
from legacy_email_proxy.contracts import Refused
from legacy_email_proxy.replies import Reply
from legacy_email_proxy.smtp import session as session_module
from smtp.conftest import Leg
from smtp.test_session import facts, reset
from waiting import until

MAIL = b"EHLO x\r\nMAIL FROM:<a@example.com>\r\n"
BODY = b"Subject: x\r\n\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nspoof\r\n.\r\n"


def rcpt(*names: str) -> bytes:
    return b"".join(b"RCPT TO:<%b@example.com>\r\n" % name.encode() for name in names)


async def codes(leg: Leg, octets: bytes) -> list[bytes]:
    """The replies behind MAIL's."""
    lines = [line for line in (await leg.exchange(MAIL + octets)).splitlines() if line[3:4] != b"-"]
    return [line[:9] for line in lines[3:]]


@pytest.mark.parametrize(
    ("behind", "content_follows"),
    [
        (b"DATA\r\n.\r\n", True),
        (b"data \r\n.\r\n", True),
        (b"BDAT 1 LAST\r\nx", True),
        (b"BDAT 9999999999 LAST\r\nx", False),
        (b"BDAT x\r\n", False),
        (b"DATA x\r\n", False),
        (b"DATA \x1f\r\n", False),
        (b"DATA \xa0\r\n", False),
        (b"BDAT 5 LAST\x1c\r\n", False),
        (b"BDAT 5 \x85\r\n", False),
        (b"RSET\r\n", False),
        (b"DAT", False),
        (b"", False),
    ],
)
async def test_recipients_that_came_together_are_asked_for_together(
    leg: Leg, behind: bytes, content_follows: bool
) -> None:
    leg.relay.groups = True
    found = await codes(leg, rcpt("one", "refuse-550", "two") + behind)
    assert found[:3] == [b"250 2.1.5", b"550 5.9.9", b"250 2.1.5"]
    names = ("one@example.com", "refuse-550@example.com", "two@example.com")
    assert leg.relay.asked == [(*names, f"content_follows={content_follows}")]
    assert [each.forward_paths for each in leg.relay.delivered] == [[names[0], names[2]]] * content_follows


async def test_a_client_that_waits_is_asked_for_one_by_one(leg: Leg) -> None:
    leg.relay.groups = True
    async with leg.connected() as (reader, writer):
        for command in (MAIL, rcpt("one"), rcpt("two")):
            writer.write(command)
            await reader.readuntil(b" OK\r\n")
    assert leg.relay.asked == [(f"{name}@example.com", "content_follows=False") for name in ("one", "two")]


async def test_a_relay_without_groups_is_asked_one_by_one(leg: Leg) -> None:
    assert await codes(leg, rcpt("one", "refuse-450", "two")) == [b"250 2.1.5", b"450 4.9.9", b"250 2.1.5"]
    assert leg.relay.asked == ["one@example.com", "refuse-450@example.com", "two@example.com"]


@pytest.mark.parametrize("groups", [True, False])
async def test_errors_keep_their_place(leg: Leg, groups: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_RECIPIENTS", 2)
    leg.relay.groups = groups
    lump = (
        b"RCPT TO:<>\r\n" + rcpt("one") + b"RCPT TO:<x@y> COLOUR=RED\r\nRCPT nonsense\r\n" + rcpt("two", "three")
        + b"RCPT TO:<a\tb@c>\r\nDATA\r\nx\r\n.\r\n"
    )  # fmt: skip
    assert [code[:3] for code in await codes(leg, lump)] == (
        [b"553", b"250", b"555", b"501", b"250", b"452", b"553", b"354", b"250"]
    )
    assert leg.relay.delivered[0].forward_paths == ["one@example.com", "two@example.com"]


@pytest.mark.parametrize("groups", [True, False])
async def test_a_failure_in_a_group_is_that_of_all_behind_it(
    leg: Leg, groups: bool, caplog: pytest.LogCaptureFixture
) -> None:
    leg.relay.groups = groups
    found = await codes(leg, rcpt("one", "lost", "two") + b"DATA\r\nx\r\n.\r\nNOOP\r\n")
    first = b"451 4.4.2" if groups else b"250 2.1.5"
    # Of a group nobody knows which the backend took; each of them is to be sent again.
    assert found[:3] == [first, b"451 4.4.2", b"451 4.4.2"]
    # And where it took none, the content that came without waiting is not to be read.
    assert found[-1] == (b"451 4.5.1" if groups else b"250 2.0.0")
    assert leg.relay.delivered == []
    await until(lambda: leg.relay.left == 1)
    assert "not left cleanly" not in caplog.text


async def test_a_relay_with_too_few_verdicts_is_not_believed(
    leg: Leg, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leg.relay.groups = True

    async def none(self: object, recipients: object, *, content_follows: bool) -> list[None]:
        return []

    monkeypatch.setattr("smtp.relays.GroupTransaction.add_recipients", none)
    assert await codes(leg, rcpt("one", "two")) == [b"451 4.3.0"] * 2
    assert "another number of verdicts" in caplog.text or facts(caplog, "smtp recipient refused")


async def test_each_recipient_of_a_group_is_answered_whatever_goes_wrong(
    leg: Leg, monkeypatch: pytest.MonkeyPatch
) -> None:
    leg.relay.groups = True

    async def bug(*_: object) -> list[Reply | None]:
        raise ValueError("a bug of ours")

    monkeypatch.setattr(leg.handler, "_ask", bug)
    lump = rcpt("one", "two", "three") + b"NOOP\r\n"
    assert await codes(leg, lump) == [*[b"451 4.3.0"] * 3, b"250 2.0.0"]


async def test_a_refusal_that_can_not_be_told_is_that_of_each_recipient(
    leg: Leg, monkeypatch: pytest.MonkeyPatch
) -> None:
    leg.relay.groups = True

    async def nameless(self: object, recipients: Sequence[object], *, content_follows: bool) -> list[Refused | None]:
        return [None, *[Refused(550, None, "no")] * (len(recipients) - 1)]  # type: ignore[arg-type]

    monkeypatch.setattr("smtp.relays.GroupTransaction.add_recipients", nameless)
    # The backend took the first; but who was told nothing of it will send it again.
    lump = rcpt("one", "two", "three") + b"RSET\r\n"
    assert await codes(leg, lump) == [*[b"451 4.3.0"] * 3, b"250 2.0.0"]
    assert leg.relay.left == 1


async def test_a_whole_group_is_answered_in_one_write(leg: Leg, monkeypatch: pytest.MonkeyPatch) -> None:
    async with leg.connected() as (reader, writer):
        await reader.readline()
        (session,) = leg.server._connections
        transport = Mock(wraps=session.protocol.transport)
        monkeypatch.setattr(session.protocol, "transport", transport)
        writer.write(MAIL + rcpt("one", "two") + b"DATA\r\n")
        await reader.readuntil(b"354 ")
        writes = [call.args[0].count(b"\r\n") for call in transport.write.mock_calls]
        assert writes == [len(SMTP["{EHLO}"]) + 1 + 2 + 1]


@pytest.mark.fault("A20")
@pytest.mark.parametrize("refused", [b"", rcpt("refuse-550"), rcpt("one") + b"RSET\r\n", rcpt("one") + b"DATA x\r\n"])
async def test_content_behind_a_refused_data_is_never_a_command(
    leg: Leg, refused: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = b"" if refused.endswith(b"x\r\n") else b"DATA\r\n"
    found = await codes(leg, refused + data + BODY + b"QUIT\r\n")
    assert found[-1][:3] in (b"503", b"554", b"501")
    assert b"victim@example.com" not in str(leg.relay.asked).encode()
    await until(lambda: facts(caplog, "smtp session ended"))
    assert facts(caplog, "smtp session ended")[0]["verdict"] == "sent content behind a refused DATA"


async def test_content_that_arrives_later_behind_a_refused_data_ends_the_session(leg: Leg) -> None:
    async with leg.connected() as (reader, writer):
        writer.write(MAIL + b"DATA\r\n")
        await reader.readuntil(b"503 5.5.1 Bad sequence of commands\r\n")
        writer.write(BODY)
        assert await reader.read() == b"500 5.5.1 Command not recognized\r\n"
    assert leg.relay.asked == []


async def test_a_command_behind_a_refused_data_is_obeyed(leg: Leg) -> None:
    async with leg.connected() as (reader, writer):
        writer.write(MAIL + b"DATA\r\n")
        await reader.readuntil(b"503 5.5.1 Bad sequence of commands\r\n")
        writer.write(b"RSET\r\nXYZZY\r\nQUIT\r\n")
        assert [line[:3] for line in (await reader.read()).splitlines()] == [b"250", b"500", b"221"]


@pytest.mark.parametrize("recipient", ["refuse-450", "lost"])
async def test_content_whose_recipients_may_come_again_is_not_refused_for_good(leg: Leg, recipient: str) -> None:
    async with leg.connected() as (reader, writer):
        writer.write(MAIL + rcpt("refuse-550", recipient) + b"DATA\r\n")
        await reader.readuntil(b"550 5.9.9")
        async with asyncio.timeout(5):
            await reader.readuntil(b"451 4.5.1 No valid recipients, try again later\r\n")


async def test_what_is_sent_while_the_backend_thinks_is_not_taken_without_bounds(leg: Leg) -> None:
    async with leg.connected() as (_, writer):
        writer.write(MAIL + rcpt("stuck") + b"DATA\r\n")
        await leg.relay.holding.wait()
        (session,) = leg.server._connections
        writer.write(b"x" * (32 << 20))
        await until(lambda: session.incoming._paused)
        held = len(session.incoming)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(session.incoming) == held < 1 << 20
        reset(writer)
