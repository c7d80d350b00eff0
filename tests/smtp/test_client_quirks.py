"""What sending devices are known to do and to need, each replayed; :data:`QUIRKS` says where.

The numbers are those of the table of devices' habits in proxy/docs/smtp.md.
"""

from __future__ import annotations

import base64
import re

import pytest

from legacy_email_proxy.smtp.authentication import anybody
from pages import rows
from places import missing
from smtp.conftest import Leg, StartLeg
from smtp.test_session import ENVELOPE
from waiting import until

DONE = b"250 2.0.0 OK, the message is taken over as 42\r\n"

QUIRKS = {
    "C1 Xerox hangs up at any prompt but Username: and Password:": ["transcripts/smtp/xerox_login_prompts.txt"],
    "C2 AUTH LOGIN with the user in the command": ["transcripts/smtp/konica_inline_user.txt"],
    "C3 AUTH=<>, RET, ENVID, NOTIFY, ORCPT unasked": ["transcripts/smtp/vcenter_parameters.txt"],
    "C4 paths without brackets, with blanks": ["transcripts/smtp/megaraid_brackets.txt"],
    "C5 odd senders, names in front, dots behind": [
        "transcripts/smtp/odd_senders.txt",
        "smtp/test_paths.py::test_good",
    ],
    "C6 the null sender": ["transcripts/smtp/null_sender.txt"],
    "C7 HELO only, yet a login": ["transcripts/smtp/auth_after_helo.txt", "transcripts/smtp/helo_only.txt"],
    "C8 any name in HELO, or none": ["transcripts/smtp/helo_names.txt"],
    "C9 a second EHLO": ["transcripts/smtp/second_ehlo.txt"],
    "C10 AUTH=LOGIN in the reply to EHLO": ["transcripts/smtp/auth_plain.txt"],
    "C11 AUTH without TLS": [
        "transcripts/smtp/auth_plain.txt",
        "smtp/test_authentication.py::test_without_the_setting_there_is_no_auth",
    ],
    "C12 Ricoh takes CRAM-MD5 and gives up": ["transcripts/smtp/ricoh_cram_md5.txt"],
    "C13 TLS, or HTTP, to the plain port": [
        "transcripts/smtp/hp_client_hello.txt",
        "transcripts/smtp/http_request.txt",
        "smtp/test_session.py::test_other_protocols_are_told_once_and_closed",
        "smtp/test_session.py::test_http_is_noticed_behind_an_overlong_request_line",
        "smtp/test_tls.py::test_tls_on_the_plain_port_is_not_answered_with_tls",
    ],
    "C14 never ends the message": [
        "smtp/test_progress.py::test_a_message_that_stops_behind_a_bare_end_is_refused",
        "smtp/test_progress.py::test_a_device_that_stays_silent_is_closed_in_the_end",
    ],
    "C15 bare LFs, at the end too": [
        "transcripts/smtp/control_characters.txt",
        "smtp/test_progress.py::test_where_a_bare_end_is_trusted_it_ends_the_message",
        "smtp/test_progress.py::test_elsewhere_a_bare_end_is_not_trusted",
    ],
    "C16 smuggling": ["transcripts/smtp/smuggling_gives_one_message.txt"],
    "C17 lines of more than 1000 octets": [
        "smtp/test_client_quirks.py::test_c17_long_lines_pass_unchanged",
        "smtp/test_long_lines.py::test_it_streams_where_that_is_asked_for",
    ],
    "C18 8-bit octets": ["transcripts/smtp/eight_bit.txt"],
    "C19 no Date, no Message-ID, no To": [
        "transcripts/smtp/no_header.txt",
        "smtp/test_headers.py::test_what_is_missing_is_added",
    ],
    "C20 one Message-ID twice": ["transcripts/smtp/same_message_id_twice.txt"],
    "C21 the reply to QUIT": ["transcripts/smtp/quit_with_argument.txt", "transcripts/smtp/helo_only.txt"],
    "C22 fields too short for a real login": [
        "smtp/test_client_quirks.py::test_c22_any_short_login_will_do",
        "interop/test_accounts.py::test_a_login_by_smtp_chooses_the_account",
        "smtp/test_authentication.py::test_any_password_of_any_device_may_pass",
    ],
    "C23 chatter and unknown verbs": ["transcripts/smtp/chatter.txt"],
    "C24 POP before SMTP": ["interop/test_smtps.py::test_pop_before_smtp"],
    "C25 gives up fast, tries again at once": [
        "smtp/test_client_quirks.py::test_c25_a_stuck_backend_holds_nobody_else",
        "smtp/test_client_quirks.py::test_c25_the_next_try_is_a_fresh_one",
    ],
    "C26 mechanisms in lower case": [
        "transcripts/smtp/auth_after_helo.txt",
        "transcripts/smtp/auth_plain_challenge.txt",
    ],
}


def test_every_quirk_is_replayed() -> None:
    assert [name.split()[0] for name in QUIRKS] == [f"C{number}" for number in range(1, 27)]
    assert missing(place for places in QUIRKS.values() for place in places) == []


def test_the_page_tells_every_quirk() -> None:
    told = [number for row in rows("devices") for number in re.findall(r"C\d+", row.split("|")[1])]
    assert told == [f"C{number}" for number in range(1, 27)]


@pytest.mark.parametrize("octets", [998, 999, 1000, 1001, 2048, 65536, 1 << 20])
async def test_c17_long_lines_pass_unchanged(start_leg: StartLeg, octets: int) -> None:
    leg = await start_leg(max_octets=4 << 20)
    line = bytes(range(33, 127)) * (octets // 94 + 1)
    content = b"Subject: x\r\n\r\n" + line[: octets - 2] + b"\r\n.." + line[: octets - 4] + b"\r\n"
    assert DONE in await leg.exchange(ENVELOPE + content + b".\r\nQUIT\r\n")
    assert leg.relay.delivered[0].content == content.replace(b"\r\n..", b"\r\n.")


async def test_c22_any_short_login_will_do(start_leg: StartLeg) -> None:
    leg = await start_leg(verifier=anybody)
    login = base64.b64encode(b"\x001\x00")
    assert b"235 2.7.0 " in await leg.exchange(b"HELO x\r\nAUTH PLAIN " + login + b"\r\n")


async def test_c25_a_stuck_backend_holds_nobody_else(leg: Leg) -> None:
    async with leg.connected() as (_, stuck):
        stuck.write(b"HELO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<stuck@example.com>\r\n")
        await leg.relay.holding.wait()
        for _ in range(3):
            assert DONE in await leg.exchange(ENVELOPE + b"x\r\n.\r\nQUIT\r\n")
    assert len(leg.relay.delivered) == 3


async def test_c25_the_next_try_is_a_fresh_one(leg: Leg) -> None:
    # In the same session and in a new one, without a pause, also where the last one was just left.
    failing = ENVELOPE + b"X-Verdict: down@\r\n.\r\n"
    replies = await leg.exchange(failing + ENVELOPE + b"x\r\n.\r\n")
    envelope = [b"250", b"250", b"250", b"354"]
    assert [line[:3] for line in replies.splitlines()[1:]] == [*envelope, b"451", *envelope, b"250"]
    async with leg.connected() as (reader, writer):
        writer.write(ENVELOPE)
        await reader.readuntil(b"354 ")
    assert DONE in await leg.exchange(ENVELOPE + b"x\r\n.\r\n")
    await until(lambda: leg.relay.left == leg.relay.entered)
    assert len(leg.relay.delivered) == 2
