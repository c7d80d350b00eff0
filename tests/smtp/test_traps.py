"""What a stock aiosmtpd would do wrong here, and where each is tested not to happen: :data:`TRAPS`.

The first part of a row says what aiosmtpd 1.4 does. A version that mends one of them needs one override fewer.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import NoReturn

import pytest
from aiosmtpd.smtp import SMTP as StockSMTP

from legacy_email_proxy.smtp import session
from legacy_email_proxy.smtp.aiosmtpd_adapter import SMTPProtocol
from legacy_email_proxy.smtp.handler import RelayHandler
from places import missing
from smtp.conftest import Leg, StartLeg
from smtp.test_session import MESSAGE

TRAPS = {
    "a half-close cancels the handler": ["smtp/test_session.py::test_half_close_behind_the_message_is_answered"],
    "a client that leaves cancels the handler in the middle of its work": [
        "smtp/test_session.py::test_client_that_vanishes_behind_the_end_gets_exactly_one_delivery",
    ],
    "after 300 s a long DATA is cut": ["smtp/test_session.py::test_slow_data_is_kept_alive_while_it_makes_progress"],
    "after 300 s a slow backend is cut": ["smtp/test_traps.py::test_a_slow_backend_is_waited_for"],
    "the deadline of a command begins anew with each octet's line": [
        "smtp/test_session.py::test_dripping_octets_do_not_keep_a_session_alive",
    ],
    "NOOP keeps a session for ever": ["smtp/test_faults.py::test_chatter_ends_the_session"],
    "the text of an exception is sent to the client, as 500": [
        "smtp/test_session.py::test_exception_text_stays_here",
        "transcripts/smtp/backend_down.txt",
    ],
    "an exception in DATA leaves the content behind as commands": [
        "smtp/test_session.py::test_a_relay_that_stumbles_at_data_leaves_no_content_behind",
        "transcripts/smtp/relay_gives_up_in_the_middle.txt",
    ],
    "limits of command sizes are a class's, shared and reset by everybody": [
        "smtp/test_traps.py::test_one_session_shares_no_limit_with_another",
    ],
    "getfqdn for each connection": ["smtp/test_traps.py::test_no_resolver_is_asked_for_our_name"],
    "DATA is read line by line and held three times": ["smtp/test_session.py::test_large_message_streams"],
    "an endless line of content is held": ["smtp/test_faults.py::test_an_endless_line_of_content_costs_no_memory"],
    "an endless command line": ["smtp/test_session.py::test_endless_command_line_costs_no_memory"],
    "content lines of more than 1001 octets are refused": [
        "smtp/test_client_quirks.py::test_c17_long_lines_pass_unchanged",
    ],
    "a client that never reads pins its socket": [
        "smtp/test_session.py::test_client_that_never_reads_is_cut_off",
        "smtp/test_tls.py::test_a_client_that_never_reads_is_cut_off",
    ],
    "no limit of connections": ["smtp/test_session.py::test_who_is_not_admitted"],
    "no limit of recipients": ["smtp/test_session.py::test_recipients_beyond_the_limit_come_in_another_message"],
    "only unknown commands count as errors": ["smtp/test_session.py::test_every_kind_of_mistake_is_counted"],
    "the null sender is the text <>": ["transcripts/smtp/null_sender.txt"],
    "RCPT TO:<> is taken": ["transcripts/smtp/null_sender.txt", "transcripts/smtp/bad_arguments.txt"],
    "control characters in addresses are taken": [
        "smtp/test_paths.py::test_bad_path",
        "transcripts/smtp/control_characters.txt",
    ],
    "addresses are rewritten: quotes, comments, routes": ["smtp/test_paths.py::test_never_rewritten"],
    "MAIL FROM:< is an IndexError": ["smtp/test_paths.py::test_never_another_exception"],
    "a hook of an unknown name is ignored": ["smtp/test_traps.py::test_every_hook_of_the_handler_is_called"],
    "the names of mechanisms are case-sensitive": ["transcripts/smtp/auth_after_helo.txt"],
    "the prompts of LOGIN": ["transcripts/smtp/xerox_login_prompts.txt"],
    "AUTH after HELO is unknown": ["transcripts/smtp/auth_after_helo.txt"],
    "the name of HELO may not be missing": ["transcripts/smtp/helo_names.txt"],
    "AUTH=, RET, ENVID, NOTIFY, ORCPT are refused": ["transcripts/smtp/vcenter_parameters.txt"],
    "QUIT with an argument is refused, and the session stays": ["transcripts/smtp/quit_with_argument.txt"],
    "bare CR and LF pass into what is relayed": ["transcripts/smtp/smuggling_gives_one_message.txt"],
    "a TLS handshake before admission, counted and logged by nobody": [
        "smtp/test_tls.py::test_who_is_not_admitted_costs_no_handshake",
        "smtp/test_tls.py::test_clients_without_tls_are_named",
    ],
    "its private names are ours to watch": ["smtp/test_session.py::test_the_aiosmtpd_that_we_know"],
}


def test_every_trap_has_its_test() -> None:
    assert missing(place for places in TRAPS.values() for place in places) == []


async def test_a_slow_backend_is_waited_for(start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch) -> None:
    # Many times as long as a silent device is: the device's deadline isn't the backend's.
    leg = await start_leg(idle_seconds=0.1)
    leg.relay.delay_seconds = 0.4
    replies = await leg.exchange(MESSAGE + b"QUIT\r\n")
    assert [line[:3] for line in replies.splitlines()[-3:]] == [b"354", b"250", b"221"]


async def test_one_session_shares_no_limit_with_another(leg: Leg) -> None:
    # A stock session's EHLO raises the limits of a dictionary that belongs to the class, for everybody.
    before = dict(StockSMTP.command_size_limits)
    for hello in (b"EHLO x\r\n", b"HELO x\r\n"):
        await leg.exchange(hello * 50 + b"MAIL FROM:<" + b"a" * 1500 + b"@example.com>\r\nQUIT\r\n")
    assert dict(StockSMTP.command_size_limits) == before
    assert leg.relay.entered == 2
    assert "command_size_limits" not in vars(SMTPProtocol)


async def test_no_resolver_is_asked_for_our_name(leg: Leg, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> NoReturn:
        raise AssertionError("blocks the loop for as long as the resolver likes")

    for name in ("getfqdn", "gethostbyaddr", "gethostbyname"):
        monkeypatch.setattr(socket, name, ask)
    assert (await leg.exchange(b"QUIT\r\n")).startswith(b"220 proxy.test ")


def test_every_hook_of_the_handler_is_called() -> None:
    folder = Path(session.__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    called = set(re.findall(r'hook\(\s*"(\w+)"', source))
    hooks = {name.removeprefix("handle_") for name in dir(RelayHandler) if name.startswith("handle_")}
    # RCPT is for a stock session; ours asks for recipients by the group. An exception is told by another way.
    assert called == hooks - {"RCPT", "exception"}
