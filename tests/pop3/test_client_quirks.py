"""What POP3 clients are known to do and to need, each replayed by the tests with the quirk's mark.

The numbers are those of proxy/docs/pop3-imap.md, POP3 clients' habits.
"""

from __future__ import annotations

import pytest

import matrix
from legacy_email_proxy.contracts import Entry, Login, MessageGone, Secret
from legacy_email_proxy.pop3.requests import Open, Reply, Retrieve, Verdict
from legacy_email_proxy.pop3.session import Session
from pop3.conftest import StartLeg
from pop3.maildrops import OPTIONS, MemoryMaildrop, Play

QUIRKS = {
    "pop3-P1": "Outlook sends UIDL without an argument only",
    "pop3-P2": "Outlook 2003 wants unique-ids without a dot",
    "pop3-P3": "Outlook 2003 goes wrong without UIDL and TOP",
    "pop3-P4": "Outlook hangs on NUL",
    "pop3-P5": "Outlook Express breaks without a blank line",
    "pop3-P6": "clients break on an extra blank line",
    "pop3-P7": "Outlook Express counts octets in 32 bits",
    "pop3-P8": "LAST, and RSET that sets it back",
    "pop3-P9": "Netscape without UIDL uses XTND XLST",
    "pop3-P10": "CAPA is asked before the login and remembered",
    "pop3-P11": "+OK to an unknown AUTH loses the step",
    "pop3-P12": "blanks in the password",
    "pop3-P13": "one blank in a line of UIDL",
    "pop3-P14": "a unique-id used again breaks Outlook",
    "pop3-P15": "lower case, trailing blanks, bare LF",
    "pop3-P16": "time-outs while a large message is loaded",
    "pop3-P17": "endless tries to read a vanished message",
    "pop3-P18": "connections dropped without QUIT",
    "pop3-P19": "no UIDL, delete all, poll every minute",
    "pop3-P20": "Gmail's recent: before the user",
}


def test_every_quirk_is_replayed() -> None:
    claims = [claim for claim in matrix.claims("quirk") if claim.row.startswith("pop3-")]
    assert matrix.mistakes(claims, QUIRKS) == []


def logged_in(messages: dict[str, bytes], **fail: BaseException) -> Play:
    play = Play(MemoryMaildrop(messages, fail={step.replace("_", " "): error for step, error in fail.items()}))
    play.log_in()
    return play


@pytest.mark.quirk("pop3-P1")
def test_p1_uidl_without_an_argument() -> None:
    play = logged_in({"a": b"", "b": b""})
    play.feed(b"DELE 1\r\n")
    assert play.feed(b"UIDL\r\n") == b"+OK unique-id listing follows\r\n2 b\r\n.\r\n"


@pytest.mark.quirk("pop3-P3")
def test_p3_uidl_and_top_are_never_refused() -> None:
    for messages in ({}, {"a": b""}, {f"u{n}": b"x" for n in range(3000)}):
        assert logged_in(messages).feed(b"UIDL\r\n").startswith(b"+OK")
    for content in (b"", b"no header", b"A: b\r\n", b"\r\n", b"A: b\r\n\r\nc"):
        for lines in (0, 1, 4294967295):
            assert logged_in({"a": content}).feed(b"TOP 1 %d\r\n" % lines).startswith(b"+OK")


@pytest.mark.quirk("pop3-P6")
@pytest.mark.parametrize("content", [b"A: b\r\n\r\nc\r\n", b"A: b\r\n\r\n", b"A: b\r\n\r\nc\r\n\r\n"])
def test_p6_no_line_is_added(content: bytes) -> None:
    octets = logged_in({"a": content}).feed(b"RETR 1\r\n")
    assert octets == b"+OK %d octets\r\n" % len(content) + content + b".\r\n"


