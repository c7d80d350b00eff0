"""What a stock aiosmtpd would do wrong here; the tests with a trap's mark show that we do not.

The first part of a row says what aiosmtpd 1.4 does. A version that mends one of them needs one override fewer.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import NoReturn

import pytest
from aiosmtpd.smtp import SMTP as StockSMTP

import matrix
from legacy_email_proxy.smtp import session
from legacy_email_proxy.smtp.aiosmtpd_adapter import SMTPProtocol
from legacy_email_proxy.smtp.handler import RelayHandler
from smtp.conftest import Leg, StartLeg
from smtp.test_session import MESSAGE

TRAPS = {
    "aiosmtpd-1": "a half-close cancels the handler",
    "aiosmtpd-2": "a client that leaves cancels the handler in the middle of its work",
    "aiosmtpd-3": "after 300 s a long DATA is cut",
    "aiosmtpd-4": "after 300 s a slow backend is cut",
    "aiosmtpd-5": "the deadline of a command begins anew with each octet's line",
    "aiosmtpd-6": "NOOP keeps a session for ever",
    "aiosmtpd-7": "the text of an exception is sent to the client, as 500",
    "aiosmtpd-8": "an exception in DATA leaves the content behind as commands",
    "aiosmtpd-9": "limits of command sizes are a class's, shared and reset by everybody",
    "aiosmtpd-10": "getfqdn for each connection",
    "aiosmtpd-11": "DATA is read line by line and held three times",
    "aiosmtpd-12": "an endless line of content is held",
    "aiosmtpd-13": "an endless command line",
    "aiosmtpd-14": "content lines of more than 1001 octets are refused",
    "aiosmtpd-15": "a client that never reads pins its socket",
    "aiosmtpd-16": "no limit of connections",
    "aiosmtpd-17": "no limit of recipients",
    "aiosmtpd-18": "only unknown commands count as errors",
    "aiosmtpd-19": "the null sender is the text <>",
    "aiosmtpd-20": "RCPT TO:<> is taken",
    "aiosmtpd-21": "control characters in addresses are taken",
    "aiosmtpd-22": "addresses are rewritten: quotes, comments, routes",
    "aiosmtpd-23": "MAIL FROM:< is an IndexError",
    "aiosmtpd-24": "a hook of an unknown name is ignored",
    "aiosmtpd-25": "the names of mechanisms are case-sensitive",
    "aiosmtpd-26": "the prompts of LOGIN",
    "aiosmtpd-27": "AUTH after HELO is unknown",
    "aiosmtpd-28": "the name of HELO may not be missing",
    "aiosmtpd-29": "AUTH=, RET, ENVID, NOTIFY, ORCPT are refused",
    "aiosmtpd-30": "QUIT with an argument is refused, and the session stays",
    "aiosmtpd-31": "bare CR and LF pass into what is relayed",
    "aiosmtpd-32": "a TLS handshake before admission, counted and logged by nobody",
    "aiosmtpd-33": "its private names are ours to watch",
}


def test_every_trap_has_its_test() -> None:
    claims = [claim for claim in matrix.claims("quirk") if claim.row.startswith("aiosmtpd-")]
    assert matrix.mistakes(claims, TRAPS) == []


@pytest.mark.fault("B17")
@pytest.mark.quirk("aiosmtpd-4")
async def test_a_slow_backend_is_waited_for(start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch) -> None:
    # Many times as long as a silent device is: the device's deadline isn't the backend's.
    leg = await start_leg(idle_seconds=0.1)
    leg.relay.delay_seconds = 0.4
    replies = await leg.exchange(MESSAGE + b"QUIT\r\n")
    assert [line[:3] for line in replies.splitlines()[-3:]] == [b"354", b"250", b"221"]


@pytest.mark.quirk("aiosmtpd-9")
async def test_one_session_shares_no_limit_with_another(leg: Leg) -> None:
    # A stock session's EHLO raises the limits of a dictionary that belongs to the class, for everybody.
    before = dict(StockSMTP.command_size_limits)
    for hello in (b"EHLO x\r\n", b"HELO x\r\n"):
        await leg.exchange(hello * 50 + b"MAIL FROM:<" + b"a" * 1500 + b"@example.com>\r\nQUIT\r\n")
    assert dict(StockSMTP.command_size_limits) == before
    assert leg.relay.entered == 2
    assert "command_size_limits" not in vars(SMTPProtocol)


@pytest.mark.quirk("aiosmtpd-10")
async def test_no_resolver_is_asked_for_our_name(leg: Leg, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> NoReturn:
        raise AssertionError("blocks the loop for as long as the resolver likes")

    for name in ("getfqdn", "gethostbyaddr", "gethostbyname"):
        monkeypatch.setattr(socket, name, ask)
    assert (await leg.exchange(b"QUIT\r\n")).startswith(b"220 proxy.test ")


@pytest.mark.quirk("aiosmtpd-24")
def test_every_hook_of_the_handler_is_called() -> None:
    folder = Path(session.__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    called = set(re.findall(r'hook\(\s*"(\w+)"', source))
    hooks = {name.removeprefix("handle_") for name in dir(RelayHandler) if name.startswith("handle_")}
    # RCPT is for a stock session; ours asks for recipients by the group. An exception is told by another way.
    assert called == hooks - {"RCPT", "exception"}
