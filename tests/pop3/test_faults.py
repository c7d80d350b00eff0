"""What clients do wrong, by accident or on purpose."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import cycle, islice

import pytest

from legacy_email_proxy.contracts import LoginRefused
from legacy_email_proxy.pop3 import conversation as conversation_module
from legacy_email_proxy.pop3.conversation import Conversation
from legacy_email_proxy.pop3.requests import Close, Verdict
from legacy_email_proxy.pop3.session import MAX_COMMANDS_BEFORE_LOGIN
from pop3.conftest import StartLeg
from pop3.maildrops import MemoryMaildrop, Play
from pop3.test_server import StreamingMaildrop, small_window
from waiting import until


@pytest.mark.fault("C28")
def test_a_flood_of_pipelined_commands() -> None:
    play = Play(MemoryMaildrop())
    play.log_in()
    started = time.monotonic()
    count = 0
    for _ in range(10):
        play.out.clear()
        count += play.feed(b"NOOP\r\n" * 20_000).count(b"+OK\r\n")
    assert count == 200_000
    # Quadratic work on a buffer that is taken from its front would need minutes.
    assert time.monotonic() - started < 20
    assert play.closed is None


@pytest.mark.fault("C27")
async def test_many_sessions_with_large_messages_leave_a_small_one_its_turn(start_leg: StartLeg) -> None:
    sessions = 50
    maildrop = StreamingMaildrop(10 << 20)
    leg = await start_leg(maildrop)
    with ExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for _ in range(sessions):
            client = stack.enter_context(small_window(leg.address))
            client.sendall(b"USER u\r\nPASS p\r\nRETR 1\r\n")
        replies = await leg.exchange(b"USER u\r\nPASS p\r\nRETR 2\r\nQUIT\r\n")
        assert replies.endswith(b"+OK 8 octets\r\nS: s\r\n\r\n.\r\n+OK goodbye\r\n")
        await until(lambda: maildrop.iterators == sessions + 1)
        before = -1
        while before != maildrop.handed_out:  # until no reader's system takes any more
            before = maildrop.handed_out
            for _ in range(100):
                await asyncio.sleep(0)
        assert maildrop.closed == 1, "the large ones wait for their readers"
        assert tracemalloc.get_traced_memory()[1] < sessions * 512 * 1024
    await leg.ended()
    assert maildrop.closed == maildrop.iterators == sessions + 1


@pytest.mark.fault("C30")
async def test_guessing_on_many_connections(start_leg: StartLeg) -> None:
    maildrop = MemoryMaildrop(fail_open=[LoginRefused("x") for _ in range(1000)])
    leg = await start_leg(maildrop, ask_backend=True, login_delay_seconds=0.3)
    started = time.monotonic()
    out = await asyncio.gather(*(leg.exchange(b"USER me\r\nPASS guess\r\n" * 9) for _ in range(50)))
    # Three each, however many are sent ahead, and each after its delay.
    assert {replies.count(b"-ERR [AUTH]") for replies in out} == {3}
    assert len(maildrop.logins) == 150
    assert time.monotonic() - started > 0.85


@pytest.mark.parametrize(("begin", "errors"), [(Play.greet, 3), (Play.log_in, 20)])
def test_errors_in_a_loop_end_the_session(begin: Callable[[Play], bytes], errors: int) -> None:
    play = Play(MemoryMaildrop())
    begin(play)
    assert play.feed(b"NONSENSE\r\n" * 100).count(b"-ERR") == errors
    assert play.closed is not None


@pytest.mark.fault("C28")
@pytest.mark.parametrize("command", [b"NOOP", b"UIDL", b"RSET"])
async def test_a_flood_leaves_others_their_turn(
    start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch, command: bytes
) -> None:
    """Counted, not timed: how much of the flood is answered while another client gets one answer."""
    leg = await start_leg(MemoryMaildrop({"a": b"x"}))
    answered, put = 0, Conversation._put

    def counted(self: Conversation, octets: bytes) -> bool:
        nonlocal answered
        answered += 1
        return put(self, octets)

    monkeypatch.setattr(Conversation, "_put", counted)
    meanwhile = []
    async with leg.logged_in() as (_, flooding), leg.logged_in() as (reader, writer), asyncio.timeout(50):
        flooding.write((command + b"\r\n") * 20_000)
        for _ in range(20):
            before = answered
            writer.write(b"STAT\r\n")
            assert (await reader.readline()).startswith(b"+OK 1 ")
            meanwhile.append(answered - before)
    assert max(meanwhile) < 1000, meanwhile


@pytest.mark.fault("C28")
@pytest.mark.parametrize("commands", [[b"CAPA"], [b"AUTH", b"CAPA"]])
def test_a_client_that_does_not_log_in_is_told_to_go(commands: list[bytes]) -> None:
    play = Play(MemoryMaildrop())
    play.greet()
    play.feed(b"".join(command + b"\r\n" for command in islice(cycle(commands), MAX_COMMANDS_BEFORE_LOGIN + 9)))
    assert play.closed == Close(Verdict.ERRORS, "too many commands without a login")
    assert play.out.endswith(b"\r\n-ERR too many commands\r\n")
    assert play.out.count(b"+OK") == 1 + MAX_COMMANDS_BEFORE_LOGIN


@pytest.mark.fault("C28")
async def test_a_session_without_a_message_has_an_end(
    start_leg: StartLeg, ends: Callable[[], list[dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation_module, "SESSION_SECONDS", 0.5)
    leg = await start_leg(MemoryMaildrop({"a": b"x"}), idle_seconds=0.4)
    async with leg.logged_in() as (reader, writer), asyncio.timeout(20):
        began = time.monotonic()
        # More often than the autologout of RFC 1939 wants it.
        while reader.at_eof() is False:
            with suppress(ConnectionError, TimeoutError):
                writer.write(b"NOOP\r\n")
                await asyncio.wait_for(reader.readline(), 0.1)
                await asyncio.sleep(0.05)
        assert time.monotonic() - began >= 0.45
    await leg.ended()
    assert (ends()[-1]["verdict"], ends()[-1]["reason"]) == ("idle", "asked for no message in all that time")
    assert leg.maildrop.commits == []