@pytest.mark.quirk("pop3-P7")
def test_p7_a_maildrop_of_more_than_4_gib() -> None:
    # The true sum: RFC 1939 wants it, and a client that can't count so far is served no better by a lie.
    session = Session(OPTIONS)
    session.receive_data(b"USER u\r\nPASS p\r\n")
    while isinstance(session.next_event(), Reply):
        pass
    session.opened([Entry("a", 3 << 30), Entry("b", 3 << 30)])
    assert session.next_event() == Reply(b"+OK maildrop has 2 messages (6442450944 octets)\r\n")
    session.receive_data(b"STAT\r\n")
    assert session.next_event() == Reply(b"+OK 2 6442450944\r\n")


@pytest.mark.quirk("pop3-P13")
def test_p13_one_blank_and_the_number_first() -> None:
    play = logged_in({f"u{n}": b"x" for n in range(1200)})
    lines = play.feed(b"UIDL\r\n").split(b"\r\n")[1:-2]
    assert [line.split(b" ") for line in lines] == [[b"%d" % (n + 1), b"u%d" % n] for n in range(1200)]
    assert play.feed(b"UIDL 7\r\n") == b"+OK 7 u6\r\n"


@pytest.mark.quirk("pop3-P16")
def test_p16_the_first_octets_do_not_wait_for_the_last() -> None:
    session = Session(OPTIONS)
    session.receive_data(b"USER u\r\nPASS p\r\n")
    while isinstance(session.next_event(), Reply):
        pass
    session.opened([Entry("a", 1 << 30)])
    session.next_event()
    session.receive_data(b"RETR 1\r\n")
    assert isinstance(session.next_event(), Retrieve)
    assert session.message_piece(b"Received: x\r\n") == b"+OK 1073741824 octets\r\nReceived: x\r\n"


@pytest.mark.fault("C9")
@pytest.mark.quirk("pop3-P17")
def test_p17_a_vanished_message_is_not_asked_for_forever() -> None:
    play = logged_in({"a": b"", "b": b"x\r\n"}, retrieve_a=MessageGone("gone"))
    said = [play.feed(b"RETR 1\r\n") for _ in range(30)]
    # The first time it is no error of the client's; then each is one, and the others can be read in between.
    assert said[:20] == [b"-ERR the message was removed by another client\r\n"] * 20
    assert said[20] == b"-ERR Too many errors\r\n"
    assert play.verdict is Verdict.ERRORS


@pytest.mark.quirk("pop3-P19")
async def test_p19_a_device_that_reads_and_deletes_everything(start_leg: StartLeg) -> None:
    maildrop = MemoryMaildrop()
    leg = await start_leg(maildrop)
    for poll in range(30):
        maildrop.messages = {f"{poll}-{n}": b"S: x\r\n\r\n" for n in range(poll % 4)}
        numbers = range(1, len(maildrop.messages) + 1)
        commands = b"".join(b"RETR %d\r\nDELE %d\r\n" % (number, number) for number in numbers)
        out = await leg.exchange(b"USER scanner\r\nPASS \r\nSTAT\r\n" + commands + b"QUIT\r\n")
        assert out.endswith(b"+OK goodbye\r\n")
        assert b"-ERR" not in out
        assert maildrop.messages == {}


@pytest.mark.quirk("pop3-P20")
@pytest.mark.parametrize(
    ("user", "asked"),
    [
        (b"recent:me@gmail.com", "me@gmail.com"),
        (b"me@gmail.com", "me@gmail.com"),
        (b"Recent:me", "Recent:me"),
        (b"me+recent:x", "me+recent:x"),
    ],
)
async def test_p20_recent_before_the_user(start_leg: StartLeg, user: bytes, asked: str) -> None:
    # Gmail's POP3 takes it as "the last thirty days"; its IMAP doesn't know such a user.
    leg = await start_leg(ask_backend=True, lock=True)
    out = await leg.exchange(b"USER " + user + b"\r\nPASS p\r\nQUIT\r\n")
    assert b"-ERR" not in out
    assert leg.maildrop.logins == [Login(asked, Secret("p"))]


def test_p20_the_session_itself_takes_no_prefix_off() -> None:
    play = Play(MemoryMaildrop())
    play.greet()
    play.feed(b"USER recent:me\r\nPASS p\r\n")
    assert play.opens == [Open("recent:me", Secret("p"))]
