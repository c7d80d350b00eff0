"""What clients do wrong, by accident or on purpose; :data:`ROWS` says where each fault is injected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, islice

import pytest

from legacy_email_proxy.contracts import LoginRefused
from legacy_email_proxy.pop3 import conversation as conversation_module
from legacy_email_proxy.pop3.conversation import Conversation
from legacy_email_proxy.pop3.requests import Close, Verdict
from legacy_email_proxy.pop3.session import MAX_COMMANDS_BEFORE_LOGIN
from places import missing
from pop3.conftest import StartLeg
from pop3.maildrops import MemoryMaildrop, Play

ROWS = {
    "C19 DELE and then a drop": ["pop3/test_server.py::test_without_quit_nothing_is_deleted"],
    "C19 DELE and then a drop under TLS": ["pop3/test_tls.py::test_a_drop_under_tls_deletes_nothing"],
    "C19 DELE and then autologout": ["pop3/test_server.py::test_an_idle_session_is_closed_without_a_word"],
    "C19 QUIT before the login": ["transcripts/pop3/quit_before_login.txt"],
    "C19 DELE and then a proxy that is killed": ["interop/test_pop3_faults.py::test_a_killed_proxy_deletes_nothing"],
    "C22 QUIT and close without waiting": [
        "pop3/test_server.py::test_quit_and_close_without_waiting",
        "pop3/test_server.py::test_quit_commits_though_no_reply_can_be_sent",
    ],
    "C23 two sessions for one user": [
        "pop3/test_lock.py::test_a_second_session_reads_in_use",
        "pop3/test_lock.py::test_it_is_free_again",
        "pop3/test_lock.py::test_of_many_at_once_one_gets_it",
    ],
    "C24 a wrong password while locked": ["pop3/test_lock.py::test_a_wrong_password_learns_nothing_of_the_lock"],
    "C26 a reader that is slow or stops": [
        "pop3/test_server.py::test_a_slow_reader_costs_little_memory",
        "pop3/test_server.py::test_a_reader_that_stopped_is_cut_off",
    ],
    "C28 garbage": ["pop3/test_session.py::test_each_state_takes_any_octets"],
    "C28 an endless line": [
        "pop3/test_session.py::test_an_endless_line_is_one_error_and_bounded",
        "pop3/test_sasl.py::test_an_endless_response_is_one_mistake_and_bounded",
    ],
    "C28 a flood of commands": [
        "pop3/test_faults.py::test_a_flood_of_pipelined_commands",
        "pop3/test_faults.py::test_a_flood_leaves_others_their_turn",
        "pop3/test_faults.py::test_a_client_that_does_not_log_in_is_told_to_go",
        "pop3/test_faults.py::test_a_session_without_a_message_has_an_end",
    ],
    "C28 bare LF": ["transcripts/pop3/sloppy_clients.txt"],
    "C28 numbers that int() would take": ["transcripts/pop3/bad_numbers.txt", "pop3/test_commands.py::test_mistakes"],
    "C29 commands before the login": ["transcripts/pop3/wrong_state.txt"],
    "C29 commands after QUIT": ["transcripts/pop3/nothing_after_quit.txt"],
    "C29 USER twice": ["transcripts/pop3/user_twice.txt"],
    "C30 password guessing": [
        "pop3/test_faults.py::test_guessing_on_many_connections",
        "core/test_guessing.py::test_a_crowd_of_wrong_passwords_is_a_few_at_the_judge",
        "interop/test_guessing.py::test_wrong_passwords_stay_here",
        "pop3/test_server.py::test_only_a_refused_login_is_delayed",
        "pop3/test_server.py::test_three_failed_logins_close",
        "pop3/test_sasl.py::test_three_failed_logins_close_however_they_were_tried",
    ],
    "C31 passwords in the log": [
        "pop3/test_server.py::test_a_traceback_is_logged_and_no_secret",
        "pop3/test_sasl.py::test_no_secret_in_the_log",
        "interop/test_round_trip.py::test_no_secret_in_the_log_at_debug",
    ],
    "C32 autologout": [
        "pop3/test_server.py::test_an_idle_session_is_closed_without_a_word",
        "pop3/test_server.py::test_commands_keep_a_session_and_octets_do_not",
    ],
}


def test_every_row_has_its_test() -> None:
    assert missing(place for places in ROWS.values() for place in places) == []


def test_an_index_that_names_nothing_is_noticed() -> None:
    for place in ("pop3/test_faults.py::test_nothing", "pop3/nowhere.py::test_x", "transcripts/pop3/no.txt"):
        assert missing([place]) == [place]


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


@pytest.mark.parametrize("command", [b"NOOP", b"UIDL", b"RSET"])
async def test_a_flood_leaves_others_their_turn(
    start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch, command: bytes
) -> None:
    """Counted, not timed: how much of the flood is answered while another client gets one answer."""
    leg = await start_leg(MemoryMaildrop({"a": b"x"}))
    answered, put = 0, Conversation._put

    async def counted(self: Conversation, octets: bytes) -> None:
        nonlocal answered
        answered += 1
        await put(self, octets)

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


@pytest.mark.parametrize("commands", [[b"CAPA"], [b"AUTH", b"CAPA"]])
def test_a_client_that_does_not_log_in_is_told_to_go(commands: list[bytes]) -> None:
    play = Play(MemoryMaildrop())
    play.greet()
    play.feed(b"".join(command + b"\r\n" for command in islice(cycle(commands), MAX_COMMANDS_BEFORE_LOGIN + 9)))
    assert play.closed == Close(Verdict.ERRORS, "too many commands without a login")
    assert play.out.endswith(b"\r\n-ERR too many commands\r\n")
    assert play.out.count(b"+OK") == 1 + MAX_COMMANDS_BEFORE_LOGIN


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
